"""bench/accelerator.py at toy sizes on the CPU: every row there, finite, right, and in the file too."""

import math
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"

# Largest error allowed of each row, and the number of such rows. In float64 1e-8 is some 10 000 times what the
# condition of the columns, 100, and of the kernel matrix, n/λ < 100, leave; in float32 1e-4 is a hundred times.
APPLICATIONS = {
    ("ridge path, leave-one-out", "float64"): (1e-8, 1),
    ("ridge path", "float64"): (1e-8, 1),
    ("ridge path", "float32"): (1e-4, 1),
    ("ridge path by the Gram matrix", "float64"): (1e-8, 1),
    ("ridge path, five folds", "float64"): (1e-8, 1),
    ("stream, update and merge", "float32"): (1e-4, 1),
    # Within the tolerances that they are asked for, 1e-4 each.
    ("least_squares_batch of Gaussians", "float32"): (1e-4, 1),
    ("kernel path, tridiagonal", "float64"): (1e-8, 1),
    ("kernel path, eigenvectors", "float64"): (1e-8, 1),
    ("kernel path, Cholesky", "float64"): (1e-8, 1),
    # Conjugate gradients stop at 1e-4 of the right-hand side, which has less than y has.
    ("kernel path, conjugate gradients", "float32"): (1e-3, 1),
    # Rounding to float32 leaves √64 · 6e-8 at most; a CPU knows no TF32.
    ("product, precision HIGHEST", "float32"): (1e-5, 1),
    ("product, precision DEFAULT", "float32"): (1e-5, 1),
}
FACTORISATIONS = {
    (name, "float64"): (1e-12, 5)  # backward stable: some n times rounding, n ≤ 48
    for name in (
        "SVD",
        "eigh of the Gram matrix",
        "QR",
        "Cholesky of the Gram matrix",
        "tall SVD by QR",
        "tall QR",
    )
}
EXPECTED = APPLICATIONS | FACTORISATIONS


def run(*arguments) -> str:
    """Standard output of Python on these arguments, without the strictness of the other tests."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, *map(str, arguments)]
    environment = {**quiet, "JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_every_row_of_the_table_is_measured_and_right(tmp_path):
    printed = run(BENCH / "accelerator.py", "--small", "--out", tmp_path)
    written = (tmp_path / "accelerator-cpu-small.md").read_text(encoding="utf-8")
    rows = table(written)
    assert table(printed) == rows
    assert "No accelerator was found" in written
    found = {}
    for row in rows:
        found.setdefault((row["what"], row["dtype"]), []).append(row)
    assert {name: len(rows) for name, rows in found.items()} == {name: count for name, (_, count) in EXPECTED.items()}
    for name, (largest, _) in EXPECTED.items():
        for row in found[name]:
            times = [float(row[column]) for column in ("first call, s", "second call, s", "CPU, s")]
            assert all(math.isfinite(seconds) and seconds > 0 for seconds in times), row
            assert row["ratio"] == "-", row
            assert float(row["error"]) <= largest, row


STAND_INS = """
import sys, time
sys.path.insert(0, {bench!r})
import accelerator, numpy as np

def row(name, make):
    return accelerator.Row(name, "3", "float64", 1.0, make)

def fails():
    raise RuntimeError("out of memory | here\\nand more")

def works():
    return accelerator.Work(lambda x: x + 1.0, (np.ones(3),), lambda out: float(abs(out - 2.0).max()), "a sum")

def hangs():
    time.sleep(60.0)

accelerator.rows = lambda small: [row("fails", fails), row("works", works), row("hangs", hangs), row("late", works)]
accelerator.main(["--seconds", {seconds!r}, "--out", {out!r}])
"""


def test_a_row_that_fails_hangs_or_comes_too_late_leaves_the_others_in_the_file(tmp_path):
    code = STAND_INS.format(bench=str(BENCH), seconds="3", out=str(tmp_path))
    printed = table(run("-c", code))
    notes = {row["what"]: row["note"] for row in printed}
    assert notes == {
        "fails": "RuntimeError: out of memory / here",
        "works": "error of a sum",
        "hangs": "not finished",
        "late": "not run: out of time",
    }
    assert table((tmp_path / "accelerator-cpu.md").read_text(encoding="utf-8")) == printed
    assert printed[1]["error"] == "0.0e+00"
