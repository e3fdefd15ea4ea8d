"""Files of the command line: tables in, fits and predictions out; whatever is wrong is one sentence, a `BadInput`."""

import csv
import difflib
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as arrow_parquet

KIND = "jaxridge fit, format 1"
UNREADABLE = (pa.ArrowException, zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError)


class BadInput(ValueError):
    """What is wrong with the user's input and what to do about it, in one sentence."""


class Table(NamedTuple):
    """Named columns of one length, and what the file itself says of their roles."""

    source: str
    columns: dict[str, Any]  # pyarrow.ChunkedArray, or a NumPy vector
    targets: tuple[str, ...] = ()
    weights: str | None = None
    named: bool = True  # False where the features are only numbered
    notes: tuple[str, ...] = ()


def load(path: Path) -> Table:
    """The table of a .csv, .tsv, .parquet or .npz file; its values are not looked at yet."""
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet, ".pq": _read_parquet, ".npz": _read_npz}
    return _read(path, "a table", readers)


def diabetes() -> Table:
    """The embedded data of Efron, Hastie, Johnstone and Tibshirani (2004), Ann. Statist. 32, 407: 442 patients."""
    with resources.as_file(resources.files("jaxridge.cli") / "data" / "diabetes.csv") as path:
        return load(path)._replace(source="the embedded diabetes data", targets=("progression",))


def numbers(table: Table, names: Sequence[str], dtype: str) -> np.ndarray:
    """Columns as one (n, c) array of finite numbers of that dtype; anything else is refused by name and row."""
    columns, gaps = [_as_floats(table, name) for name in names], []
    array = np.stack(columns, axis=1).astype(dtype)
    for name, column in zip(names, columns, strict=True):
        for what, rows in (("missing", np.isnan(column)), ("infinite", np.isinf(column))):
            if rows.any():
                gaps.append(f"{name!r} is {what} in data {row_list(rows)}")
    if gaps:
        raise BadInput(
            f"{table.source}: {_some(gaps, '; ')}: drop these rows, impute the values or leave the column out."
        )
    for j, name in enumerate(names):
        if not np.isfinite(array[:, j]).all() or (columns[j].any() and not array[:, j].any()):
            raise BadInput(f"{table.source}: column {name!r} is out of the range of {dtype}; fit with --dtype float64.")
    return array


def booleans(table: Table, names: Sequence[str]) -> list[str]:
    """The columns of true and false among those named, which are read as 1 and 0."""
    columns = [(name, table.columns[name]) for name in names]
    return [name for name, x in columns if str(x.dtype if isinstance(x, np.ndarray) else x.type) == "bool"]


def check_known(table: Table, names: Sequence[str], what: str) -> None:
    """Refuse names that the table does not have, with the nearest ones that it does."""
    for name in names:
        if name not in table.columns:
            folded = {column.casefold(): column for column in table.columns}
            near = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, 3, 0.6)]
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {quoted(table.columns)}."
            raise BadInput(f"{table.source} has no column {name!r} for {what}; {hint}")


def matched(table: Table, features: Sequence[str]) -> tuple[Table, list[str]]:
    """The table with the columns of a fit, and a note on those that it does not use."""
    if not table.named:
        d = len(table.columns) - len(table.targets) - (table.weights is not None)
        if d != len(features):
            raise BadInput(f"{table.source} has {d} columns without names, and the fit has {len(features)}.")
        columns = dict(zip(features, table.columns.values(), strict=False))
        return table._replace(columns=columns), [f"{table.source} has no feature_names; its order is that of the fit"]
    missing = [name for name in features if name not in table.columns]
    if missing:
        raise BadInput(f"{table.source} lacks {quoted(missing)}, which the fit was made with.")
    extra = [name for name in table.columns if name not in set(features)]
    return table, [f"columns without a part in the fit: {quoted(extra)}"] if extra else []


def quoted(names: Collection[str]) -> str:
    """Names in quotes, a dozen at most."""
    return _some([repr(str(name)) for name in names])


def _some(parts: Sequence[str], mark: str = ", ", most: int = 12) -> str:
    rest = f" and {len(parts) - most} more" if len(parts) > most else ""
    return mark.join(parts[:most]) + rest


def row_list(rows: Any) -> str:
    """Data rows counted from 1, the header not among them."""
    found = [str(i + 1) for i in np.flatnonzero(rows)]
    return f"row{'s' if len(found) > 1 else ''} {_some(found, most=5)}"


def _read(path: Path, what: str, readers: dict[str, Callable[[Path], Any]]) -> Any:
    """The file, read by what its name ends in; every way to fail is a sentence."""
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path} is not of a known type; {what} ends in {' or '.join(readers)}.")
    if not path.is_file():
        raise BadInput(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty.")
    try:
        return reader(path)
    except BadInput:
        raise
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text; save it in that encoding.") from None
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0].rstrip(".")
        reason = reason.removeprefix("CSV parse error: ")
        kind = path.suffix.lower()[1:].upper()
        raise BadInput(f"{path} cannot be read as {kind} ({reason}); is it cut short, or of another type?") from None


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = re.sub(r'"[^"]*"', "", file.readline())
    # Types come from the first block alone, so the file has to be one; a single thread can count rows in errors.
    block = min(path.stat().st_size + 1, 2**31 - 1)
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=block, use_threads=False),
        parse_options=arrow_csv.ParseOptions(delimiter=next((mark for mark in ",;\t" if mark in header), ",")),
    )
    if any(pa.types.is_binary(of) for of in table.schema.types):
        raise BadInput(f"{path} is not UTF-8 text; save it in that encoding.")
    return _named(path, table)


def _read_parquet(path: Path) -> Table:
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        if stream.read() != b"PAR1":
            raise ValueError("no Parquet footer")
    table = arrow_parquet.read_table(path)
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    notes = ("the row index that pandas stored is left out",) if index else ()
    return _named(path, table.drop_columns(index))._replace(notes=notes)


def _named(path: Path, table: pa.Table) -> Table:
    _check_names(path, table.column_names)
    if table.num_rows == 0:
        raise BadInput(f"{path} has no rows of data.")
    return Table(str(path), dict(zip(table.column_names, table.columns, strict=True)))


def _check_names(path: Path, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if "" in names:
        raise BadInput(f"{path}: column {list(names).index('') + 1} has no name; name it or remove it.")
    if repeated:
        raise BadInput(f"{path} has more than one column named {quoted(repeated)}; rename or remove the others.")


def _read_npz(path: Path) -> Table:
    """Arrays X (n, d), y (n,) or (n, t), weights (n,), feature_names (d,) and target_names (t,); X is needed."""
    arrays = _arrays(path)
    if "kind" in arrays:
        raise BadInput(f"{path} holds a fit, not a table; give the data to use it on.")
    if "X" not in arrays:
        raise BadInput(f"{path} holds {quoted(arrays) or 'nothing'}; arrays X (n, d) and y (n,) or (n, t) are needed.")
    blocks = {name: arrays[name] for name in ("X", "y", "weights") if name in arrays}
    for name, ndim in (("X", (2,)), ("y", (1, 2)), ("weights", (1,))):
        if name in blocks and blocks[name].ndim not in ndim:
            wanted = {"X": "(n, d)", "y": "(n,) or (n, t)", "weights": "(n,)"}[name]
            raise BadInput(f"{path}: {name} has shape {blocks[name].shape}; {wanted} is needed.")
    if len({len(block) for block in blocks.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(block)} rows" for name, block in blocks.items())
        raise BadInput(f"{path}: {lengths}; they must be the same observations.")
    if len(blocks["X"]) == 0:
        raise BadInput(f"{path} has no rows of data.")
    blocks = {name: block.reshape(len(block), -1) if block.size else block for name, block in blocks.items()}
    single = "y" in arrays and arrays["y"].ndim == 1
    names = {
        "X": _labels(path, arrays, "feature_names", [f"x{j + 1}" for j in range(blocks["X"].shape[1])]),
        "weights": ["weights"],
    }
    if "y" in blocks:
        default = ["y"] if single else [f"y{j + 1}" for j in range(blocks["y"].shape[1])]
        names["y"] = _labels(path, arrays, "target_names", default)
    _check_names(path, [name for block in blocks for name in names[block]])
    columns = {name: column for key, block in blocks.items() for name, column in zip(names[key], block.T, strict=True)}
    weights = "weights" if "weights" in blocks else None
    return Table(str(path), columns, tuple(names.get("y", ())), weights, "feature_names" in arrays)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as stream:
        if stream.read(6) == b"\x93NUMPY":
            raise BadInput(f"{path} holds one bare array; save named ones with numpy.savez.")
        if not zipfile.is_zipfile(stream):
            raise ValueError("not a ZIP archive")
        stream.seek(0)
        file = np.load(stream, allow_pickle=False)
        return {name: file[name] for name in file.files}


def _labels(path: Path, arrays: dict[str, np.ndarray], key: str, default: list[str]) -> list[str]:
    if key not in arrays:
        return default
    names = [str(name) for name in arrays[key].ravel()]
    if len(names) != len(default):
        raise BadInput(f"{path}: {key} has {len(names)} entries for {len(default)} columns.")
    return names


def _as_floats(table: Table, name: str) -> np.ndarray:
    """A column in float64, with NaN for what is missing; text, dates and the like are refused by name."""
    column = table.columns[name]
    if isinstance(column, np.ndarray):
        kind = column.dtype.kind
        if kind in "biuf":
            return column.astype(np.float64)
        what = {"U": "text", "S": "text", "M": "dates or times", "m": "times", "c": "complex numbers"}.get(kind)
        values = column.tolist()
    else:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        of = column.type
        if pa.types.is_null(of):
            return np.full(len(column), np.nan)
        if pa.types.is_boolean(of):
            column = column.cast(pa.uint8())
        if pa.types.is_boolean(of) or pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of):
            return column.cast(pa.float64(), safe=False).to_numpy()
        text = pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)
        what = "text" if text or pa.types.is_binary(of) else "dates or times" if pa.types.is_temporal(of) else None
        values = column.to_pylist()
    row, example = next(((i, v) for i, v in enumerate(values) if v not in (None, "") and not _is_number(v)), (0, None))
    if example is None:
        row, example = next(((i, v) for i, v in enumerate(values) if v is not None), (0, ""))
    shown = repr(example) if what == "text" else repr(str(example))
    raise BadInput(
        f"{table.source}: column {name!r} holds {what or 'values that are not numbers'}, such as {shown} in data row "
        f"{row + 1}; encode it as numbers, or leave it out with --drop."
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def check_writable(path: Path, suffixes: Collection[str], inputs: Collection[Path | None] = ()) -> None:
    """Refuse an output that could not be written, by trying a temporary file beside it."""
    if path.suffix.lower() not in suffixes:
        raise BadInput(f"{path} is not of a known type; this output ends in {' or '.join(sorted(suffixes))}.")
    if any(other is not None and path.resolve() == other.resolve() for other in inputs):
        raise BadInput(f"{path} is already another file of this command; choose another name.")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} cannot be written: it is not a regular file.")
    if path.exists() and not os.access(path, os.W_OK):
        raise BadInput(f"{path} cannot be written: it is read-only.")
    try:
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror} (folder {path.resolve().parent}).") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end of the block, and only if all went well."""
    path = path.resolve()
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path} could not be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def save_fit(path: Path, fields: dict[str, Any]) -> None:
    """A fit as .npz, or as .json, where a number that is not finite becomes null."""
    fields = {"kind": KIND, **fields}
    with replacing(path) as temporary:
        if path.suffix.lower() == ".npz":
            np.savez(temporary, allow_pickle=False, **{name: np.asarray(value) for name, value in fields.items()})
        else:
            temporary.write_text(json.dumps({name: _plain(value) for name, value in fields.items()}, indent=1) + "\n")


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


class SavedFit(NamedTuple):
    """What prediction needs of a saved fit."""

    coef: np.ndarray  # (d, t)
    intercept: np.ndarray  # (t,)
    features: list[str]
    targets: list[str]
    dtype: str

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predictions (n, t) for features (n, d) in the order of the fit."""
        values = X @ self.coef + self.intercept
        if not np.isfinite(values).all():
            rows = row_list(~np.isfinite(values).all(axis=1))
            raise BadInput(f"Predictions in data {rows} leave the range of {self.dtype}.")
        return values


def load_fit(path: Path) -> SavedFit:
    """A fit that `save_fit` wrote, checked."""
    return _read(path, "a fit", {".npz": _fit_from(_arrays), ".json": _fit_from(_read_json)})


def _read_json(path: Path) -> dict[str, Any]:
    fields = json.loads(path.read_text(encoding="utf-8"))
    return fields if isinstance(fields, dict) else {}


def _fit_from(read: Callable[[Path], dict[str, Any]]) -> Callable[[Path], SavedFit]:
    def reader(path: Path) -> SavedFit:
        fields = read(path)
        if str(fields.get("kind")) != KIND:
            raise BadInput(f"{path} is not a fit; give a file that `jaxridge sweep --out` wrote.")
        try:
            dtype = str(fields["dtype"])
            coef, intercept = (np.asarray(fields[name], dtype) for name in ("coef", "intercept"))
            features, targets = ([str(name) for name in fields[key]] for key in ("feature_names", "target_names"))
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"{path} is a damaged fit; write it again with `jaxridge sweep --out`.") from None
        whole = np.isfinite(coef).all() and np.isfinite(intercept).all() and dtype in ("float32", "float64")
        if not whole or coef.shape != (len(features), len(targets)) or intercept.shape != (len(targets),):
            raise BadInput(f"{path} is a damaged fit; write it again with `jaxridge sweep --out`.")
        return SavedFit(coef, intercept, features, targets, dtype)

    return reader


def predictions_csv(names: Sequence[str], values: np.ndarray) -> str:
    """Predictions (n, t) as CSV text in which every number reads back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([str(x) for x in row] for row in values)
    return text.getvalue()


def save_predictions(path: Path, names: Sequence[str], values: np.ndarray) -> None:
    """Predictions (n, t) as .csv, .parquet or .npz."""
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            temporary.write_text(predictions_csv(names, values), encoding="utf-8", newline="")
        elif path.suffix.lower() == ".npz":
            np.savez(temporary, predictions=values, target_names=np.asarray(names))
        else:
            arrow_parquet.write_table(
                pa.table([np.ascontiguousarray(v) for v in values.T], names=list(names)), temporary
            )
