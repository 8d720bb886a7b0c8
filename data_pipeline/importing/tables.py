"""Tables that describe recordings: csv, and parquet through pyarrow, which only this file knows."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from data_pipeline.schema import DataError


def read_table(path: Path, columns: Mapping[str, tuple[str, ...]], needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a csv or parquet file, as {our name: value or None}.

    `columns` says by which names a column of ours may go; DataError where one of the `needed` ones has none of them.
    """
    names = _parquet_names(path) if path.suffix == ".parquet" else _csv_names(path)
    found = {ours: next((name for name in theirs if name in names), None) for ours, theirs in columns.items()}
    for ours in needed:
        if found[ours] is None:
            raise DataError(f"{path.name} has no column {' or '.join(columns[ours])}; it has {', '.join(names)}")
    rows = (
        _parquet_rows(path, [name for name in found.values() if name]) if path.suffix == ".parquet" else _csv_rows(path)
    )
    for row in rows:
        yield {ours: row.get(name) if name else None for ours, name in found.items()}


def parquet() -> ModuleType:
    """pyarrow.parquet; DataError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError("parquet needs pyarrow: pip install 'wm[importing]'") from None
    return pyarrow.parquet


def _parquet_names(path: Path) -> list[str]:
    return list(_parquet_file(path).schema_arrow.names)


def _parquet_rows(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    for batch in _parquet_file(path).iter_batches(columns=names):
        yield from batch.to_pylist()


def _parquet_file(path: Path) -> Any:
    try:
        return parquet().ParquetFile(path)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise DataError(f"{path.name} is not a parquet file: {error}") from None


def _csv_names(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), [])


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            yield from csv.DictReader(file)
        except csv.Error as error:
            raise DataError(f"{path.name} is not a csv file: {error}") from None
