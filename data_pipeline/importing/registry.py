"""Every format there is to import: a new one is its file and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.importing.captioned import open_cosmos, open_table, open_video2dataset
from data_pipeline.importing.neuralos import open_neuralos
from data_pipeline.importing.recording import Source


@dataclass(frozen=True)
class Importer:
    """How a source of one kind opens, and what to point it at."""

    open: Callable[[Path], Source]  # DataError where the whole source is not what it should be
    source: str  # what SOURCE is, for the help


IMPORTERS = {
    "neuralos": Importer(open_neuralos, "a folder with videos/record_N.mp4 and actions/record_N.csv"),
    "table": Importer(open_table, "a csv or parquet file of videos with captions, as of Open-Sora or OpenVid"),
    "cosmos": Importer(open_cosmos, "a folder with videos/*.mp4 and metas/*.txt"),
    "video2dataset": Importer(open_video2dataset, "a tar with key.mp4 and key.txt or key.json, or a folder of such"),
}
