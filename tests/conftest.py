"""What tests of several files start from, and the table of reliability cases (cases.py)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases import CaseTable
from tests.playing import Served, desktop_game, served


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=Path, help="write the table of reliability cases to this file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--cases")
    if path is not None:
        config.pluginmanager.register(CaseTable(path))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """The simulated desktop, served to pages until the test ends."""
    with served(desktop_game(), tmp_path) as one:
        yield one
