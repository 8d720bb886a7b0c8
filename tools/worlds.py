"""What can be played: an artifact's model, or an environment alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.controls import Controls
from data_pipeline.environments.environment import Environment
from data_pipeline.environments.registry import EnvironmentConfig
from data_pipeline.schema import to_action, to_rows
from tools.actions import Beginning
from tools.session import Context, EnvironmentDream, Game, Rows
from wm.artifact import Start, World, load
from wm.config import config, from_dict
from wm.rollout import WorldSession

REAL_TIME = ("x11_desktop",)  # kinds whose frames depend on the clock: their seed does not bring the same frames back


@config
class _EnvironmentTree:
    environment: EnvironmentConfig


class ModelDream:
    """A WorldSession with the face of a Dream."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.device = next(world.vae.parameters()).device
        self._session: WorldSession | None = None

    def reset(self, begin: Beginning, context: Context) -> np.ndarray:
        """The last frame of `context` (H, W, 3) uint8, as the model sees it."""
        self._session = WorldSession(self.world, model=begin.model, num_steps=begin.num_steps, seed=begin.seed)
        frames = torch.from_numpy(np.ascontiguousarray(context.frames.transpose(0, 3, 1, 2)))[None]
        return _picture(self._session.reset(frames.to(self.device), to_action(context.rows).to(self.device)))

    def step(self, controls: Controls, row: Rows) -> np.ndarray:
        """The next frame (H, W, 3) uint8."""
        assert self._session is not None, "reset comes before step"
        action = to_action({name: value[None] for name, value in row.items()})
        return _picture(self._session.step(action.to(self.device)))

    def close(self) -> None:
        """Let go of the session's memory; the world's weights stay with the other sessions."""
        self._session = None


def artifact_game(folder: Path, device: str = "cpu") -> Game:
    """The world in the artifact `folder`; ArtifactError where it cannot be used."""
    return world_game(load(folder, device))


def world_game(world: World) -> Game:
    """`world` ready to be played; without its environment where the artifact does not say what that was."""
    manifest = world.manifest
    tree = manifest.environment
    return Game(
        name=manifest.world,
        space=manifest.action_space,
        width=manifest.width,
        height=manifest.height,
        context_frames=manifest.context_frames,
        models={name: model.num_steps for name, model in manifest.models.items()},
        open_dream=lambda: ModelDream(world),
        open_environment=None if tree is None else opener(tree),
        starts=tuple(_context(start, manifest.width, manifest.height) for start in world.starts),
        repeats=tree is not None and tree.get("kind") not in REAL_TIME,
    )


def environment_game(tree: dict[str, Any], context_frames: int = 1) -> Game:
    """The environment that `tree` describes, alone: no model, the real frames in the place of dreamed ones."""
    open_environment = opener(tree)
    environment = open_environment()
    try:
        height, width = environment.reset(seed=0)[0].shape[:2]
        return Game(
            name=environment.name,
            space=environment.action_space,
            width=width,
            height=height,
            context_frames=context_frames,
            models={"student": 1},
            open_dream=lambda: EnvironmentDream(open_environment(), context_frames),
            open_environment=open_environment,
            repeats=tree.get("kind") not in REAL_TIME,
        )
    finally:
        environment.close()


def environment_alone(environment: Environment, open_environment: Callable[[], Environment]) -> Game:
    """What `open_environment` opens, without anything beside it; `environment` is one such, which is looked at."""
    height, width = environment.reset(seed=0)[0].shape[:2]
    return Game(
        name=environment.name,
        space=environment.action_space,
        width=width,
        height=height,
        context_frames=1,
        models={"student": 1},
        open_dream=None,
        open_environment=open_environment,
    )


def opener(tree: dict[str, Any]) -> Callable[[], Environment]:
    """What opens the environment that `tree` describes; ConfigError where it describes none."""
    return from_dict(_EnvironmentTree, {"environment": tree}).environment.build


def _context(start: Start, width: int, height: int) -> Context:
    frames, action = start
    rows = to_rows(action)
    x, y = np.floor(rows["pointer"][-1] * (width, height)).astype(int)
    pointer = (int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1)))
    return Context(frames.permute(0, 2, 3, 1).contiguous().numpy(), rows, pointer)


def _picture(frames: Tensor) -> np.ndarray:
    """The one frame of (1, 3, H, W) uint8 as (H, W, 3)."""
    return frames[0].permute(1, 2, 0).contiguous().cpu().numpy()
