"""Tables that describe recordings: csv, and parquet and Arrow files through pyarrow, which only this file knows."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from data_pipeline.schema import DataError


def read_table(path: Path, columns: Mapping[str, tuple[str, ...]], needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a csv or parquet file, as {our name: value or None}.

    `columns` says by which names a column of ours may go; DataError where one of the `needed` ones has none of them.
    """
    names = column_names(path) if path.suffix == ".parquet" else _csv_names(path)
    found = {ours: next((name for name in theirs if name in names), None) for ours, theirs in columns.items()}
    for ours in needed:
        if found[ours] is None:
            raise DataError(f"{path.name} has no column {' or '.join(columns[ours])}; it has {', '.join(names)}")
    wanted = [name for name in found.values() if name]
    for row in parquet_rows(path, wanted) if path.suffix == ".parquet" else _csv_rows(path):
        yield {ours: row.get(name) if name else None for ours, name in found.items()}


def column_names(path: Path) -> list[str]:
    """The columns of a parquet file; DataError where it is none."""
    return list(_parquet_file(path).schema_arrow.names)


def parquet_rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, only those columns, a batch of them in memory at a time."""
    for batch in _parquet_file(path).iter_batches(columns=columns):
        yield from batch.to_pylist()


def row_values(path: Path, columns: list[str]) -> list[list[dict[str, Any]]]:
    """Some columns of a parquet file, by row group and row: small ones, to know what is where."""
    file = _parquet_file(path)
    return [file.read_row_group(i, columns=columns).to_pylist() for i in range(file.num_row_groups)]


def parquet_row(path: Path, group: int, row: int, columns: list[str]) -> dict[str, Any]:
    """One row of a parquet file; DataError where it cannot be read."""
    try:
        found: dict[str, Any] = _parquet_file(path).read_row_group(group, columns=columns).slice(row, 1).to_pylist()[0]
    except (ValueError, OSError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    return found


def parquet_column(path: Path, columns: list[str], where: tuple[str, Any]) -> dict[str, list[Any]]:
    """Columns of a parquet file, only the rows in which the column `where[0]` is `where[1]`."""
    name, value = where
    try:
        found: dict[str, list[Any]] = (
            _parquet().read_table(path, columns=columns, filters=[(name, "=", value)]).to_pydict()
        )
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    return found


def arrow_length(path: Path) -> int:
    """How many rows an Arrow file has; DataError where it is none."""
    return sum(batch.num_rows for batch in _arrow_batches(path))


def arrow_rows(path: Path, name: str) -> Iterator[Any]:
    """A column of an Arrow file row by row: numbers, bytes, or arrays; "a/b" is the field b of the column a.

    The file is mapped into memory, and of a batch of rows only that column is read.
    """
    first, *inner = name.split("/")
    for batch in _arrow_batches(path):
        try:
            column = batch.column(first)
            for part in inner:
                column = column.field(part)
        except (KeyError, ValueError, AttributeError):
            raise DataError(f"{path.name} has no {name}") from None
        yield from _rows(column)


def _rows(column: Any) -> Iterable[Any]:
    from pyarrow import types

    if types.is_fixed_size_list(column.type) and not column.null_count:
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return column.to_pylist()


def _arrow_batches(path: Path) -> Iterator[Any]:
    _parquet()
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            reader = pyarrow.ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is one
        raise DataError(f"{path.name} is not an Arrow file that can be read: {error}") from None


def write_parquet(path: Path, groups: Iterable[Mapping[str, Any]], index: str = "") -> None:
    """Write columns {name: values} as a parquet file, one row group each; `index` is the column that pandas takes as such.

    Values of shape (T, n) become lists of a fixed length; all groups have the same columns.
    """
    parquet = _parquet()
    import pyarrow

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    try:
        for group in groups:
            table = pyarrow.table({name: _column(values) for name, values in group.items()})
            if index:
                table = table.replace_schema_metadata({"pandas": json.dumps(_pandas_says(table, index))})
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _column(values: Any) -> Any:
    import pyarrow

    if getattr(values, "ndim", 1) == 2:
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])
    return pyarrow.array(values)


def _pandas_says(table: Any, index: str) -> dict[str, Any]:
    """What pandas writes beside a table, so that it finds its index again."""
    columns = [
        {"name": name, "field_name": name, "pandas_type": str(kind), "numpy_type": str(kind), "metadata": None}
        for name, kind in zip(table.schema.names, table.schema.types, strict=True)
    ]
    return {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}


def _parquet() -> ModuleType:
    """pyarrow.parquet; DataError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError("parquet needs pyarrow: pip install 'wm[importing]'") from None
    return pyarrow.parquet


def _parquet_file(path: Path) -> Any:
    try:
        return _parquet().ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
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
