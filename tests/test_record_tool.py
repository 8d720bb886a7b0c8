"""A person records: what the page sent is in the dataset, what was typed behind the switch is nowhere, and it says whose it is."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.controls import Controls, ControlsLog, Event
from data_pipeline.environments.desktop_sim import DesktopSim, DesktopSimConfig
from data_pipeline.environments.environment import Environment
from data_pipeline.lint.dataset import lint
from data_pipeline.schema import DataError
from data_pipeline.shards import Dataset
from tests.browser import chromium, needs_chromium
from tests.playing import SCRIPT, served, within
from tools import dataset_recorder, record
from tools.actions import Row
from tools.dataset_recorder import DatasetRecorder, Origin
from tools.redaction import Redaction, writes
from tools.session import Game
from tools.worlds import environment_alone
from wm.batch import HELD, PRESSED, ActionSpace
from wm.config import to_dict

KEYS = ("KeyA", "KeyS", "KeyX", "Space", "Enter", "Backspace")
FPS = 20.0


def desktop() -> DesktopSim:
    return DesktopSimConfig(fps=FPS, keys=KEYS).build()


class Short(DesktopSim):
    """A desktop whose episodes end after three steps."""

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return super().reset(**arguments)

    def step(self, action: Controls) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        frame, reward, _, truncated, info = super().step(action)
        return frame, reward, self.steps == 3, truncated, info


def short() -> Environment:
    return Short(DesktopSimConfig(fps=FPS, keys=KEYS))


def alone() -> Game:
    return environment_alone(desktop(), desktop)


def by_ann(game: Game, folder: Path) -> DatasetRecorder:
    tree = {"kind": "desktop_sim", "fps": FPS, "keys": list(KEYS)}
    return DatasetRecorder(game, folder, record.origin_of(desktop(), tree, "Ann Lee", "CC-BY-4.0"))


def typed(*keys: str) -> tuple[Event, ...]:
    return tuple(event for key in keys for event in (Event("press", key), Event("release", key)))


def seen(controls: list[Controls], seed: int) -> np.ndarray:
    """The frames of the environment itself."""
    environment = desktop()
    environment.reset(seed=seed)
    return np.stack([environment.step(one)[0] for one in controls])


def recorded(page: Any, controls: list[Controls]) -> None:
    page.say(kind="record", on=True)
    assert page.hear("recording")["on"] is True
    for one in controls:
        page.step(one)
    page.say(kind="record", on=False)


def test_what_was_done_is_in_the_dataset_with_who_when_and_under_which_licence(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    with served(alone(), tmp_path / "ann", make_recording=by_ann) as server, server.page() as page:
        assert page.hello["dreams"] is False
        page.begin("lockstep", seed=11)
        page.step(SCRIPT[0])
        recorded(page, SCRIPT[1:])
        saved = page.hear("saved")
    dataset = Dataset.open(tmp_path / "ann")
    assert (Path(saved["actions"]), Path(saved["video"])) == (
        dataset.folder / "dataset.json",
        dataset.folder / "00000.tar",
    )
    sample = dataset.read(0)
    assert np.array_equal(sample.video, seen(SCRIPT, 11)[1:])
    folding = ControlsLog(dataset.manifest.action_space, 96, 64)
    rows = [folding.row(one) for one in SCRIPT][1:]
    for name in sample.actions:
        assert np.array_equal(sample.actions[name], np.stack([row[name] for row in rows])), name
    assert sample.meta["first_frame"] == 1
    assert len(sample.meta["state"]) == len(rows)
    assert not any(sample.meta["redacted"])
    source = json.loads((dataset.folder / "dataset.json").read_text())["source"]
    made = source["recordings"]["00000.tar"]
    assert (made["recorded_by"], made["licence"]) == ("Ann Lee", "CC-BY-4.0")
    when = datetime.fromisoformat(made["recorded_at"])
    assert before - timedelta(seconds=1) <= when <= datetime.now(UTC)
    assert made.items() <= sample.meta.items()
    assert (source["name"], source["policy"]) == ("desktop_sim", "person")
    assert lint([dataset.folder]).findings == []
    assert {path.suffix for path in dataset.folder.iterdir()} <= {".tar", ".json", ".recording", ""}


def test_a_dataset_grows_by_every_recording_and_refuses_another_world(tmp_path: Path) -> None:
    with served(alone(), tmp_path / "ann", make_recording=by_ann) as server:
        for number in range(2):
            with server.page() as page:
                page.begin("lockstep", seed=number)
                recorded(page, SCRIPT)
                page.hear("saved")
    dataset = Dataset.open(tmp_path / "ann")
    dataset.verify()
    assert [len(dataset.read(clip)) for clip in range(2)] == [len(SCRIPT)] * 2
    assert len({clip.key for clip in dataset.clips}) == 2
    assert set(dataset.manifest.source["recordings"]) == {"00000.tar", "00001.tar"}
    slower = environment_alone(DesktopSimConfig(fps=5.0).build(), desktop)
    with pytest.raises(DataError, match="record into another folder"):
        dataset_recorder.fits(tmp_path / "ann", slower)


def test_a_long_recording_goes_on_in_another_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_recorder, "CLIP_FRAMES", 4)
    with served(alone(), tmp_path / "ann", make_recording=by_ann) as server, server.page() as page:
        page.begin("lockstep", seed=3)
        recorded(page, SCRIPT)
        page.hear("saved")
    dataset = Dataset.open(tmp_path / "ann")
    assert [len(dataset.read(clip)) for clip in range(2)] == [4, 2]
    assert np.array_equal(np.concatenate([dataset.frames(clip) for clip in range(2)]), seen(SCRIPT, 3))
    assert dataset.read(1).actions["buttons"][0, 0, HELD] == 1, "what is held goes on too"


def test_what_is_typed_behind_the_switch_reaches_nothing(tmp_path: Path) -> None:
    places = [(48, 32), (20, 30), (70, 12)]
    secret = [Controls(places[0], typed("KeyA", "KeyS")), Controls(places[1], typed("Space", "KeyA", "Enter"))]
    hidden = [Controls(places[0], typed("KeyX", "KeyX")), Controls(places[1], typed("KeyX", "KeyX", "Enter"))]
    plain = [Controls(places[2], typed("KeyS"))]
    with served(alone(), tmp_path / "ann", make_recording=by_ann) as server, server.page() as page:
        page.begin("lockstep", seed=5)
        page.say(kind="record", on=True)
        page.say(kind="redact", on=True)
        assert page.hear("redacting")["on"] is True
        frames = [page.step(one) for one in secret]
        page.say(kind="redact", on=False)
        page.hear("redacting")
        frames.append(page.step(plain[0]))
        page.say(kind="record", on=False)
        page.hear("saved")
    sample = Dataset.open(tmp_path / "ann").read(0)
    assert np.array_equal(np.stack(frames), seen(hidden + plain, 5)), "the world itself saw nothing else"
    assert np.array_equal(sample.video, np.stack(frames))
    presses = {name: sample.actions["keys"][:, i, PRESSED].tolist() for i, name in enumerate(KEYS)}
    assert presses == {
        "KeyA": [0, 0, 0],
        "KeyS": [0, 0, 1],
        "KeyX": [2, 2, 0],
        "Space": [0, 0, 0],
        "Enter": [0, 1, 0],
        "Backspace": [0, 0, 0],
    }
    assert sample.meta["redacted"] == [True, True, False]
    assert lint([tmp_path / "ann"]).findings == []


def test_a_hand_in_real_time_is_recorded_and_redacted(tmp_path: Path) -> None:
    with served(alone(), tmp_path / "ann", make_recording=by_ann) as server, server.page() as page:
        page.begin("realtime", seed=1)
        page.say(kind="record", on=True)
        page.hear("recording")
        page.say(kind="redact", on=True)
        page.say(kind="pointer", x=31, y=17)
        for target in ("KeyA", "left", "KeyS"):
            page.say(kind="press", target=target)
        for target in ("KeyA", "left", "KeyS"):
            page.say(kind="release", target=target)
        for _ in range(6):
            page.frame()
        page.say(kind="record", on=False)
        page.hear("saved")
    sample = Dataset.open(tmp_path / "ann").read(0)
    keys, buttons = sample.actions["keys"], sample.actions["buttons"]
    assert keys[:, KEYS.index("KeyX"), PRESSED].sum() == 2
    assert keys[:, [KEYS.index("KeyA"), KEYS.index("KeyS")]].sum() == 0
    assert buttons[:, 0, PRESSED].sum() == 1
    assert not keys[-1, :, HELD].any()
    assert not buttons[-1, :, HELD].any()
    x, y = sample.actions["pointer"][-1] * (96, 64) - 0.5
    assert (round(float(x)), round(float(y))) == (31, 17)
    assert "times" not in sample.meta, "a world without a clock is never late"


def test_an_episode_that_ends_is_kept_and_the_page_is_told(tmp_path: Path) -> None:
    game = environment_alone(short(), short)
    with served(game, tmp_path / "ann", make_recording=by_ann) as server, server.page() as page:
        page.begin("lockstep", seed=1)
        page.say(kind="record", on=True)
        page.hear("recording")
        for one in SCRIPT[:2]:
            page.step(one)
        page.say(kind="step", row=to_dict(Row.of(SCRIPT[2])))
        page.hear("saved")
        assert page.hear("error")["code"] == "ended"
        page.begin("lockstep", seed=2)
        page.step(SCRIPT[0])
    assert len(Dataset.open(tmp_path / "ann").read(0)) == 3


@pytest.mark.parametrize("seed", range(20))
def test_redaction_keeps_presses_and_releases_in_order_whatever_is_held(seed: int) -> None:
    rng = random.Random(seed)
    redaction = Redaction(ActionSpace(keys=(*KEYS, "ShiftLeft"), buttons=("left",)))
    down: set[str] = set()  # by the hand
    held: set[str] = set()  # in the world
    for _ in range(200):
        if rng.random() < 0.1:
            redaction.on = not redaction.on
        target = rng.choice([*KEYS, "ShiftLeft", "left"])
        kind = "release" if target in down else "press"
        (down.discard if target in down else down.add)(target)
        for event in redaction.event(Event(kind, target), held):
            if redaction.on and event.kind == "press":
                assert event.target == "KeyX" or not writes(event.target)
            (held.add if event.kind == "press" else held.discard)(event.target)
    for target in sorted(down):
        for event in redaction.event(Event("release", target), held):
            held.discard(event.target)
    assert held == set()


def test_keys_that_write_are_told_from_those_that_do_not() -> None:
    assert all(writes(key) for key in ("KeyQ", "Digit0", "Numpad3", "Space", "Quote", "IntlBackslash"))
    assert not any(writes(key) for key in ("Enter", "NumpadEnter", "Backspace", "ArrowUp", "F1", "Escape", "left"))
    assert Redaction(ActionSpace(keys=("ArrowUp", "KeyW", "Space"))).stand_in == "KeyW"
    assert Redaction(ActionSpace(keys=("ArrowUp",))).stand_in == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such", "--by", "Ann", "--licence", "MIT"], "no_such"),
        (["desktop_sim", "fps=3", "--by", "Ann", "--licence", "MIT"], "where a file gives them"),
        (["desktop_sim", "--by", " ", "--licence", "MIT"], "--by is ' '"),
        (["desktop_sim", "--by", "Ann", "--licence", "a\nb"], "--licence is"),
        (["configs/smoke/vae.yaml", "--by", "Ann", "--licence", "MIT"], "no record stage"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record.main([*arguments, "--out", str(tmp_path / "out"), "--port", "0"]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_the_file_of_a_record_stage_names_an_environment() -> None:
    tree = record.environment_tree("configs/smoke/record.yaml", ["stage.environment.fps=7"])
    assert (tree["kind"], tree["fps"]) == ("desktop_sim", 7.0)


@needs_chromium
def test_a_person_at_the_page_records_and_hides_what_is_typed(tmp_path: Path) -> None:
    with served(alone(), tmp_path / "ann", make_recording=by_ann) as server, chromium(tmp_path / "profile") as tab:
        tab.open(server.url)
        tab.wait("document.getElementById('dreamed').dataset.frame >= 1")
        assert tab.ask("document.getElementById('dreamed-caption').textContent") == "real"
        box = tab.ask(
            "(() => { const b = document.getElementById('dreamed').getBoundingClientRect(); return [b.left, b.top]; })()"
        )
        tab.ask("document.getElementById('record').click()")
        tab.wait("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
        number = int(tab.ask("document.getElementById('dreamed').dataset.frame"))
        # Its first frame is of before what is done, or nothing changes in it: a busy page may send all of that at once.
        tab.wait(f"document.getElementById('dreamed').dataset.frame > {number + 3}")
        for kind, button in (("mouseMoved", "none"), ("mousePressed", "left"), ("mouseReleased", "left")):
            tab.mouse(kind, box[0] + 60, box[1] + 60, button=button)
        tab.key("keyDown", "KeyA", text="a")
        tab.key("keyUp", "KeyA")
        number = int(tab.ask("document.getElementById('dreamed').dataset.frame"))
        # What was done is seen in what was recorded, on a busy machine too.
        tab.wait(f"document.getElementById('dreamed').dataset.frame > {number + 5}")
        tab.ask("document.getElementById('redact').click()")
        play = next(iter(server.hall.cloakroom.seats.values())).play
        assert within(20, lambda: play.redaction.on)
        tab.key("keyDown", "KeyS", text="s")
        tab.key("keyUp", "KeyS")
        number = int(tab.ask("document.getElementById('dreamed').dataset.frame"))
        tab.wait(f"document.getElementById('dreamed').dataset.frame > {number + 3}")
        tab.ask("document.getElementById('record').click()")
        tab.wait("document.getElementById('saved').textContent.includes('dataset.json')")
        assert tab.complaints() == []
    sample = Dataset.open(tmp_path / "ann").read(0)
    presses = dict(zip(KEYS, sample.actions["keys"][..., PRESSED].sum(0).tolist(), strict=True))
    assert presses == {"KeyA": 1, "KeyS": 0, "KeyX": 1, "Space": 0, "Enter": 0, "Backspace": 0}
    assert sample.actions["buttons"][:, 0, PRESSED].sum() == 1
    assert [finding for finding in lint([tmp_path / "ann"]).findings if finding.severity == "error"] == []


def test_a_disk_that_is_full_costs_the_recording_and_not_the_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DataError("no space left to write the shard")

    monkeypatch.setattr(dataset_recorder, "write_shard", full)
    with served(alone(), tmp_path / "ann", make_recording=by_ann) as server, server.page() as page:
        page.begin("lockstep")
        recorded(page, SCRIPT[:2])
        assert "no space left" in page.hear("error")["message"]
        page.step(SCRIPT[2])
    assert not (tmp_path / "ann/dataset.json").exists()


def test_an_origin_needs_a_name_and_a_licence() -> None:
    with pytest.raises(ValueError, match="without which nobody may use it"):
        Origin("Ann", "", {}, "desktop_sim", "1")
