"""Files that are whole or absent."""

from pathlib import Path

import pytest

from wm.durable import sync, write_text


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_text(path, "one")
    write_text(path, "two é\n")
    assert path.read_text() == "two é\n"
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "three " * 10_000 + "\udc80")
    assert path.read_text() == "two é\n"
    write_text(path, "four")
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_what_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")
