"""Tables in files, a batch of rows and only the columns that are wanted at a time: Parquet, Arrow, CSV; a folder."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.ipc as arrow_ipc
import pyarrow.parquet as arrow_parquet

from jaxridge.distributed.sources import Batch, Source, Unreadable, rows_dtype, rows_of

__all__ = ["Table", "files_of", "table"]

BUFFER = 2**18  # bytes of a column that are read from the disk at a time
FAILURES = (pa.ArrowException, OSError, ValueError, EOFError, KeyError)
KINDS = (".parquet", ".pq", ".arrow", ".feather", ".ipc", ".csv", ".tsv")


def files_of(path: Any) -> tuple[Path, ...]:
    """The tables of a folder and all folders in it, of a pattern such as ``data/2024-*.parquet``, or of one file."""
    text = str(path)
    if Path(text).is_dir():
        inside = (file.relative_to(text).parts for file in Path(text).rglob("*") if file.is_file())
        found = [Path(text, *parts) for parts in inside if not any(part[0] in "._" for part in parts)]
        found = [file for file in found if file.suffix.lower() in KINDS]
    else:
        found = [Path(text)] if Path(text).exists() else [Path(file) for file in glob.glob(text, recursive=True)]
    if not found:
        raise Unreadable(
            f"{text} is not a file, nor does it hold any; give a folder, a pattern or a file of {', '.join(KINDS)}."
        )
    unknown = [file for file in found if file.suffix.lower() not in KINDS]
    if unknown:
        raise Unreadable(f"{unknown[0]} is not of a known type; tables end in {', '.join(KINDS)}.")
    return tuple(sorted(found))


class Table(Source):
    """Rows of files with the same columns; see `table`."""

    def __init__(
        self, files: tuple[Path, ...], features: tuple[str, ...], y: tuple[str, ...], weights: str | None, batch: int
    ) -> None:
        self.files, self.names, self.target_names, self.weights, self.batch = files, features, y, weights, batch
        self.features, self.targets = len(features), len(y)
        self.used = [*features, *y, *([] if weights is None else [weights])]
        self.dtype = np.dtype(np.float64)

    @property
    def pieces(self) -> tuple[str, ...]:
        return tuple(map(str, self.files))

    def part(self, index: int, count: int) -> "Table":
        """Every ``count``-th file from the ``index``-th on, for one of as many processes."""
        files = self.files[index::count]
        if not files:
            raise Unreadable(
                f"{len(self.files)} files are too few for {count} parts; write more, or start fewer processes."
            )
        some = Table(files, tuple(self.used[: self.features]), self.target_names, self.weights, self.batch)
        some.dtype = self.dtype
        counts = [rows_in(file) for file in files]
        some.total = None if None in counts else sum(count or 0 for count in counts)
        return some

    def signature(self) -> str:
        sizes = [f"{file.name} {file.stat().st_size}" for file in self.files]
        return f"{super().signature()}; {self.used}; {self.batch} rows; {sizes}"

    def column(self, j: int) -> str:
        return repr(self.used[j])

    def read(self, piece: int, first: int = 0) -> Iterator[Batch]:
        """Whatever fails names the file and the row up to which it was read."""
        file, row = self.files[piece], 0
        try:
            for part in _batches(file, self.used, self.batch):
                if row >= first:
                    yield self._batch(file, part, row)
                row += part.num_rows
        except Unreadable:
            raise
        except FAILURES as error:
            raise Unreadable(f"{file} cannot be read beyond row {row}: {reason_of(error)}.") from None
        finally:
            pa.default_memory_pool().release_unused()

    def _batch(self, file: Path, part: pa.RecordBatch, row: int) -> Batch:
        d, t = self.features, self.targets or 1
        block = np.empty((len(self.used), part.num_rows), self.dtype)
        for j, column in enumerate(part.columns):
            block[j] = as_floats(column)
        return Batch(block[:d].T, block[d : d + t].T, block[d + t] if self.weights else None, row)


def table(
    path: Any,
    target: str | Sequence[str],
    *,
    weights: str | None = None,
    drop: Sequence[str] = (),
    features: Sequence[str] | None = None,
    batch: int | None = None,
) -> Table:
    """Rows of tables in files: a folder, a pattern with *, or one file of Parquet, Arrow (IPC), CSV or TSV.

    Args:
        target: the column to predict, or several. weights: the column of row weights >= 0.
        drop: columns to leave out. features: the columns to use; None takes all others of the first file.
        batch: rows at a time, None for some megabytes. Only columns that are used are read.

    Columns of floats with 32 bits or fewer, whole numbers up to 16 bits and booleans make float32 rows, others float64.
    Raises `Unreadable` for columns that are no numbers, and where no file can be read.
    """
    files = files_of(path)
    targets = (target,) if isinstance(target, str) else tuple(target)
    schema = next((found for found in map(_schema_or_none, files) if found is not None), None)
    if schema is None:
        raise Unreadable(f"{files[0]}: {why_not(files[0])}")
    others = [*targets, *drop, *([weights] if weights else [])]
    unknown = [name for name in [*others, *(features or ())] if name not in schema.names]
    if unknown:
        raise Unreadable(f"{path} has no column {unknown[0]!r}; it has {', '.join(map(repr, schema.names[:12]))}.")
    features = tuple(name for name in schema.names if name not in others) if features is None else tuple(features)
    if not features or not targets:
        raise Unreadable(f"{path} has no column left as a {'feature' if targets else 'target'}.")
    source = Table(files, features, targets, weights, batch or rows_of(len(features)))
    check_schema(files[0], schema, source.used)
    source.dtype = rows_dtype(*(_dtype(schema.field(name).type) for name in source.used))
    counts = [rows_in(file) for file in files]
    source.total = None if None in counts else sum(count or 0 for count in counts)
    return source


def check_schema(file: Path, schema: pa.Schema, names: Sequence[str]) -> None:
    """`Unreadable` for columns that a file lacks, or that are no numbers there."""
    for name in names:
        if name not in schema.names:
            raise Unreadable(f"{file} has no column {name!r}; it has {', '.join(map(repr, schema.names[:12]))}.")
        if not is_number(schema.field(name).type):
            raise Unreadable(
                f"{file}: column {name!r} is {schema.field(name).type}, no number; encode it, or leave it out."
            )


def is_number(of: pa.DataType) -> bool:
    """Whether a column is read as floats."""
    kinds = pa.types
    return any(f(of) for f in (kinds.is_boolean, kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_null))


def _dtype(of: pa.DataType) -> Any:
    if pa.types.is_boolean(of) or pa.types.is_null(of):
        return np.bool_
    return np.float64 if pa.types.is_decimal(of) else of.to_pandas_dtype()


def as_floats(column: pa.Array) -> np.ndarray:
    """A column with NaN for what is missing."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if not pa.types.is_floating(column.type) and (column.null_count or not pa.types.is_integer(column.type)):
        column = column.cast(pa.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False)


def _batches(file: Path, names: Sequence[str], batch: int) -> Iterator[pa.RecordBatch]:
    """Record batches of these columns, in order, not all of them of that length."""
    kind = file.suffix.lower()
    if file.stat().st_size == 0:
        raise Unreadable(f"{file} is empty, without even a schema.")
    if kind in (".parquet", ".pq"):
        # Not mapped: pages of a mapped file count as memory of the process, and a buffer holds what is decoded next.
        with arrow_parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as opened:
            check_schema(file, opened.schema_arrow, names)
            yield from opened.iter_batches(batch, columns=list(names), use_threads=False)
    elif kind in (".csv", ".tsv"):
        schema = schema_of(file)
        # What is no number is found by its row.
        check_schema(file, pa.schema([(column.name, _csv_type(column.type)) for column in schema]), names)
        with _open_csv(file, {name: _csv_type(schema.field(name).type) for name in names}) as opened:
            for part in opened:
                yield from _cut(part.select(names), batch)
    else:
        with pa.OSFile(str(file)) as stream:
            opened = arrow_ipc.open_file(stream, options=arrow_ipc.IpcReadOptions(use_threads=False))
            check_schema(file, opened.schema, names)
            for i in range(opened.num_record_batches):
                yield from _cut(opened.get_batch(i).select(names), batch)


def _cut(part: pa.RecordBatch, batch: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, part.num_rows, batch):
        yield part.slice(start, batch)


def _csv_type(of: pa.DataType) -> pa.DataType:
    """Floats for all numbers, whatever the first block looks like: whole ones may be followed by fractions."""
    return of if pa.types.is_boolean(of) else pa.float64()


def _open_csv(file: Path, types: dict[str, pa.DataType] | None) -> Any:
    """A stream of blocks, of wanted columns only."""
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        header = text.readline()
    mark = next((mark for mark in ",;\t" if mark in header), ",")
    wanted = {} if types is None else {"column_types": types, "include_columns": list(types)}
    return arrow_csv.open_csv(
        file,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=2**22),
        parse_options=arrow_csv.ParseOptions(delimiter=mark),
        convert_options=arrow_csv.ConvertOptions(**wanted),
    )


def schema_of(file: Path) -> pa.Schema:
    """Names and types of all columns; of a CSV file as its first block looks."""
    kind = file.suffix.lower()
    if kind in (".parquet", ".pq"):
        return arrow_parquet.read_schema(file)
    if kind in (".csv", ".tsv"):
        with _open_csv(file, None) as opened:
            return opened.schema
    with pa.OSFile(str(file)) as stream:
        return arrow_ipc.open_file(stream).schema


def _schema_or_none(file: Path) -> pa.Schema | None:
    try:
        return schema_of(file)
    except FAILURES:
        return None


def why_not(file: Path) -> str:
    """Why a file has no schema."""
    try:
        schema_of(file)
    except FAILURES as error:
        return f"it cannot be read ({reason_of(error)}); is it cut short, or of another type?"
    return "it can be read."


def reason_of(error: BaseException) -> str:
    """The first line of an error of pyarrow."""
    return str(error).strip().split("\n")[0].rstrip(".")


def rows_in(file: Path) -> int | None:
    """How many rows a file has, where its footer says so."""
    if file.suffix.lower() not in (".parquet", ".pq"):
        return None
    try:
        return arrow_parquet.read_metadata(file).num_rows
    except FAILURES:
        return 0
