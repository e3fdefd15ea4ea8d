"""Where rows come from, a batch at a time: arrays in memory or mapped, sparse ones, NPZ files, any iterator."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Batch", "Source", "Unreadable", "ahead", "arrays", "batches", "npz"]

NUMBERS = 2**20  # in a batch


def rows_of(columns: int) -> int:
    """Rows of a batch: some megabytes, so that a whole one is little beside a program."""
    return max(256, min(2**15, NUMBERS // max(columns, 1)))


class Unreadable(ValueError):
    """What is wrong with a source of rows, which file and row, and what to do about it."""


class Batch(NamedTuple):
    """Some rows, and the number of the first one in its piece."""

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    first: int


class Source(ABC):
    """Rows in pieces, such as files, each of them read in order."""

    features: int
    targets: int | None  # None for y (n,)
    dtype: np.dtype
    names: tuple[str, ...] | None = None  # of the features
    total: int | None = None  # rows, where that is known

    @property
    @abstractmethod
    def pieces(self) -> tuple[str, ...]:
        """What each piece is called in messages."""

    @abstractmethod
    def read(self, piece: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one piece, from a row on at which an earlier batch ended."""

    def signature(self) -> str:
        """What has to be the same for a pass to go on where it was left."""
        return f"{self.features} features, {self.targets} targets, {self.dtype}, {len(self.pieces)} pieces"

    def column(self, j: int) -> str:
        """A column in messages: a feature, a target or the weights."""
        t = self.targets or 1
        if j < self.features:
            return repr(self.names[j]) if self.names else f"column {j} of X"
        if j < self.features + t:
            return "y" if self.targets is None else f"column {j - self.features} of y"
        return "weights"


class Arrays(Source):
    """Rows of arrays; see `arrays`."""

    def __init__(self, X: Any, y: Any, weights: Any, batch: int) -> None:
        self.X, self.y, self.weights, self.batch = X, y, weights, batch
        self.total, self.features = X.shape
        self.targets = None if y.ndim == 1 else y.shape[1]
        self.dtype = rows_dtype(X.dtype, y.dtype)

    @property
    def pieces(self) -> tuple[str, ...]:
        return ("X",)

    def read(self, piece: int, first: int = 0) -> Iterator[Batch]:
        for start in range(first, self.total or 0, self.batch):
            rows = slice(start, start + self.batch)
            X = self.X[rows]
            X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
            weights = None if self.weights is None else np.asarray(self.weights[rows])
            yield Batch(X, np.asarray(self.y[rows]), weights, start)


def arrays(X: Any, y: Any, weights: Any = None, *, batch: int | None = None) -> Source:
    """Rows of NumPy arrays, of memory maps (``np.load(file, mmap_mode="r")``), or of a SciPy matrix by rows (CSR).

    Args: X (n, d), y (n,) or (n, t), weights (n,) or None; ``batch`` rows are made dense floats at a time.

    >>> import numpy as np
    >>> from jaxridge import distributed, stream
    >>> source = distributed.arrays(np.arange(6.0)[:, None], 2 * np.arange(6.0))
    >>> print(stream.path(distributed.gather(source).rows, [0.0]).coef.round(4))
    [[2.]]
    """
    if not hasattr(X, "shape") or len(X.shape) != 2 or y.ndim not in (1, 2):
        raise ValueError("X must be (n, d) and y (n,) or (n, t); pass arrays, memory maps or a SciPy matrix.")
    lengths = {len(y), X.shape[0], *([] if weights is None else [len(weights)])}
    if len(lengths) > 1:
        raise ValueError(f"X has {X.shape[0]} rows and y {len(y)}; X, y and weights must be of the same observations.")
    return Arrays(X.tocsr() if hasattr(X, "tocsr") else X, y, weights, batch or rows_of(X.shape[1]))


class Iterated(Source):
    """Rows of an iterator; see `batches`."""

    def __init__(self, first: Any, rest: Iterator[Any]) -> None:
        self.first, self.rest = first, rest
        X, y = np.asarray(first[0]), np.asarray(first[1])
        self.features, self.targets = X.shape[1], None if y.ndim == 1 else y.shape[1]
        self.dtype = rows_dtype(X.dtype, y.dtype)

    @property
    def pieces(self) -> tuple[str, ...]:
        return ("the iterator",)

    def read(self, piece: int, first: int = 0) -> Iterator[Batch]:
        if first:
            raise Unreadable("An iterator does not go on where another one was left; start anew, or use a file.")
        row = 0
        for item in chain([self.first], self.rest):
            yield self._batch(item, row)
            row += len(item[1])

    def _batch(self, item: Any, row: int) -> Batch:
        X, y, *weights = (np.asarray(x) for x in item)
        if X.ndim != 2 or X.shape[1] != self.features or len(y) != len(X):
            raise Unreadable(
                f"The iterator gives X {X.shape} and y {y.shape} at row {row + 1}; X had {self.features} columns."
            )
        return Batch(X, y, weights[0] if weights else None, row)


def batches(iterable: Iterable[Any]) -> Source:
    """Rows of what gives (X, y) or (X, y, weights) as arrays: a loader of Grain, Ray, TensorStore, or a generator."""
    iterator = iter(iterable)
    first = next(iterator, None)
    if first is None:
        raise Unreadable("The iterator has no batch; at least one is needed.")
    return Iterated(first, iterator)


class Npz(Source):
    """Rows of an NPZ file; see `npz`."""

    def __init__(self, path: Path, batch: int | None) -> None:
        self.path = path
        self.headers = {name: _header(path, name) for name in ("X", "y", "weights") if _has(path, name)}
        if not {"X", "y"} <= set(self.headers):
            raise Unreadable(f"{path} needs arrays X (n, d) and y (n,) or (n, t); it has {list(self.headers)} of them.")
        (self.total, self.features), y = self.headers["X"][0], self.headers["y"][0]
        self.batch = batch or rows_of(self.features)
        self.targets = None if len(y) == 1 else y[1]
        self.dtype = rows_dtype(self.headers["X"][1], self.headers["y"][1])

    @property
    def pieces(self) -> tuple[str, ...]:
        return (str(self.path),)

    def read(self, piece: int, first: int = 0) -> Iterator[Batch]:
        with zipfile.ZipFile(self.path) as file:
            streams = {name: file.open(f"{name}.npy") for name in self.headers}
            for name, stream in streams.items():
                _skip_header(stream)
                shape, dtype = self.headers[name]
                _skip(stream, first * dtype.itemsize * int(np.prod(shape[1:])))
            for start in range(first, self.total or 0, self.batch):
                count = min(self.batch, (self.total or 0) - start)
                parts = {name: _take(streams[name], *self.headers[name], count) for name in streams}
                yield Batch(parts["X"], parts["y"], parts.get("weights"), start)


def npz(path: Any, *, batch: int | None = None) -> Source:
    """Rows of an NPZ file: arrays X (n, d), y (n,) or (n, t) and perhaps weights (n,), compressed or not."""
    return Npz(Path(path), batch)


def _has(path: Path, name: str) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return f"{name}.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise Unreadable(f"{path} cannot be read as NPZ ({error}); is it cut short, or of another type?") from None


def _skip_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as stream:
        shape, fortran, dtype = _skip_header(stream)
    if fortran and len(shape) > 1:
        raise Unreadable(f"{path}: {name} lies in memory by columns; save it as np.ascontiguousarray({name}).")
    return shape, dtype


def _skip(stream: Any, size: int) -> None:
    while size > 0:
        size -= len(stream.read(min(size, 2**20)))


def _take(stream: Any, shape: tuple[int, ...], dtype: np.dtype, count: int) -> np.ndarray:
    data = stream.read(count * dtype.itemsize * int(np.prod(shape[1:])))
    return np.frombuffer(data, dtype).reshape(count, *shape[1:])


def rows_dtype(*dtypes: Any) -> np.dtype:
    """float32 for columns that it holds without rounding, else float64."""
    return np.dtype(np.float32 if np.result_type(np.float32, *dtypes) == np.float32 else np.float64)


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same, with the next one read while this one is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
