"""What the rollout tests share: a server in a thread, a page's end of the socket, and worlds small enough to be exact."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from websockets.sync.client import ClientConnection, connect

from data_pipeline.controls import Controls, Event
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.schema import to_action
from tools.actions import Beginning
from tools.client import Client
from tools.gate import Limits
from tools.recorder import Recorder, Recording
from tools.server import Hall, address, listen, make_server
from tools.session import Context, EnvironmentDream, EnvironmentSession, Game, Rows
from wm.artifact import FORMAT_VERSION, DenoiserWeights, Manifest, World
from wm.config import to_dict
from wm.flow import FlowConfig
from wm.models.denoiser import DenoiserConfig, WorldShape
from wm.models.dit import DiTConfig
from wm.models.vae import VideoVAEConfig

FPS = 40.0
PATIENCE = 60.0  # seconds for what comes at once, on a machine that does much else
SCRIPT = [
    Controls((10, 58)),
    Controls((10, 60), (Event("press", "left"), Event("release", "left"))),
    Controls((40, 30), (Event("press", "KeyA"),)),
    Controls((41, 30), (Event("release", "KeyA"), Event("press", "left"))),
    Controls((60, 20)),
    Controls((60, 20), (Event("release", "left"),)),
]


def desktop(fps: float = FPS) -> DesktopSim:
    return DesktopSimConfig(fps=fps).build()


def real_frames(seed: int, controls: Sequence[Controls]) -> list[np.ndarray]:
    """What the desktop itself shows, with the past that a session gives it."""
    environment = desktop()
    frame, info = environment.reset(seed=seed)
    for _ in range(2):
        frame = environment.step(Controls(info["pointer"]))[0]
    return [frame, *(environment.step(one)[0] for one in controls)]


def desktop_game(open_dream: Callable[[], Any] | None = None, fps: float = FPS) -> Game:
    """The simulated desktop, played by itself or by what `open_dream` makes."""
    environment = desktop(fps)
    return Game(
        name="desktop_sim",
        space=environment.action_space,
        width=environment.config.width,
        height=environment.config.height,
        context_frames=3,
        models={"student": 2},
        open_dream=open_dream or (lambda: EnvironmentDream(desktop(fps), 3)),
        open_environment=lambda: desktop(fps),
    )


class Logged(EnvironmentDream):
    """A desktop that keeps what reached it, and waits or fails when told to."""

    def __init__(self) -> None:
        super().__init__(desktop(), 3)
        self.seen: list[Controls] = []
        self.wait = 0.0  # seconds a frame
        self.took: list[float] = []  # seconds each frame truly took, the wait included
        self.broken = False
        self.closed = False

    def reset(self, begin: Beginning, context: Context) -> np.ndarray:
        self.seen.clear()
        return super().reset(begin, context)

    def step(self, controls: Controls, row: Rows) -> np.ndarray:
        began = time.perf_counter()
        time.sleep(self.wait)
        if self.broken:
            raise ArithmeticError("the model broke")
        self.seen.append(controls)
        frame = super().step(controls, row)
        self.took.append(time.perf_counter() - began)
        return frame

    def close(self) -> None:
        self.closed = True
        super().close()


class Held(Logged):
    """One whose every frame takes until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def step(self, controls: Controls, row: Rows) -> np.ndarray:
        self.begun.set()
        assert self.go.wait(60)
        return super().step(controls, row)


class Served:
    """A running server."""

    def __init__(self, hall: Hall, url: str, server: uvicorn.Server) -> None:
        self.hall, self.url, self._server = hall, url, server
        self.host = url.removeprefix("http://").rstrip("/")

    def break_lines(self) -> None:
        """Every open line breaks, without a word to either end."""
        for line in list(self._server.server_state.connections):
            line.loop.call_soon_threadsafe(line.transport.abort)

    def page(self, open_first: bool = True, session: str = "", **headers: str) -> "Page":
        line = connect(
            f"ws://{self.host}/play",
            additional_headers=headers,
            open_timeout=PATIENCE,
            compression=None,
            max_size=None,
            max_queue=None,
        )
        return Page(line, open_first, session)


def get(server: Served, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers by their lower-case names and text of what `server` answers."""
    connection = http.client.HTTPConnection(server.host, timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


@contextlib.contextmanager
def served(
    game: Game,
    folder: Path,
    with_page: bool = True,
    make_recording: Callable[[Game, Path], Recording] = Recorder,
    **limits: float,
) -> Iterator[Served]:
    """A server of `game` on a free port, gone afterwards."""
    listener = listen("127.0.0.1", 0)
    limits = {"open_seconds": PATIENCE, "send_seconds": PATIENCE} | limits
    hall = Hall(game, folder, Limits(**limits), with_page=with_page, make_recording=make_recording)
    server = make_server(hall)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    try:
        yield Served(hall, address(listener), server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        hall.close()
        hall.models.shutdown(wait=True)
        assert not thread.is_alive(), "the server did not end"


class Page(Client):
    """A page's end of the socket, as an impatient program."""

    def __init__(self, socket: ClientConnection, open_first: bool = True, session: str = "") -> None:
        super().__init__(socket, patience=PATIENCE)
        if open_first:
            self.open(session=session)

    def lose(self) -> None:
        """The line breaks: no goodbye reaches the server."""
        self.socket.socket.shutdown(socket.SHUT_RDWR)

    def until_silence(self, seconds: float = 0.3) -> None:
        """Take frames until there are none; TimeoutError or ConnectionClosed says which end it was."""
        while True:
            self.frame(seconds)


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether `condition` comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def small_world(frames: int = 3) -> World:
    """An untrained model of the desktop whose frames depend on all that it is given; it dreams noise."""
    torch.manual_seed(0)
    environment = desktop()
    height, width = environment.config.height, environment.config.width
    vae = VideoVAEConfig(latent_channels=4, widths=(16, 24)).build()
    shape = WorldShape(
        action_space=environment.action_space,
        channels=4,
        rows=height // vae.stride,
        columns=width // vae.stride,
        stride=vae.stride,
    )
    settings = DenoiserConfig(dit=DiTConfig(hidden_size=32, depth=2, num_heads=2, window=6))
    models, cards = {}, {}
    for name, num_steps in (("student", 2), ("teacher", 3)):
        models[name] = settings.build(shape).eval().requires_grad_(False)
        for weight in models[name].parameters():
            weight.normal_(0, 0.2)
        cards[name] = DenoiserWeights(
            denoiser=settings,
            shape=shape,
            flow=FlowConfig(),
            mean=(0.0,) * 4,
            std=(1.0,) * 4,
            vae_hash="0" * 16,
            context_level=0.05,
            sampler="consistency" if name == "student" else "euler",
            num_steps=num_steps,
            shift=1.0,
        )
    start = EnvironmentSession(desktop(), frames).reset(seed=99)
    video = torch.from_numpy(start.frames.transpose(0, 3, 1, 2).copy())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        world="desktop_sim",
        fps=FPS,
        height=height,
        width=width,
        context_frames=frames,
        vae=vae.config,
        models=cards,
        environment=to_dict(environment.config),
        files={},
        versions={},
    )
    return World(manifest, vae.eval().requires_grad_(False), models, ((video, to_action(start.rows)),))
