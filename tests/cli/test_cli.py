"""The command line: its numbers against closed forms, and one clear sentence for each bad input."""

import csv
import io
import json
import os
import runpy
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from jaxridge.cli import main as cli

rng = np.random.default_rng(0)
N, D = 24, 3
X = rng.normal(size=(N, D)) * [1.0, 20.0, 0.1] + [0.0, 100.0, 1.0]
Y = X @ rng.normal(size=(D, 2)) * [1.0, 0.1] + rng.normal(size=(N, 2))
WEIGHTS = rng.uniform(0.5, 2.0, N)
NAMES = ["size", "age", "dose"]
GRID = "1e-3:1e4:100"
PLAIN = ("--no-intercept", "--no-standardize")
LAMS = np.geomspace(1e-3, 1e4, 100)


def run(*args: object, code: int = 0):
    """The command in this process, its exit code checked."""
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.output
    return result


def sentence(*args: object) -> str:
    """The one line of a refusal, and nothing else said."""
    result = run(*args, code=2)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def write_csv(path: Path, names=(*NAMES, "price", "wait"), rows=None) -> Path:
    rows = np.column_stack([X, Y]).tolist() if rows is None else rows
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def text_file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.fixture
def data(tmp_path) -> Path:
    return write_csv(tmp_path / "data.csv")


def solve(X, y, lam, weights=None, standardize=True, intercept=True, penalty=None):
    """Coefficients and intercept from the normal equations of the centred problem."""
    w = np.ones(len(X)) if weights is None else weights
    centre = (lambda a: np.average(a, axis=0, weights=w)) if intercept else (lambda a: 0 * a[0])
    A, b = X - centre(X), y - centre(y)
    if penalty is None:
        penalty = np.average((X - np.average(X, axis=0, weights=w)) ** 2, axis=0, weights=w) if standardize else 1.0
    coef = np.linalg.solve((A.T * w) @ A + lam * np.diag(penalty * np.ones(X.shape[1])), (A.T * w) @ b)
    return coef, centre(y) - centre(X) @ coef


def held_out_mse(X, y, lam, folds):
    """Mean over folds of the mean squared error of refits without the fold, the scale of all rows kept."""
    penalty = X.var(axis=0)
    errors = []
    for test in folds:
        train = np.setdiff1d(np.arange(len(X)), test)
        coef, b = solve(X[train], y[train], lam, penalty=penalty)
        errors.append(np.mean((y[test] - X[test] @ coef - b) ** 2, axis=0))
    return np.mean(errors, axis=0)


@lru_cache
def scores(rule):
    """The score of every λ and target, by refitting or from the hat matrix."""
    if rule == "gcv":
        out = []
        for lam in LAMS:
            coef, b = solve(X, np.eye(N), lam)
            hat = X @ coef + b
            out.append(N * ((Y - hat @ Y) ** 2).sum(axis=0) / (N - np.trace(hat)) ** 2)
        return np.array(out)
    folds = [[i] for i in range(N)] if rule == "loo" else np.array_split(np.arange(N), 5)
    return np.array([held_out_mse(X, Y, lam, folds) for lam in LAMS])


@pytest.mark.parametrize("rule", ["loo", "gcv", "kfold"])
def test_choice_and_saved_fit_equal_brute_force(tmp_path, data, rule):
    out = tmp_path / "fit.npz"
    result = run("sweep", data, "--target", "price", "--drop", "wait", "--lams", GRID, "--rule", rule, "--out", out)
    expected = scores(rule)[:, :1]
    lam = LAMS[np.argmin(expected[:, 0])]
    coef, intercept = solve(X, Y[:, :1], lam)
    saved = load(out)
    np.testing.assert_allclose(saved["scores"], expected, rtol=1e-9)
    np.testing.assert_allclose(saved["lams"], LAMS, rtol=1e-14)
    np.testing.assert_allclose(saved["lam"], lam, rtol=1e-14)
    np.testing.assert_allclose(saved["coef"], coef, rtol=1e-9)
    np.testing.assert_allclose(saved["intercept"], intercept, rtol=1e-9)
    assert saved["feature_names"].tolist() == NAMES
    assert saved["target_names"].tolist() == ["price"]
    assert (str(saved["dtype"]), str(saved["rule"])) == ("float64", rule)
    error = scores("loo")[:, :1][np.argmin(expected[:, 0]), 0]
    name = {"loo": "leave-one-out", "gcv": "GCV", "kfold": "5-fold"}[rule]
    assert f"λ* = {lam:.6g} by {name}: " in result.stdout
    assert f"leave-one-out RMSE {np.sqrt(error):.5g}" in result.stdout
    assert f"R² {1 - error / Y[:, 0].var():.3f}" in result.stdout


def test_one_lam_for_all_targets_and_one_for_each(tmp_path, data):
    targets, expected = ("--target", "price", "--target", "wait"), scores("loo")
    both = run("sweep", data, *targets, "--lams", GRID, "--out", tmp_path / "both.json")
    each = run("sweep", data, *targets, "--lams", GRID, "--out", tmp_path / "each.json", "--per-target")
    saved = json.loads((tmp_path / "both.json").read_text())
    best = np.argmin(expected.mean(axis=1))
    assert saved["lam"] == pytest.approx(LAMS[best])
    np.testing.assert_allclose(saved["coef"], solve(X, Y, LAMS[best])[0], rtol=1e-9)
    assert "λ* of" not in both.stdout
    saved = json.loads((tmp_path / "each.json").read_text())
    picked = np.argmin(expected, axis=0)
    assert picked[0] != picked[1], "the example must tell the two apart"
    np.testing.assert_allclose(saved["lam"], LAMS[picked])
    for j in range(2):
        np.testing.assert_allclose(np.array(saved["coef"])[:, j], solve(X, Y[:, j], LAMS[picked[j]])[0], rtol=1e-9)
        assert f"← λ* of {['price', 'wait'][j]}" in each.stdout


def test_weights_without_intercept_and_without_standardizing(tmp_path):
    weights = WEIGHTS * (np.arange(N) != 4)
    table = npz(tmp_path / "w.npz", X=X, y=Y[:, 0], weights=weights, feature_names=NAMES)
    result = run("sweep", table, *PLAIN, "--lams", GRID, "--out", tmp_path / "fit.json")
    saved = json.loads((tmp_path / "fit.json").read_text())
    coef, intercept = solve(X, Y[:, 0], saved["lam"], weights, standardize=False, intercept=False)
    np.testing.assert_allclose(np.array(saved["coef"])[:, 0], coef, rtol=1e-9)
    assert saved["intercept"] == [intercept] == [0.0]
    assert saved["feature_names"] == NAMES
    assert "24 rows, 3 columns, not standardized, weighted, no intercept, float64" in result.stdout
    assert "(intercept)" not in result.stdout


def test_unsorted_and_repeated_lams_are_accepted(tmp_path, data):
    lams = np.random.default_rng(1).permutation([0.0, 100.0, 100.0, *LAMS[3:]])
    options = ("--target", "price", "--drop", "wait", "--out", tmp_path / "fit.json")
    result = run("sweep", data, *options, "--full", "--lams", ",".join(map(repr, lams.tolist())))
    saved = json.loads((tmp_path / "fit.json").read_text())
    assert saved["lams"] == lams.tolist()
    expected = held_out_mse(X, Y[:, 0], 0.0, [[i] for i in range(N)])
    np.testing.assert_allclose(saved["scores"][int(np.argmin(lams))], [expected], rtol=1e-9)
    assert saved["lam"] == lams[np.argmin(saved["scores"])]
    shown = [float(line.split()[0]) for line in result.stdout.splitlines() if line[:12].strip()[1:2] == "."]
    assert shown == sorted(shown)


def test_embedded_data_table_is_short_and_whole(tmp_path):
    result = run("sweep", "--plot", tmp_path / "path.png", "--out", tmp_path / "fit.npz")
    saved = load(tmp_path / "fit.npz")
    rows = [line for line in result.stdout.splitlines() if line[:12].strip()[1:2] == "."]
    assert "the embedded diabetes data → progression" in result.stdout
    assert "442 rows, 10 columns, standardized, float64" in result.stdout
    assert 15 <= len(rows) <= 20 < len(saved["lams"]) == 100
    assert sum("λ* by leave-one-out" in row for row in rows) == 1
    assert "…" not in result.stdout
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")
    table = np.genfromtxt(Path(cli.__file__).parent / "data" / "diabetes.csv", delimiter=",", skip_header=1)
    coef, intercept = solve(table[:, :-1], table[:, -1], float(saved["lam"]))
    np.testing.assert_allclose(saved["coef"][:, 0], coef, rtol=1e-8)
    np.testing.assert_allclose(saved["intercept"], intercept, rtol=1e-8)
    for name, value in zip(saved["feature_names"], coef, strict=True):
        assert f"{value:#.5g}" in next(line for line in result.stdout.splitlines() if line.split()[:1] == [name])


def test_full_prints_every_lam_and_float32_computes_in_float32(tmp_path, data):
    options = ("--target", "price", "--drop", "wait", "--lams", GRID, "--out", tmp_path / "fit.npz")
    result = run("sweep", data, *options, "--full", "--dtype", "float32")
    assert all(f"{lam:.3e}" in result.stdout for lam in LAMS)
    assert "--full" not in result.stdout
    saved = load(tmp_path / "fit.npz")
    assert {str(saved[name].dtype) for name in ("coef", "lams", "scores", "dof", "intercept")} == {"float32"}
    np.testing.assert_allclose(saved["scores"], scores("loo")[:, :1], rtol=1e-3)


@pytest.mark.parametrize(("kind", "target"), [("npz", "csv"), ("json", "parquet"), ("npz", "npz"), ("json", None)])
def test_predict_matches_columns_by_name(tmp_path, data, kind, target):
    fit = tmp_path / f"fit.{kind}"
    run("sweep", data, "--target", "price", "--target", "wait", "--lams", GRID, "--out", fit)
    lam = float(load(fit)["lam"] if kind == "npz" else json.loads(fit.read_text())["lam"])
    coef, intercept = solve(X, Y, lam)
    new = pa.table({"dose": X[:5, 2], "note": ["a"] * 5, "size": X[:5, 0], "age": X[:5, 1]})
    parquet.write_table(new, tmp_path / "new.parquet")
    if target is None:
        result = run("predict", fit, tmp_path / "new.parquet")
        header, *rows = csv.reader(io.StringIO(result.stdout))
        values = np.array(rows, float)
    else:
        out = tmp_path / f"pred.{target}"
        result = run("predict", fit, tmp_path / "new.parquet", "--out", out)
        assert f"wrote: {out}" in result.stderr
        if target == "npz":
            header, values = load(out)["target_names"].tolist(), load(out)["predictions"]
        elif target == "parquet":
            table = parquet.read_table(out)
            header, values = table.column_names, np.column_stack([column.to_numpy() for column in table.columns])
        else:
            header, *rows = csv.reader(io.StringIO(out.read_text()))
            values = np.array(rows, float)
    assert header == ["price", "wait"]
    assert "'note'" in result.stderr
    np.testing.assert_allclose(values, X[:5] @ coef + intercept, rtol=1e-9)


def test_npz_table_without_names_takes_columns_in_order(tmp_path):
    plain = npz(tmp_path / "plain.npz", X=X, y=Y)
    run("sweep", plain, "--lams", GRID, "--out", tmp_path / "fit.json")
    saved = json.loads((tmp_path / "fit.json").read_text())
    assert (saved["feature_names"], saved["target_names"]) == (["x1", "x2", "x3"], ["y1", "y2"])
    coef, intercept = solve(X, Y, saved["lam"])
    np.testing.assert_allclose(saved["coef"], coef, rtol=1e-9)
    fit = altered(tmp_path / "named.json", coef=coef[:, :1], intercept=intercept[:1])
    result = run("predict", fit, plain)
    np.testing.assert_allclose(np.array(result.stdout.split()[1:], float), X @ coef[:, 0] + intercept[0], rtol=1e-12)
    assert "no feature_names" in result.stderr


def test_booleans_integers_decimals_and_other_delimiters_are_numbers(tmp_path):
    flag, count = X[:, 0] > 0, np.arange(N)
    rows = zip(flag, count, X[:, 2].tolist(), Y[:, 0].tolist(), strict=True)
    lines = ["flag;count;dose;y", *(f"{str(f).lower()};{c};{x};{y}" for f, c, x, y in rows)]
    table = text_file(tmp_path / "t.csv", "\ufeff" + "\r\n".join(lines) + "\r\n")
    result = run("sweep", table, "--target", "y", "--lams", GRID, "--out", tmp_path / "fit.json")
    saved = json.loads((tmp_path / "fit.json").read_text())
    expected = solve(np.column_stack([flag, count, X[:, 2]]).astype(float), Y[:, 0], saved["lam"])[0]
    np.testing.assert_allclose(np.array(saved["coef"])[:, 0], expected, rtol=1e-9)
    assert "'flag' of true and false is read as 1 and 0" in result.stderr


def test_late_fractions_in_a_long_csv_are_read(tmp_path):
    column = np.arange(200_000)
    lines = ["x,y", *(f"{x},{x % 7}" for x in column), "0.5,1"]
    loaded = cli.files.load(text_file(tmp_path / "long.csv", "\n".join(lines)))
    values = cli.files.numbers(loaded, ["x", "y"], "float64")
    np.testing.assert_array_equal(values[:, 0], [*column, 0.5])


TINY = ",".join(["0", "0", *map(str, LAMS[2:])])
UNRELATED = np.cos(np.arange(N)) - X @ np.linalg.lstsq(X, np.cos(np.arange(N)))[0]

WARNINGS = {
    "edge": ((X, Y[:, 0]), ("--lams", "1e5:1e6:100"), "edge of the grid"),
    "constant": ((np.column_stack([X[:, :2], np.ones(N)]), Y[:, 0]), (), "coefficient is 0: 'x3'"),
    "rank": (
        (np.column_stack([X[:, :2], X[:, 0] - X[:, 1]]), Y[:, 0]),
        (),
        "3 columns have rank 2 to the precision of float64",
    ),
    "few rows": ((X, Y[:, 0], np.arange(N) < 3), (*PLAIN, "--lams", GRID), "3 rows for 3 columns"),
    "not solved": ((np.column_stack([X[:, :2], X[:, 0]]), Y[:, 0]), ("--lams", TINY), "at 2 of 100 λ"),
    "flat target": ((X, np.ones(N)), (), "constant target: 'y'"),
    "useless columns": ((X, UNRELATED), (), "λ* is infinite: leaving all columns out"),
    "idle option": ((X, Y[:, 0]), ("--folds", "3"), "--folds and --seed have no part"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings_say_what_to_look_at(tmp_path, name):
    arrays, options, words = WARNINGS[name]
    table = npz(tmp_path / "d.npz", **dict(zip(("X", "y", "weights"), arrays, strict=False)))
    result = run("sweep", table, *options)
    assert words in result.stderr
    assert "λ* =" in result.stdout


def test_a_plain_sweep_has_nothing_to_warn_of(tmp_path, data):
    assert run("sweep", data, "--target", "price", "--drop", "wait", "--lams", GRID).stderr == ""


def broken(row: int, column: int, value: object) -> list[list[object]]:
    rows: list[list[object]] = np.column_stack([X, Y]).tolist()
    rows[row][column] = value
    return rows


def with_column(values: list[object]) -> list[list[object]]:
    return [[*row, value] for row, value in zip(np.column_stack([X, Y]).tolist(), values, strict=True)]


EXTRA = (*NAMES, "price", "wait", "extra")
CSV = {
    "NaN": (dict(rows=broken(6, 1, "nan")), "price", ["'age' is missing in data row 7", "drop", "impute"]),
    "empty entry": (dict(rows=broken(0, 2, "")), "price", ["'dose' is missing in data row 1"]),
    "missing target": (dict(rows=broken(3, 3, "NA")), "price", ["'price' is missing in data row 4"]),
    "infinite": (dict(rows=broken(23, 0, "-inf")), "price", ["'size' is infinite in data row 24"]),
    "text": (dict(names=EXTRA, rows=with_column(["red"] * N)), "price", ["'extra' holds text", "'red'", "encode"]),
    "one word": (dict(rows=broken(8, 0, "n.a.")), "price", ["'size' holds text, such as 'n.a.' in data row 9"]),
    "dates": (dict(names=EXTRA, rows=with_column(["2024-05-01"] * N)), "price", ["'extra' holds dates or times"]),
    "times": (dict(names=EXTRA, rows=with_column(["2024-05-01 12:00:00"] * N)), "price", ["dates or times"]),
    "all missing": (dict(names=EXTRA, rows=with_column([""] * N)), "price", ["'extra' is missing in data rows 1, 2"]),
    "no such target": ({}, "pirce", ["no column 'pirce' for --target", "did you mean 'price'"]),
    "nothing near": ({}, "zzz", ["no column 'zzz'", "it has 'size', 'age'"]),
    "repeated names": (dict(names=(*NAMES, "size", "price")), "price", ["more than one column named 'size'"]),
    "nameless": (dict(names=("", *NAMES, "price")), "price", ["column 1 has no name"]),
    "no rows": (dict(rows=[]), "price", ["has no rows"]),
    "one row": (dict(rows=[[1, 2, 3, 4, 5]]), "price", ["has 1 row; at least 2"]),
    "no features": (dict(names=("price",), rows=[[1], [2]]), "price", ["no column left as a feature"]),
    "ragged": (dict(rows=[[1, 2, 3, 4, 5], [1, 2, 3]]), "price", ["cannot be read as CSV", "got 3", "cut short"]),
}


@pytest.mark.parametrize("name", CSV)
def test_bad_csv_is_refused_in_one_sentence(tmp_path, name):
    content, target, words = CSV[name]
    said = sentence("sweep", write_csv(tmp_path / "bad.csv", **content), "--target", target)
    assert all(word in said for word in [*words, "bad.csv"]), said


OPTIONS = {
    "no target": ((), ["--target", "'size', 'age', 'dose'"]),
    "target is weights": (("--target", "price", "--weights", "price"), ["'price' has two roles"]),
    "weights unknown": (("--target", "price", "--weights", "wieght"), ["no column 'wieght' for --weights"]),
    "drop unknown": (("--target", "price", "--drop", "doze"), ["no column 'doze' for --drop", "'dose'"]),
    "negative weights": (("--target", "price", "--weights", "wait"), ["'wait' are negative in data row", "≥ 0"]),
    "negative λ": (("--target", "price", "--lams", "1,-2"), ["holds -2", "≥ 0"]),
    "negative range": (("--target", "price", "--lams", "-1:2:3"), ["holds -1", "≥ 0"]),
    "NaN λ": (("--target", "price", "--lams", "nan,1"), ["holds nan"]),
    "infinite λ": (("--target", "price", "--lams", "inf"), ["holds inf"]),
    "words for λ": (("--target", "price", "--lams", "small"), ["'small' is not a grid", "1e-3:1e3:50"]),
    "two parts": (("--target", "price", "--lams", "1:2"), ["'1:2' is not a grid", "low:high:count"]),
    "list of ranges": (("--target", "price", "--lams", "1:2,3"), ["not a grid"]),
    "empty λ": (("--target", "price", "--lams", ""), ["'' is not a grid"]),
    "range from 0": (("--target", "price", "--lams", "0:1:5"), ["0 < low < high"]),
    "range of one": (("--target", "price", "--lams", "1:2:1"), ["count of at least 2"]),
    "endless range": (("--target", "price", "--lams", "1:2:999999999"), ["10000 is the most"]),
    "λ beyond float32": (("--target", "price", "--lams", "1e-60,1", "--dtype", "float32"), ["range of float32"]),
    "folds": (("--target", "price", "--rule", "kfold", "--folds", "25"), ["--folds 25 is more than the 24 rows"]),
    "plot of one λ": (("--target", "price", "--lams", "0,1", "--plot", "p.png"), ["two different positive λ"]),
    "plot type": (("--target", "price", "--plot", "p.xyz"), ["p.xyz is not of a known type", ".png"]),
    "fit type": (("--target", "price", "--out", "fit.pkl"), ["fit.pkl is not of a known type", ".json or .npz"]),
    "no such folder": (("--target", "price", "--out", "nowhere/fit.npz"), ["cannot be written", "No such file"]),
    "a folder": (("--target", "price", "--out", "folder.npz"), ["not a regular file"]),
    "over the data": (("--target", "price", "--out", "data.npz"), ["already another file"]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_options_are_refused_in_one_sentence(tmp_path, data, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("folder.npz").mkdir()
    options, words = OPTIONS[name]
    source = npz(tmp_path / "data.npz", X=X, y=Y[:, 0], target_names=["price"]) if name == "over the data" else data
    before = sorted(tmp_path.iterdir())
    said = sentence("sweep", source, *options)
    assert all(word in said for word in words), said
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def test_outputs_are_checked_before_the_data_is_read(tmp_path):
    missing = tmp_path / "missing.csv"
    assert "fit.pkl" in sentence("sweep", missing, "--target", "y", "--out", tmp_path / "fit.pkl")
    assert "not a regular file" in sentence("predict", missing, missing, "--out", f"{make(tmp_path / 'd.csv')}")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


FILES = {
    "missing": (lambda p: p / "none.csv", ["none.csv does not exist"]),
    "folder": (lambda p: make(p / "folder.csv"), ["is not a file"]),
    "empty csv": (lambda p: text_file(p / "a.csv", ""), ["a.csv is empty"]),
    "empty npz": (lambda p: text_file(p / "a.npz", ""), ["a.npz is empty"]),
    "unknown type": (lambda p: text_file(p / "a.xlsx", "x"), ["not of a known type", ".csv or .tsv or .parquet"]),
    "latin-1 header": (lambda p: text_file(p / "a.csv", "größe,y\n1,2\n".encode("latin-1")), ["not UTF-8"]),
    "latin-1 value": (lambda p: text_file(p / "a.csv", "a,y\ngröße,2\n".encode("latin-1")), ["not UTF-8"]),
    "binary csv": (lambda p: text_file(p / "a.csv", bytes(range(256))), ["a.csv"]),
    "not parquet": (lambda p: text_file(p / "a.parquet", "a,y\n1,2\n"), ["cannot be read as PARQUET"]),
    "cut parquet": (lambda p: cut(parquet_file(p / "a.parquet")), ["cannot be read as PARQUET", "cut short"]),
    "cut npz": (lambda p: cut(npz(p / "a.npz", X=X, y=Y)), ["cannot be read as NPZ", "cut short"]),
    "not npz": (lambda p: text_file(p / "a.npz", "a,b\n1,2\n"), ["cannot be read as NPZ"]),
    "bare array": (lambda p: bare(p / "a.npz"), ["one bare array", "numpy.savez"]),
    "pickle": (lambda p: npz(p / "a.npz", X=np.array([[object()]]), y=Y), ["cannot be read as NPZ"]),
    "no X": (lambda p: npz(p / "a.npz", features=X, y=Y), ["holds 'features', 'y'", "X (n, d)"]),
    "no y": (lambda p: npz(p / "a.npz", X=X), ["add an array y", "--target"]),
    "vector X": (lambda p: npz(p / "a.npz", X=X[:, 0], y=Y), ["X has shape (24,)", "(n, d) is needed"]),
    "lengths": (lambda p: npz(p / "a.npz", X=X, y=Y[:20]), ["X has 24 rows, y has 20 rows", "same observations"]),
    "weight lengths": (lambda p: npz(p / "a.npz", X=X, y=Y, weights=WEIGHTS[1:]), ["weights has 23 rows"]),
    "zero weights": (lambda p: npz(p / "a.npz", X=X, y=Y, weights=0 * WEIGHTS), ["are all zero"]),
    "one weight": (lambda p: npz(p / "a.npz", X=X, y=Y, weights=np.eye(N)[0]), ["has 1 row of positive weight"]),
    "no columns": (lambda p: npz(p / "a.npz", X=X[:, :0], y=Y), ["no column left as a feature"]),
    "no rows": (lambda p: npz(p / "a.npz", X=X[:0], y=Y[:0]), ["has no rows"]),
    "names": (lambda p: npz(p / "a.npz", X=X, y=Y, feature_names=NAMES[:2]), ["feature_names has 2", "3 columns"]),
    "same names": (lambda p: npz(p / "a.npz", X=X, y=Y[:, 0], feature_names=[*"ay", "b"]), ["named 'y'"]),
    "complex": (lambda p: npz(p / "a.npz", X=X + 1j, y=Y), ["'x1' holds complex numbers"]),
    "strings": (lambda p: npz(p / "a.npz", X=np.array([["u"], ["v"]]), y=Y[:2]), ["'x1' holds text, such as 'u'"]),
    "NaN": (lambda p: npz(p / "a.npz", X=np.where(X[5, 1] == X, np.nan, X), y=Y), ["'x2' is missing in data row 6"]),
    "a fit": (lambda p: npz(p / "a.npz", kind="jaxridge fit, format 1"), ["holds a fit, not a table"]),
    "lists": (lambda p: parquet_file(p / "a.parquet", size=[[1.0]] * N), ["'size' holds values that are not numbers"]),
    "number text": (lambda p: parquet_file(p / "a.parquet", size=["1"] * N), ["'size' holds text, such as '1'"]),
}


def parquet_file(path: Path, **columns) -> Path:
    table = dict(zip(NAMES, X.T, strict=True)) | {"price": Y[:, 0]} | columns
    parquet.write_table(pa.table(table), path)
    return path


def bare(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, X)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name):
    maker, words = FILES[name]
    path = maker(tmp_path)
    target = () if path.suffix == ".npz" else ("--target", "price" if path.suffix == ".parquet" else "y")
    said = sentence("sweep", path, *target)
    assert all(word in said for word in words), said


def test_numbers_out_of_range_are_refused(tmp_path):
    big = npz(tmp_path / "big.npz", X=X, y=1e30 * Y[:, 0])
    assert "squared errors of 'y' leave the range of float32" in sentence(
        "sweep", big, "--dtype", "float32", "--lams", GRID
    )
    wide = npz(tmp_path / "wide.npz", X=X * 1e160, y=Y[:, 0])
    assert "The fit leaves the range of float64" in sentence("sweep", wide)
    first_fold_idle = npz(tmp_path / "idle.npz", X=X, y=Y[:, 0], weights=np.arange(N) > 5)
    assert "a fold holds no row of positive weight" in sentence("sweep", first_fold_idle, "--rule", "kfold")
    huge = npz(tmp_path / "huge.npz", X=X * [1, 1e60, 1], y=Y[:, 0])
    assert "'x2' is out of the range of float32" in sentence("sweep", huge, "--dtype", "float32")


FITS = {
    "not a fit": (lambda p: npz(p / "f.npz", X=X, y=Y), ["f.npz is not a fit", "sweep --out"]),
    "other json": (lambda p: text_file(p / "f.json", "[1, 2]"), ["is not a fit"]),
    "broken json": (lambda p: text_file(p / "f.json", '{"kind": '), ["cannot be read as JSON"]),
    "cut npz": (lambda p: cut(fit_file(p / "f.npz")), ["cannot be read as NPZ"]),
    "no coefficients": (lambda p: altered(p / "f.json", coef=None), ["damaged fit"]),
    "short coefficients": (lambda p: altered(p / "f.json", coef=[[1.0]]), ["damaged fit"]),
    "unknown type": (lambda p: text_file(p / "f.txt", ""), [".npz or .json"]),
    "missing": (lambda p: p / "none.json", ["does not exist"]),
}


def fit_file(path: Path) -> Path:
    cli.files.save_fit(path, FIELDS)
    return path


def altered(path: Path, **fields) -> Path:
    cli.files.save_fit(path, {**FIELDS, **fields})
    return path


FIELDS = {
    "feature_names": NAMES,
    "target_names": ["price"],
    "coef": np.ones((3, 1)),
    "intercept": np.ones(1),
    "dtype": "float64",
}


@pytest.mark.parametrize("name", FITS)
def test_bad_fits_are_refused_in_one_sentence(tmp_path, data, name):
    maker, words = FITS[name]
    said = sentence("predict", maker(tmp_path), data)
    assert all(word in said for word in words), said


def test_bad_prediction_data_is_refused_in_one_sentence(tmp_path):
    fit = fit_file(tmp_path / "f.json")
    lacks = write_csv(tmp_path / "a.csv", ["size", "dose"], [[1, 2]])
    assert "lacks 'age'" in sentence("predict", fit, lacks)
    gap = write_csv(tmp_path / "b.csv", NAMES, [[1, 2, 3], [1, "", 3]])
    assert "'age' is missing in data row 2" in sentence("predict", fit, gap)
    assert "2 columns without names, and the fit has 3" in sentence("predict", fit, npz(tmp_path / "c.npz", X=X[:, :2]))
    large = write_csv(tmp_path / "d.csv", NAMES, [[1, 2, 3], [1e308, 1e308, 1e308]])
    assert "data row 2 leave the range" in sentence("predict", fit, large)
    assert ".csv or .npz or .parquet" in sentence("predict", fit, gap, "--out", tmp_path / "p.xls")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    old = fit_file(tmp_path / "f.npz")
    before = old.read_bytes()

    def full(file, *args, **kwargs):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(cli.BadInput, match="No space left on device"):
        fit_file(old)
    assert old.read_bytes() == before
    assert list(tmp_path.iterdir()) == [old]


def test_missing_packages_name_their_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "jaxridge[plot]"' in sentence("sweep", "--plot", tmp_path / "p.png")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(cli.__file__, run_name="probe")
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: The command line needs typer: pip install "jaxridge[cli]".\n'


def test_info_names_versions_devices_and_precision():
    said = run("info").stdout
    for word in (jax.__version__, np.__version__, "cpu", "x64 on", "matmul precision", "python"):
        assert word in said


def test_help_documents_every_option():
    said = run("sweep", "--help").stdout
    for option in ("--target", "--lams", "--rule", "--no-standardize", "--per-target", "--plot", "--out", "--dtype"):
        assert option in said


def test_as_a_process_piped_and_narrow(tmp_path, data):
    command = [sys.executable, "-m", "jaxridge", "sweep", data, "--target", "price", "--drop", "wait", "--lams", GRID]
    where = jax.config.jax_compilation_cache_dir
    cache = {"JAX_COMPILATION_CACHE_DIR": str(where)} if where else {}
    env = {**os.environ, **cache, "COLUMNS": "40", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--out", tmp_path / "f.npz"], capture_output=True, text=True, env=env, check=True)
    assert load(tmp_path / "f.npz")["coef"].dtype == np.float64, "the process computes in float64 by itself"
    assert "leave-one-out RMSE" in done.stdout
    assert "..." not in done.stdout
    assert max(map(len, done.stdout.splitlines())) > 60


@pytest.fixture
def folder(tmp_path) -> Path:
    """The table in three files."""
    names = ["size", "age", "dose", "price", "wait"]
    for number, part in enumerate(np.array_split(np.column_stack([X, Y]), 3)):
        table = pa.table(dict(zip(names, part.T.copy(), strict=True)))
        (tmp_path / "rows").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "rows" / f"part-{number}.parquet")
    return tmp_path / "rows"


@pytest.mark.parametrize("rule", ["loo", "gcv", "kfold"])
def test_a_folder_is_swept_as_a_table_is(tmp_path, data, folder, rule):
    """Rows a batch at a time: the same λ, coefficients and table; k-fold by rows in turn."""
    options = ["--target", "price", "--target", "wait", "--lams", GRID, "--rule", rule, "--folds", "3", "--per-target"]
    there = run("sweep", data, *options, "--out", tmp_path / "there.npz")
    here = run("sweep", folder, *options, "--out", tmp_path / "here.npz", "--resume", tmp_path / "sums.npz")
    ours, theirs = load(tmp_path / "here.npz"), load(tmp_path / "there.npz")
    assert (tmp_path / "sums.npz").exists()
    if rule == "kfold":
        assert "λ* of price" in here.stdout
        return
    for name in ("coef", "intercept", "lam", "lams", "scores", "dof"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-8)
    # All but the names of the source, and of the rules that were tried.
    assert here.stdout.splitlines()[1] == there.stdout.splitlines()[1]
    assert here.stdout.splitlines()[-6:] == there.stdout.splitlines()[-6:]


def test_a_file_beyond_the_memory_allowed_is_streamed_and_said_to_be_skipped(tmp_path, data, folder):
    one = folder / "part-0.parquet"
    streamed = run("sweep", one, "--target", "price", "--memory", "1kB")
    assert "λ* by GCV" in streamed.stdout
    assert "λ* by leave-one-out" in run("sweep", one, "--target", "price").stdout
    one.write_bytes(one.read_bytes()[:200])
    said = sentence("sweep", folder, "--target", "price")
    assert "part-0.parquet" in said
    skipped = run("sweep", folder, "--target", "price", "--skip-bad")
    assert "note: left out: " in skipped.stderr
    assert "16 rows" in skipped.stdout
    assert "write one such as 4GiB" in sentence("sweep", folder, "--target", "price", "--memory", "much")
    assert "--skip-bad" in sentence("sweep", nan_rows(folder), "--target", "price")
    assert "--target" in sentence("sweep", folder)


def nan_rows(folder: Path) -> Path:
    parquet.write_table(pa.table({"a": [1.0, None, 2.0], "price": [1.0, 2.0, 3.0]}), folder.parent / "holes.parquet")
    return folder.parent / "hole?.parquet"
