"""A checkpoint is whole or absent, whatever byte, file or moment it is damaged at."""

import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from gloo_ranks import run_ranks

from tests.waiting import wait_for
from wm.engine import checkpoint, commit, lock
from wm.engine.checkpoint import CheckpointError
from wm.engine.commit import Keep
from wm.engine.lock import locked
from wm.engine.world import World

ROOT = Path(__file__).resolve().parent.parent
WORLD = World.single()
FORK = multiprocessing.get_context("fork")
TREE = {"stage": {"kind": "test"}, "loop": {"num_steps": 9}}


class Words:
    """A part of two files, one in a folder of its own."""

    def __init__(self, text: str = ""):
        self.text = text

    def save(self, folder: Path) -> None:
        (folder / "words.txt").write_text(self.text)
        (folder / "deep").mkdir()
        (folder / "deep" / "count.txt").write_text(str(len(self.text)))

    def load(self, folder: Path) -> None:
        self.text = (folder / "words.txt").read_text()


class Failing(Words):
    def save(self, folder: Path) -> None:
        super().save(folder)
        raise OSError(28, "No space left on device")


def write(root: Path, step: int, part: Words | None = None) -> Path:
    parts = {"words": part or Words(f"step {step}"), "more": Words("more")}
    return commit.save(root, step, parts, {"step": step, "cursor": 4 * step}, WORLD, TREE)


def read(folder: Path) -> tuple[dict[str, int], str]:
    words = Words()
    state = checkpoint.load(folder, {"words": words, "more": Words()}, WORLD)
    return state, words.text


def intact(root: Path) -> Path | None:
    found = checkpoint.newest_intact(root, WORLD)
    return None if found is None else found[0]


def test_what_was_saved_is_loaded(tmp_path: Path):
    folder = write(tmp_path, 3)
    assert folder == tmp_path / "step-3"
    assert read(folder) == ({"step": 3, "cursor": 12}, "step 3")
    assert [p.name for p in tmp_path.iterdir()] == ["step-3"]


def test_the_manifest_says_what_made_it(tmp_path: Path):
    body = checkpoint.manifest(write(tmp_path, 3))
    assert body["config"] == TREE
    assert body["world_size"] == 1
    assert body["versions"]["torch"]
    assert body["files"]["words/deep/count.txt"]["size"] == 1
    assert set(body["files"]) == {f"{p}/{f}" for p in ("words", "more") for f in ("words.txt", "deep/count.txt")}


def test_the_newest_is_computed_from_the_manifests(tmp_path: Path):
    assert checkpoint.latest(tmp_path / "nothing") is None
    for step in (9, 100, 20):
        write(tmp_path, step)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-100"
    (tmp_path / "step-200.partial").mkdir()
    (tmp_path / "step-300").mkdir()
    shutil.copytree(tmp_path / "step-20", tmp_path / "step-400.partial")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-100"


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other) and other.startswith(b"{")
    except ValueError:
        return False


@pytest.mark.case("C-03")
def test_every_flipped_byte_is_found_before_anything_is_loaded(tmp_path: Path):
    write(tmp_path, 1)
    folder = write(tmp_path, 2)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    generator = random.Random(0)
    for path in files:
        original = path.read_bytes()
        for _ in range(25):
            damaged = bytearray(original)
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            if not same_json(damaged, original):  # else it was a space in the manifest's layout
                with pytest.raises(CheckpointError, match=path.name):
                    read(folder)
        path.write_bytes(original)
    assert read(folder)[1] == "step 2"


@pytest.mark.case("C-03", "C-04")
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_newest_gives_way_with_a_warning(tmp_path: Path, damage: str, caplog):
    write(tmp_path, 1)
    folder = write(tmp_path, 2)
    path = folder / "words/words.txt"
    if damage == "flip":
        path.write_text("step 3")
    elif damage == "cut":
        path.write_text("step")
    elif damage == "remove":
        path.unlink()
    else:
        (folder / checkpoint.MANIFEST).write_text("{")
    assert intact(tmp_path) == tmp_path / "step-1"
    assert ("words.txt" in caplog.text) == (damage != "manifest")
    assert "step-2" in caplog.text


@pytest.mark.case("C-14")
def test_ranks_agree_where_the_listing_of_one_is_late(tmp_path: Path):
    said = run_ranks(str(ROOT / "tests" / "late_listing_worker.py"), [str(tmp_path)], 2, 120)
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank.pop("listed") for rank in ranks] == [["step-2", "step-1"], ["step-1"]], said
    assert ranks[0] == ranks[1] == {"found": "step-2", "state": {"step": 2}, "words": "step 2"}


def test_nothing_intact_is_an_error_and_nothing_saved_is_not(tmp_path: Path):
    assert checkpoint.newest_intact(tmp_path, WORLD) is None
    (write(tmp_path, 1) / "words/words.txt").write_text("step 2")
    with pytest.raises(CheckpointError, match="is intact"):
        checkpoint.newest_intact(tmp_path, WORLD)


@pytest.mark.case("C-05")
def test_a_failed_save_leaves_the_old_ones_and_nothing_else(tmp_path: Path):
    write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="No space left"):
        write(tmp_path, 2, Failing("x"))
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    assert read(write(tmp_path, 2))[1] == "step 2"


def test_a_step_that_is_saved_again_replaces_the_first(tmp_path: Path):
    write(tmp_path, 2)
    assert read(write(tmp_path, 2, Words("again")))[1] == "again"
    assert [p.name for p in tmp_path.iterdir()] == ["step-2"]


@pytest.mark.case("C-07")
def test_retention_keeps_the_newest_and_touches_only_ours(tmp_path: Path):
    for step in range(1, 6):
        write(tmp_path, step)
    for name in ("step-9.partial", "step-1.deleted", "step-10", "step-x", "notes"):
        (tmp_path / name).mkdir(exist_ok=True)
    commit.retain(tmp_path, Keep(2), WORLD)
    assert {p.name for p in tmp_path.iterdir()} == {"step-4", "step-5", "step-10", "step-x", "notes"}
    commit.retain(tmp_path, Keep(0), WORLD)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-5"


@pytest.mark.case("C-07")
def test_retention_keeps_every_so_many_steps_too(tmp_path: Path):
    for step in range(1, 12):
        write(tmp_path, step)
        commit.retain(tmp_path, Keep(last=2, every=4), WORLD, saved=step)
    assert {p.name for p in tmp_path.iterdir()} == {"step-4", "step-8", "step-10", "step-11"}


def test_other_parts_are_refused(tmp_path: Path):
    folder = write(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"holds the parts \['more', 'words'\]; this run has \['words'\]"):
        checkpoint.load(folder, {"words": Words()}, WORLD)


@pytest.mark.case("C-17")
def test_another_format_is_refused(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(commit, "FORMAT_VERSION", 7)
        folder = write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="format 7"):
        read(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", [".", "manifest.json", "words", "words/deep/count.txt"])
def test_what_belongs_to_another_user_is_loaded_on_demand_only(tmp_path: Path, name: str):
    write(tmp_path, 1)
    folder = write(tmp_path, 2)
    os.chown(folder / name, 12345, 12345)
    for attempt in (lambda: checkpoint.newest_intact(tmp_path, WORLD), lambda: read(folder)):
        with pytest.raises(CheckpointError, match=r"step-2.* belongs to user 12345, .*--trust-checkpoint"):
            attempt()
    found = checkpoint.newest_intact(tmp_path, WORLD, trust=True)
    assert found is not None
    assert found[0] == folder
    assert checkpoint.load(folder, {"words": Words(), "more": Words()}, WORLD, trust=True)["step"] == 2
    (folder / "words/more.txt").write_text("x")  # trust is of people: what nobody vouches for is still refused
    with pytest.raises(CheckpointError, match="not in the manifest"):
        checkpoint.load(folder, {"words": Words(), "more": Words()}, WORLD, trust=True)


def hold(root: Path, started: Any) -> None:
    with locked(root, WORLD):
        started.set()
        time.sleep(60)


@pytest.mark.case("C-13")
def test_a_folder_in_use_is_refused_and_that_of_a_killed_run_is_free(tmp_path: Path):
    started = FORK.Event()
    holder = FORK.Process(target=hold, args=(tmp_path, started))
    holder.start()
    try:
        assert started.wait(60)
        with (
            pytest.raises(CheckpointError, match=f"in use by process {holder.pid} on "),
            locked(tmp_path, WORLD, wait_seconds=0.2),
        ):
            pass
    finally:
        holder.kill()
        holder.join()
    with locked(tmp_path, WORLD, wait_seconds=0.2):
        pass


@pytest.mark.case("L-02")
def test_a_folder_that_is_revoked_is_free_at_once_and_its_holder_is_told(tmp_path: Path):
    with locked(tmp_path, WORLD) as first:
        first()
        assert not lock.wait_until_free(tmp_path, 0.0)
        lock.revoke(tmp_path)
        assert lock.wait_until_free(tmp_path, 0.0)
        with locked(tmp_path, WORLD, wait_seconds=0.0) as second:
            second()
            with pytest.raises(CheckpointError, match="was given to another run, which goes on from its checkpoints"):
                first()
        (tmp_path / lock.NAME).unlink()
        first()  # nobody else has it


class Twenty:
    """Twenty files, so that a kill falls between two of them."""

    def save(self, folder: Path) -> None:
        for i in range(20):
            (folder / str(i)).write_bytes(bytes(1000))

    def load(self, folder: Path) -> None:
        assert len(list(folder.iterdir())) == 20


def save_without_end(root: Path, step: int, reported: Any) -> None:
    while True:
        step += 1
        commit.save(root, step, {"twenty": Twenty()}, {"step": step}, WORLD, {})
        reported.value = step
        commit.retain(root, Keep(2), WORLD)


@pytest.mark.case("C-01")
def test_killed_at_any_moment_the_newest_is_whole(tmp_path: Path):
    """Whatever was reported as saved is there or was followed by a newer one; nothing needs a hand."""
    generator = random.Random(0)
    reported = FORK.Value("q", 0, lock=False)  # a lock would stay with a child that is killed while it has it
    for _ in range(12):
        before = reported.value
        child = FORK.Process(target=save_without_end, args=(tmp_path, before, reported))
        child.start()
        wait_for(lambda before=before: reported.value > before, "a checkpoint", 60, pause=0.001)
        time.sleep(generator.uniform(0.0, 0.05))
        child.kill()
        child.join()
        newest = intact(tmp_path)
        assert newest is not None
        step = checkpoint.load(newest, {"twenty": Twenty()}, WORLD)["step"]
        assert step >= reported.value > before
        reported.value = step
