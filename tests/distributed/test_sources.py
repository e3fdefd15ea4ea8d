"""Rows from every kind of source against all of them in memory; what is wrong named; passes that were cut off."""

import csv
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
import scipy.sparse

import jaxridge as jxr
from jaxridge import distributed, select, stream
from jaxridge.distributed.blas import by_cholesky
from jaxridge.linear.host import by_qr

rng = np.random.default_rng(3)
N, D = 500, 4
X = (rng.standard_normal((N, D)) * [1.0, 10.0, 0.1, 1.0] + [0.0, 100.0, 1.0, 0.0]).astype(np.float32)
X[:, 3] = rng.integers(0, 2, N)
Y = (X @ rng.standard_normal((D, 2)) + rng.standard_normal((N, 2))).astype(np.float32)
W = rng.uniform(0.5, 2.0, N).astype(np.float32)
NAMES = ["size", "age", "dose", "ill"]
LAMS = np.array([0.1, 10.0])
WANTED = jxr.ridge_path(X.astype(float), Y.astype(float), LAMS, weights=W.astype(float))


def columns(part=slice(None), **other):
    made = {"id": [f"row {i}" for i in range(N)][part], **dict(zip(NAMES, X[part].T.copy(), strict=True))}
    made["ill"] = X[part, 3] > 0
    return {**made, "price": Y[part, 0], "wait": Y[part, 1], "w": W[part], **other}


def write(path, **content):
    content, kind = content or columns(), path.suffix
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if kind == ".csv" else "\t")
            writer.writerow(content)
            writer.writerows(zip(*(np.asarray(x).tolist() for x in content.values()), strict=True))
    elif kind == ".arrow":
        feather.write_feather(pa.table(content), path, compression="uncompressed")
    else:
        parquet.write_table(pa.table(content), path, row_group_size=130)
    return path


PARTS = (slice(0, 200), slice(200, 210), slice(210, N))


def shards(folder, kinds=(".parquet",) * 3):
    for number, (part, kind) in enumerate(zip(PARTS, kinds, strict=True)):
        write(folder / ("deeper" if number == 2 else ".") / f"part-{number}{kind}", **columns(part))
    return folder


def table(path, **more):
    return distributed.table(path, ["price", "wait"], weights="w", drop=["id"], batch=64, **more)


def memory_map(folder):
    np.save(folder / "X.npy", X)
    return distributed.arrays(np.load(folder / "X.npy", mmap_mode="r"), Y, W, batch=77)


def npz(folder):
    np.savez_compressed(folder / "rows.npz", X=X, y=Y, weights=W)
    return distributed.npz(folder / "rows.npz", batch=77)


SOURCES = {
    "a folder of Parquet": lambda folder: table(shards(folder)),
    "a folder of all kinds": lambda folder: table(shards(folder, (".parquet", ".csv", ".arrow"))),
    "a pattern": lambda folder: table(f"{shards(folder, ('.tsv', '.arrow', '.parquet'))}/**/part-*"),
    "a CSV file": lambda folder: table(write(folder / "all.csv")),
    "a memory map": memory_map,
    "an NPZ file": npz,
    "an iterator": lambda folder: distributed.batches(
        (X[i : i + 77], Y[i : i + 77], W[i : i + 77]) for i in range(0, N, 77)
    ),
    "a sparse matrix": lambda folder: distributed.arrays(scipy.sparse.csr_array(X), Y, W, batch=77),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_rows_of_every_source_are_all_rows(tmp_path, kind):
    rows = distributed.gather(SOURCES[kind](tmp_path), folds=3, gram=True).rows
    assert rows.rows.sum() == N
    found = stream.path(rows, LAMS)
    # A Gram matrix squares the condition, 1e3 here.
    np.testing.assert_allclose(found.coef, WANTED.coef, rtol=1e-9)
    np.testing.assert_allclose(found.rss, WANTED.rss, rtol=1e-9)


def test_float32_columns_make_a_gram_matrix_and_others_a_triangle(tmp_path):
    assert distributed.gather(table(write(tmp_path / "a.parquet"))).rows.gram
    double = write(tmp_path / "b.parquet", **columns(dose=X[:, 2].astype(float)))
    rows = distributed.gather(table(double)).rows
    assert not rows.gram
    np.testing.assert_allclose(stream.path(rows, LAMS).coef, WANTED.coef, rtol=1e-10)


def test_leave_one_out_by_a_second_pass(tmp_path):
    source = table(shards(tmp_path))
    spectrum = stream.finish(distributed.gather(source).rows)
    choice = jxr.ridge_cv(X.astype(float), Y.astype(float), LAMS, weights=W.astype(float), per_target=True)
    np.testing.assert_allclose(distributed.leave_one_out(source, spectrum, LAMS), choice.scores, rtol=1e-9)


def damaged(path, **content):
    data = write(path, **content).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


HOLE = X[:, 1].copy()
HOLE[[5, 300, 301]] = np.nan
NEGATIVE = W.copy()
NEGATIVE[7] = -1.0
BAD = {
    "cut short": (lambda f: damaged(f / "part-3.parquet"), ["part-3.parquet", "cannot be read beyond row 0"], N),
    "a column less": (
        lambda f: write(f / "part-3.parquet", **{k: v for k, v in columns().items() if k != "dose"}),
        ["part-3.parquet", "no column 'dose'"],
        N,
    ),
    "text": (
        lambda f: write(f / "part-3.parquet", **columns(dose=["much"] * N)),
        ["part-3.parquet", "'dose' is string, no number"],
        N,
    ),
    "text in a CSV row": (
        lambda f: write(f / "part-3.csv", **columns(dose=["1.0"] * 100 + ["much"] + ["1.0"] * (N - 101))),
        ["part-3.csv", "'much'"],
        N,
    ),
    "missing values": (
        lambda f: write(f / "part-3.parquet", **columns(age=HOLE)),
        ["part-3.parquet: 'age' is missing or infinite in 1 row (6);"],
        2 * N - 3,
    ),
    "negative weights": (
        lambda f: write(f / "part-3.parquet", **columns(w=NEGATIVE)),
        ["part-3.parquet: weights are negative in 1 row (8);"],
        2 * N - 1,
    ),
    "no bytes": (lambda f: (f / "part-3.parquet").write_bytes(b""), ["part-3.parquet is empty"], N),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_and_left_out_on_request(tmp_path, name):
    """By file and row; and what is left is the rest, to the bit, where nothing of the file could be read."""
    spoil, said, left = BAD[name]
    shards(tmp_path)
    spoil(tmp_path)
    with pytest.raises(distributed.Unreadable) as error:
        distributed.gather(table(tmp_path))
    assert all(part in str(error.value) for part in said), str(error.value)
    rows, notes = distributed.gather(table(tmp_path), skip_bad=True)
    assert said[0] in notes[0]
    assert rows.rows == left
    if left == N:
        np.testing.assert_allclose(stream.path(rows, LAMS).coef, WANTED.coef, rtol=1e-9)


def test_empty_shards_are_noted(tmp_path):
    shards(tmp_path)
    parquet.write_table(pa.table(columns()).slice(0, 0), tmp_path / "part-9.parquet")
    rows, notes = distributed.gather(table(tmp_path))
    assert (rows.rows, notes) == (N, (f"{tmp_path / 'part-9.parquet'} has no rows",))


def test_natural_mistakes_are_refused(tmp_path):
    folder = shards(tmp_path / "data")
    write(tmp_path / "data.csv")
    for path, options, said in (
        (tmp_path / "none", {}, "is not a file, nor"),
        (folder, {"target": "cost"}, "no column 'cost'; it has 'id', 'size'"),
        (folder, {"target": "price"}, "'id' is string, no number"),
        (tmp_path / "text.txt", {}, "not of a known type"),
    ):
        (tmp_path / "text.txt").touch()
        with pytest.raises(distributed.Unreadable, match=said):
            distributed.table(path, **{"target": "price", **options})
    with pytest.raises(distributed.Unreadable, match="squares of rows from 1 on leave the range"):
        distributed.gather(distributed.arrays(1e200 * X.astype(float), Y), gram=True)
    with pytest.raises(ValueError, match="same observations"):
        distributed.arrays(X, Y[:-1])
    with pytest.raises(distributed.Unreadable, match="no batch"):
        distributed.batches([])


class CutOff(Exception):
    """A pass that ends."""


def bits(rows):
    return [np.asarray(x).tobytes() for x in (rows.shift, rows.summed, rows.largest, rows.rows, rows.seen)]


@pytest.mark.parametrize("gram", [True, False])
def test_a_pass_that_was_cut_off_goes_on_to_the_same_bits(tmp_path, gram):
    folder, checkpoint = shards(tmp_path / "data"), tmp_path / "sums.npz"

    def stop(rows, total):
        assert total == N
        if rows > 230:
            raise CutOff

    with pytest.raises(CutOff):
        distributed.gather(table(folder), folds=3, gram=gram, checkpoint=checkpoint, every=0.0, progress=stop)
    seen = []
    more = {"folds": 3, "gram": gram, "checkpoint": checkpoint}
    found = distributed.gather(table(folder), progress=lambda rows, total: seen.append(rows), **more)
    assert 200 < seen[0] < N
    assert bits(found.rows) == bits(distributed.gather(table(folder), folds=3, gram=gram).rows)
    assert bits(distributed.gather(table(folder), **more).rows) == bits(found.rows)
    with pytest.raises(distributed.Unreadable, match="other data or terms"):
        distributed.gather(table(folder), folds=4, gram=gram, checkpoint=checkpoint)
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(distributed.Unreadable, match="is no checkpoint"):
        distributed.gather(table(folder), **more)


KILLED = """
import os, signal, sys
from jaxridge import distributed

source = distributed.table(sys.argv[1], ["price", "wait"], weights="w", drop=["id"], batch=64)
kill = lambda rows, total: os.kill(os.getpid(), signal.SIGKILL) if rows > 230 else None
distributed.gather(source, checkpoint=sys.argv[2], every=0.0, progress=kill)
"""


def test_a_process_that_is_killed_goes_on_to_the_same_bits(tmp_path):
    folder, checkpoint = shards(tmp_path / "data"), tmp_path / "sums.npz"
    ended = subprocess.run([sys.executable, "-c", KILLED, folder, checkpoint], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    _, progress = distributed.load(checkpoint)
    assert progress["at"] != [0, 0]
    found = distributed.gather(table(folder), checkpoint=checkpoint)
    assert bits(found.rows) == bits(distributed.gather(table(folder)).rows)


def test_a_triangle_by_cholesky_is_that_of_householder():
    """Gram matrices agree by column to rounding, over eight decades; a new direction and one that is not there."""
    rows = rng.standard_normal((4000, 6)) * np.logspace(0, -8, 6) @ np.triu(np.ones((6, 6)))
    for A in (rows, np.concatenate([rows[:, :5], rows[:, :1]], axis=1)):
        ours, theirs = np.zeros((6, 6)), np.zeros((6, 6))
        for part in np.split(A, 10):
            ours, theirs = by_cholesky(ours, part.T.copy()), by_qr(theirs, part.T.copy())
        sizes = np.outer(*(np.linalg.norm(A, axis=0),) * 2)
        exact = (A.T.astype(np.longdouble) @ A.astype(np.longdouble)).astype(float)
        assert np.max(np.abs(ours.T @ ours - exact) / sizes) < 1e-14
        assert np.max(np.abs(theirs.T @ theirs - exact) / sizes) < 1e-14
        small = np.linalg.svd(ours, compute_uv=False), np.linalg.svd(A, compute_uv=False)
        np.testing.assert_allclose(*small, rtol=1e-10, atol=1e-12)


def test_k_fold_of_a_folder(tmp_path):
    rows = distributed.gather(table(shards(tmp_path)), folds=5).rows
    rule = select.kfold(labels=np.arange(N) % 5)
    found = stream.choose(rows, LAMS, rule=select.kfold(5)).scores
    wanted = jxr.ridge_cv(X.astype(float), Y.astype(float), LAMS, weights=jnp.asarray(W, float), rule=rule).scores
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
