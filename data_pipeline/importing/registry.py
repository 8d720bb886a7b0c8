"""Every format there is to import: a new one is its file and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.importing.neuralos import open_neuralos
from data_pipeline.importing.recording import Source


@dataclass(frozen=True)
class Importer:
    """How a source of one kind opens, and what to point it at."""

    open: Callable[[Path], Source]  # DataError where the whole source is not what it should be
    source: str  # what SOURCE is, for the help


IMPORTERS = {
    "neuralos": Importer(open_neuralos, "a folder with videos/record_N.mp4 and actions/record_N.csv"),
}
