"""What tests of several files start from, and the table of reliability cases (case_table.py)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.case_table import CaseTable
from tests.playing import Served, desktop_game, served


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=Path, help="write the table of reliability cases to this file")
    parser.addoption("--case-results", type=Path, help="keep in this file how their tests ended, over several runs")


def pytest_configure(config: pytest.Config) -> None:
    path, results = config.getoption("--cases"), config.getoption("--case-results")
    shares_tests = hasattr(config, "workerinput")  # of pytest-xdist: another process hears how all tests end
    if (path is not None or results is not None) and not shares_tests:
        config.pluginmanager.register(CaseTable(path, results))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A stage that a test ran in this process told torch its number of threads; sums over others round otherwise."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """The simulated desktop, served to pages until the test ends."""
    with served(desktop_game(), tmp_path) as one:
        yield one
