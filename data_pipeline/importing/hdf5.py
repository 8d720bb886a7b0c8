"""HDF5 files of others, which only this file opens: plain arrays and groups, no links that lead out of the file."""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.importing.recording import BadEpisode
from data_pipeline.schema import DataError


def open_hdf5(path: Path) -> Any:
    """An h5py.File to read from, to be closed by whoever opened it; BadEpisode for what is none."""
    try:
        import h5py
    except ImportError:
        raise DataError("HDF5 needs h5py: pip install 'wm[importing]'") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise BadEpisode(f"{path.name} is not an HDF5 file that can be read: {error}") from None


def length(group: Any, name: str) -> int:
    """How many rows the array at a path inside of `group` has."""
    return int(_node(group, name).shape[0])


def array(group: Any, name: str, rows: slice | None = None) -> np.ndarray:
    """The array at a path inside of `group`, or some of its rows; BadEpisode where there is none or it lies elsewhere."""
    node = _node(group, name)
    try:
        return np.asarray(node[()] if rows is None else node[rows])
    except (OSError, ValueError) as error:
        raise BadEpisode(f"{name} cannot be read: {error}") from None


def _node(group: Any, name: str) -> Any:
    node = group
    for part in name.split("/"):
        link = node.get(part, getlink=True) if hasattr(node, "keys") else None
        if link is None:
            raise BadEpisode(f"has no {name}")
        if type(link).__name__ != "HardLink":
            raise BadEpisode(f"{name} is a link to elsewhere, which is not followed")
        node = node[part]
    if not getattr(node, "shape", ()) or node.external:
        raise BadEpisode(f"{name} is no array in this file")
    return node
