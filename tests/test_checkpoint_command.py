"""The command that looks at checkpoints: it tells whole from damaged, names the file, and changes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_checkpoint import ROOT, write

from wm.engine.checkpoint_command import main


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (9, 100, 20):
        write(tmp_path / "checkpoints", step)
    return tmp_path


def test_list_is_newest_first_and_marks_the_newest(run: Path, capsys):
    before = content(run)
    assert main(["list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["step-100", "step-20", "step-9"]
    assert [line.endswith("newest") for line in lines] == [True, False, False]
    assert "4 files, 14 B, 1 rank," in lines[0]
    assert content(run) == before


@pytest.mark.case("C-04")
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "manifest"])
def test_verify_names_what_is_damaged(run: Path, damage: str, capsys):
    assert main(["verify", str(run)]) == 0
    assert capsys.readouterr().out.count("intact") == 3
    path = run / "checkpoints/step-20/words/words.txt"
    if damage == "flip":
        path.write_text("step 21")
    elif damage == "cut":
        path.write_text("step")
    elif damage == "remove":
        path.unlink()
    elif damage == "add":
        path = path.with_name("rank-00007.safetensors")
        path.write_text("foreign")
    else:
        path = run / "checkpoints/step-20/manifest.json"
        path.write_text("{}")
    assert main(["verify", str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].strip(",:") for line in lines] == ["intact", "damaged", "intact"]
    assert path.name in lines[1]
    assert main(["list", str(run)]) == (0 if damage in ("flip", "add") else 1)  # contents are not read
    assert main(["verify", str(run), "--step", "100"]) == 0


def test_show_tells_the_manifest_of_the_newest_whole_one(run: Path, capsys):
    (run / "checkpoints/step-100/more/words.txt").unlink()
    assert main(["show", str(run)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["step"], shown["state"]["cursor"]) == (20, 80)
    assert shown["parts"] == {"more": "5 B", "words": "8 B"}


def test_a_folder_without_checkpoints_is_one_line(tmp_path: Path, capsys):
    assert main(["list", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no checkpoint; give a run's folder")


def test_it_runs_as_a_module(run: Path):
    command = [sys.executable, "-m", "wm.engine.checkpoint", "verify", str(run / "checkpoints/step-9")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "step-9 intact, 4 files, 12 B\n"
