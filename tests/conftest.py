"""The fixtures that several test files share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.playing import Served, desktop_game, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """The simulated desktop, served to pages until the test ends."""
    with served(desktop_game(), tmp_path) as one:
        yield one
