"""Every format there is to import: a new one is its file and a line here."""

from collections.abc import Callable
from dataclasses import dataclass

from data_pipeline.importing.captioned import open_cosmos, open_table, open_video2dataset
from data_pipeline.importing.csgo import open_csgo
from data_pipeline.importing.fastvideo import open_fastvideo
from data_pipeline.importing.lerobot import open_lerobot
from data_pipeline.importing.minari import open_minari
from data_pipeline.importing.neuralos import open_neuralos
from data_pipeline.importing.recording import Source
from data_pipeline.importing.vpt import open_vpt


@dataclass(frozen=True)
class Importer:
    """How a source of one kind opens, and what to point it at."""

    open: Callable[..., Source]  # of the path, and of a view where there are several
    source: str  # what SOURCE is, for the help
    has_views: bool = False  # whether one of several pictures of the same moment can be chosen


IMPORTERS = {
    "neuralos": Importer(open_neuralos, "a folder with videos/record_N.mp4 and actions/record_N.csv"),
    "table": Importer(open_table, "a csv or parquet file of videos with captions, as of Open-Sora or OpenVid"),
    "cosmos": Importer(open_cosmos, "a folder with videos/*.mp4 and metas/*.txt"),
    "video2dataset": Importer(open_video2dataset, "a tar with key.mp4 and key.txt or key.json, or a folder of such"),
    "lerobot": Importer(open_lerobot, "a folder with a LeRobot dataset v3.0", has_views=True),
    "minari": Importer(
        open_minari, "a folder with a Minari dataset that has pictures, in HDF5 or Arrow; needs --fps", has_views=True
    ),
    "csgo": Importer(open_csgo, "a folder with DIAMOND's Counter-Strike files, *.hdf5"),
    "fastvideo": Importer(open_fastvideo, "a parquet file of FastVideo with latents, or a folder of such"),
    "vpt": Importer(open_vpt, "a folder with OpenAI's Minecraft recordings, *.mp4 and *.jsonl"),
}
