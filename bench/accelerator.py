"""How much faster is an accelerator than the CPU beside it, and are its answers as good?

Ridge paths, folds, streamed rows, batched fits, kernels, float32 products and dense factorisations on the first device
that JAX has, each once more on the CPU, with an error against NumPy in float64. Data are synthetic and seeded. One
table, printed row by row and kept in ``bench/results`` as it grows, so that an end before its time loses nothing.
`--small` takes toy sizes, to see that everything runs.
"""

import argparse
import datetime
import gc
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header

import jaxridge as jxr

RESULTS = Path(__file__).parent / "results"
REPEATS, ENOUGH = 3, 2.0  # calls after the first, and seconds of them after which there is no other; a quarter on CPU
WAITING = "not run: out of time"

# Columns of the table and how wide they are printed.
COLUMNS = {
    "what": 36,
    "sizes": 30,
    "dtype": 7,
    "first call, s": 13,
    "second call, s": 14,
    "CPU, s": 9,
    "CPU, s of all cores": 19,
    "ratio": 7,
    "error": 7,
    "note": 0,
}

LEGEND = """\
The first call compiles; the second is the best of up to three. The CPU is that of the same machine, its time that of a
second call, and beside it the time that its cores spent on it together. The ratio is CPU, s over second call, s. The
error is relative, against NumPy in float64; the note says of what.
"""


@dataclass
class Work:
    """A function of arrays, NumPy arrays to call it with, and how wrong what it gives is."""

    f: Callable[..., Any]
    arguments: tuple[np.ndarray, ...]
    error: Callable[[Any], float]
    of: str
    on_cpu: Callable[..., Any] | None = None  # if the CPU is asked in other words


@dataclass
class Row:
    """A line of the table: what it measures, and what came out so far."""

    what: str
    sizes: str
    dtype: str
    flops: float  # about, in units of float64
    make: Callable[[], Work]
    first: float | None = None
    second: float | None = None
    cpu: float | None = None
    busy: float | None = None
    ratio: float | None = None
    error: float | None = None
    note: str = WAITING

    def cells(self) -> list[str]:
        def seconds(value):
            return "-" if value is None else f"{value:.2e}" if value < 1e-3 else f"{value:.4g}"

        times = [seconds(value) for value in (self.first, self.second, self.cpu, self.busy)]
        ratio = "-" if self.ratio is None else f"{self.ratio:.3g}×"
        error = "-" if self.error is None else f"{self.error:.1e}"
        return [self.what, self.sizes, self.dtype, *times, ratio, error, self.note]


def line(cells) -> str:
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, COLUMNS.values(), strict=True))} |"


@dataclass
class Report:
    """The table, as far as it is known: in a file, and row by row in print."""

    path: Path
    head: str
    rows: list[Row]
    shown: int = 0

    def show(self, until):
        for row in self.rows[self.shown : until]:
            print(line(row.cells()), flush=True)
        self.shown = until

    def write(self):
        text = "\n".join([self.head, *top(), *(line(row.cells()) for row in self.rows), ""])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{threading.get_ident()}")
        part.write_text(text, encoding="utf-8")
        os.replace(part, self.path)


def top() -> list[str]:
    return [line(COLUMNS), line(["-" * max(width, 3) for width in COLUMNS.values()])]


# Time


def timed(program, arguments) -> tuple[float, float, Any]:
    """Seconds of wall time, seconds of all cores of the host, and the result."""
    begun, busy = time.perf_counter(), time.process_time()
    out = jax.block_until_ready(program(*arguments))
    return time.perf_counter() - begun, time.process_time() - busy, out


def measure(f, arguments, device, enough, most=np.inf) -> tuple[float, float, float, Any]:
    """First call, the best of some more (or the first, if it took more than that), its cores' time, and the result."""
    program, arguments = jax.jit(f), jax.block_until_ready(jax.device_put(arguments, device))
    first, busy, out = timed(program, arguments)
    calls = []
    while first <= most and len(calls) < REPEATS and sum(wall for wall, _ in calls) < enough:
        calls.append(timed(program, arguments)[:2])
    return first, *min(calls, default=(first, busy)), out


def cpu_speed(cpu) -> float:
    """Flops a second of a QR factorisation in float64, by which the time of a row on the CPU is guessed."""
    n = 600
    A = np.random.default_rng(0).standard_normal((n, n))
    # A busy moment may make it look a hundred times slower than any CPU is.
    return max(5e9, 4 / 3 * n**3 / measure(partial(jnp.linalg.qr, mode="r"), (A,), cpu, ENOUGH)[1])


def guess(row, rows, which, otherwise):
    """Seconds of one call, by the last row of the same name."""
    known = [(getattr(other, which), other.flops) for other in rows if other.what == row.what and other is not row]
    known = [seconds / flops for seconds, flops in known if seconds is not None]
    return row.flops * known[-1] if known else otherwise


def first_line(error) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text[:150].replace("|", "/")


@dataclass
class Bench:
    """Where rows run, and how long they may."""

    device: Any
    cpu: Any  # None where there is no other device to compare with
    limit: float  # seconds of a call
    end: float  # by time.monotonic
    speed: float
    report: Report

    def run(self, row):
        """Fill in a row, whatever happens to it."""
        seconds = guess(row, self.report.rows, "second", 0.0)
        if seconds > self.limit:
            row.note = f"not run: would take about {seconds:.0f} s"
            return
        row.note = "not finished"
        self.report.write()
        try:
            work = row.make()
            f = work.on_cpu or work.f if self.device.platform == "cpu" else work.f
            row.first, row.second, busy, out = measure(f, work.arguments, self.device, ENOUGH)
            row.error, row.note = work.error(jax.device_get(out)), f"error of {work.of}"
        except Exception as error:
            row.note = first_line(error)
            return
        if self.cpu is not None:
            self.compare(row, work)
        elif self.device.platform == "cpu":
            row.cpu, row.busy = row.second, busy

    def compare(self, row, work):
        """The same on the CPU, if that takes no longer than it may."""
        seconds = guess(row, self.report.rows, "cpu", row.flops / self.speed)
        if seconds > min(self.limit, self.end - time.monotonic()):
            row.note += f"; CPU not run: would take about {seconds:.0f} s"
            return
        measured = row.note
        row.note += "; CPU not finished"
        self.report.write()
        try:
            f = work.on_cpu or work.f
            first, row.cpu, row.busy, _ = measure(f, work.arguments, self.cpu, ENOUGH / 4, self.limit)
        except Exception as error:
            row.note = f"{measured}; CPU: {first_line(error)}"
            return
        row.note = measured
        row.ratio = row.cpu / row.second
        if row.cpu == first:
            row.note += "; CPU's first call, compiled in it"


# What is measured


def distance(found, wanted) -> float:
    """Largest of the relative distances along the first axis."""
    found, wanted = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (found, wanted))
    return float(np.max(np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)))


@lru_cache(maxsize=1)
def regression(n, d, t):
    """Columns of sizes from 1 to 1/100, and targets of as much noise as signal."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)) * np.logspace(0, -2, d)
    signal = X @ rng.standard_normal((d, t))
    y = signal + signal.std() * rng.standard_normal((n, t))
    return X, y[:, 0] if t == 1 else y


def coefficients(X, y, lams):
    """Ridge with an intercept by normal equations, which the condition of these columns, 100, allows in float64."""
    X, y = X - X.mean(0), y - y.mean(0)
    gram, right = X.T @ X, X.T @ y
    return np.stack([np.linalg.solve(gram + lam * np.eye(len(gram)), right) for lam in lams])


def sizes_of(n, d, t, k):
    return f"{n} × {d}, {k} λ" + (f", {t} targets" if t > 1 else "")


def choice_row(what, n, d, t, k, dtype, rule):
    """ridge_cv, with the coefficients at the λ that it takes."""

    def f(X, y, lams):
        choice = jxr.ridge_cv(X, y, lams, rule=rule)
        return choice.lam, choice.fit.coef, choice.scores

    def make():
        X, y = regression(n, d, t)
        arguments = tuple(a.astype(dtype) for a in (X, y, np.logspace(-3, 3, k)))
        return Work(f, arguments, lambda out: distance(out[1][None], coefficients(X, y, [out[0]])), "coefficients")

    flops = (6 * n * d * d + 4 * n * d * k * t) * (1 if dtype == "float64" else 0.5)
    return Row(what, sizes_of(n, d, t, k), dtype, flops, make)


def path_row(what, n, d, k, dtype, solver, flops):
    """ridge_path, with the coefficients at three λ."""

    def f(X, y, lams):
        path = jxr.ridge_path(X, y, lams, solver=solver)
        return path.coef, path.dof, path.rss

    def make():
        X, y = regression(n, d, 1)
        lams, some = np.logspace(-3, 3, k), [0, k // 2, k - 1]
        arguments = tuple(a.astype(dtype) for a in (X, y, lams))
        return Work(
            f, arguments, lambda out: distance(out[0][some], coefficients(X, y, lams[some])), "coefficients at three λ"
        )

    return Row(what, sizes_of(n, d, 1, k), dtype, flops * (1 if dtype == "float64" else 0.5), make)


def stream_row(steps, batch, d):
    """Two streams of batches in one scan, merged and finished."""
    n, lams = 2 * steps * batch, np.array([1.0, 100.0])

    def f(X, y, lams):
        def step(rows, both):
            X, y = both
            return tuple(jxr.stream.update(half, X[i], y[i]) for i, half in enumerate(rows)), None

        empty = jxr.stream.init(d, 1, dtype=X.dtype)
        (one, other), _ = jax.lax.scan(step, (empty, empty), (X, y))
        return jax.vmap(jxr.stream.finish(jxr.stream.merge(one, other)).coef)(lams)[:, :d, 0]

    def make():
        rng = np.random.default_rng(1)
        X = rng.standard_normal((n, d), np.float32) * np.logspace(0, -2, d).astype(np.float32)
        y = X @ rng.standard_normal(d, np.float32) + rng.standard_normal(n, np.float32)
        arguments = X.reshape(steps, 2, batch, d), y.reshape(steps, 2, batch), lams.astype(np.float32)
        return Work(f, arguments, lambda out: distance(out, by_batches(X, y, batch, lams)), "coefficients")

    return Row("stream, update and merge", f"{n} × {d} in {2 * steps} batches", "float32", 4 * n * d * d, make)


def by_batches(X, y, batch, lams):
    """`coefficients` in float64 of rows in float32, without a copy of them all."""
    gram = 0.0
    for i in range(0, len(y), batch):
        A = np.column_stack([X[i : i + batch], y[i : i + batch], np.ones(len(y[i : i + batch]))]).astype(np.float64)
        gram = gram + A.T @ A
    d, ones = X.shape[1], gram[-1]
    gram = gram - np.outer(ones, ones) / ones[-1]
    return np.stack([np.linalg.solve(gram[:d, :d] + lam * np.eye(d), gram[:d, d]) for lam in lams])


SIDE = 5
COLUMN, ROW = (axis.ravel().astype(np.float32) for axis in np.meshgrid(np.arange(SIDE), np.arange(SIDE)))


def gaussian(b, xp=jnp):
    """Pixels of a spot: height, place, width and background, with a last axis of pixels."""
    height, x, y, width, background = (b[..., i : i + 1] for i in range(5))
    spot = xp.square(COLUMN - x) + xp.square(ROW - y)
    return height * xp.exp(-spot / (2 * width * width)) + background


def batch_row(count):
    """The fits of `batched_fits.py`, 5 parameters on 5 × 5 pixels."""

    def make():
        rng = np.random.default_rng(0)
        truth = rng.uniform([8, 1.5, 1.5, 0.8, 0.5], [12, 2.5, 2.5, 1.2, 1.5], (count, 5))
        start = (truth * rng.uniform(0.9, 1.1, truth.shape)).astype(np.float32)
        pixels = gaussian(truth, np) + 0.3 * rng.standard_normal((count, SIDE * SIDE))
        pixels = pixels.astype(np.float32)

        def f(start, pixels, block=None):
            options = {"ftol": 1e-4, "xtol": 1e-4, "max_steps": 20, "block": block}
            found = jxr.least_squares_batch(lambda b, pixels: gaussian(b) - pixels, start, pixels, **options)
            return found.value, found.steps

        # The default block is that of the first device, also where a program runs on another.
        on_cpu = partial(f, block=1000)
        error = lambda out: newton_step(out[0][:1000], pixels[:1000])  # noqa: E731
        return Work(f, (start, pixels), error, "parameters, the median of one more step", on_cpu)

    return Row("least_squares_batch of Gaussians", f"{count} × 5", "float32", 20_000 * count, make)


def newton_step(values, pixels) -> float:
    """Median relative size of one more step of Gauss–Newton."""
    b, pixels = values.astype(np.float64), pixels.astype(np.float64)
    dx, dy, e = COLUMN - b[:, 1:2], ROW - b[:, 2:3], gaussian(b, np) - b[:, 4:]
    width = b[:, 3:4]
    columns = [e / b[:, :1], e * dx / width**2, e * dy / width**2, e * (dx**2 + dy**2) / width**3, np.ones_like(e)]
    J, r = np.stack(columns, axis=-1), gaussian(b, np) - pixels
    step = np.linalg.solve(np.swapaxes(J, 1, 2) @ J, np.swapaxes(J, 1, 2) @ r[:, :, None])[:, :, 0]
    return float(np.median(np.linalg.norm(step, axis=1) / np.linalg.norm(b, axis=1)))


@lru_cache(maxsize=1)
def scattered(n, d):
    rng = np.random.default_rng(2)
    points = rng.standard_normal((n, d))
    return points, np.sin(2 * points).sum(1) + 0.3 * rng.standard_normal(n)


def rbf(a, b, scale):
    squares = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1)[None, :] - 2 * a @ b.T
    return np.exp(-0.5 * np.maximum(squares, 0) / scale**2)


@lru_cache(maxsize=1)
def dual(n, d, lam):
    """α of kernel ridge with an intercept, from the bordered system."""
    points, y = scattered(n, d)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = rbf(points, points, 2.0) + lam * np.eye(n)
    system[n, n] = 0.0
    return np.linalg.solve(system, np.append(y, 0.0))[:n]


def kernel_row(what, n, k, solver, flops):
    """kernel_ridge_path, with the coefficients at the middle λ."""
    d = 4

    def f(points, y, lams):
        path = jxr.kernel_ridge_path(points, y, lams, kernel=jxr.kernels.RBF(2.0), solver=solver)
        return path.dual_coef, path.intercept

    def make():
        lams = np.logspace(-2, 3, k)
        error = lambda out: distance(out[0][k // 2][None], dual(n, d, float(lams[k // 2]))[None])  # noqa: E731
        return Work(f, (*scattered(n, d), lams), error, "dual coefficients at the middle λ")

    return Row(what, f"{n} points, {k} λ", "float64", flops, make)


def gradients_row(n, lams, rank):
    """kernel_ridge_path by conjugate gradients in float32; the error is what 256 of the equations lack."""
    d, k = 4, len(lams)

    def f(points, y, lams):
        solver = jxr.Iterative(jax.random.key(0), rank=rank)
        path = jxr.kernel_ridge_path(points, y, lams, kernel=jxr.kernels.RBF(np.float32(2.0)), solver=solver)
        return path.dual_coef, path.intercept, path.iterations

    def make():
        points, y = scattered(n, d)
        some = np.arange(0, n, -(-n // 256))
        K = rbf(points[some], points, 2.0)

        def error(out):
            alpha, b = (a.astype(np.float64) for a in out[:2])
            return distance(alpha @ K.T + lams[:, None] * alpha[:, some] + b[:, None], np.tile(y[some], (k, 1)))

        return Work(f, tuple(a.astype(np.float32) for a in (points, y, lams)), error, "256 equations")

    flops = n * n * (d + 30 * k)
    return Row("kernel path, conjugate gradients", f"{n} points, {k} λ", "float32", flops, make)


def product_row(what, n, precision):
    """A product in float32; the error is that of 64 rows."""

    def make():
        rng = np.random.default_rng(3)
        A, B = rng.standard_normal((n, n), np.float32), rng.standard_normal((n, n), np.float32)

        def error(out):
            wanted = A[:64].astype(np.float64) @ B.astype(np.float64)
            return distance(out[:64].reshape(1, -1), wanted.reshape(1, -1))

        return Work(partial(jnp.matmul, precision=precision), (A, B), error, "64 rows")

    return Row(what, f"{n} × {n}", "float32", n**3, make)


def gram(A):
    return jnp.matmul(A.T, A, precision=jax.lax.Precision.HIGHEST)


def svd_by_qr(A):
    return jnp.linalg.svd(jnp.linalg.qr(A)[1], full_matrices=False)[1:]


# Each gives factors of AᵀA, and how to multiply a vector by it with them; flops are those of n³ at a square A.
FACTORISATIONS = {
    "SVD": (lambda A: jnp.linalg.svd(A, full_matrices=False)[1:], lambda s, Vt, x: Vt.T @ (s**2 * (Vt @ x)), 20, 1),
    "eigh of the Gram matrix": (lambda A: tuple(jnp.linalg.eigh(gram(A))), lambda e, V, x: V @ (e * (V.T @ x)), 11, 1),
    "QR": (lambda A: (jnp.linalg.qr(A, mode="r"),), lambda R, x: R.T @ (R @ x), 4 / 3, 1),
    "Cholesky of the Gram matrix": (lambda A: (jnp.linalg.cholesky(gram(A)),), lambda L, x: L @ (L.T @ x), 4 / 3, 1),
    "tall SVD by QR": (svd_by_qr, lambda s, Vt, x: Vt.T @ (s**2 * (Vt @ x)), 32, 4),
    "tall QR": (lambda A: (jnp.linalg.qr(A, mode="r"),), lambda R, x: R.T @ (R @ x), 22 / 3, 4),
}


@lru_cache(maxsize=2)
def normal(m, n):
    return np.random.default_rng(4).standard_normal((m, n))


def factor_row(what, n):
    f, times, flops, tall = FACTORISATIONS[what]

    def make():
        A = normal(tall * n, n)
        x = np.linspace(-1.0, 1.0, n)
        return Work(
            f, (A,), lambda out: distance(times(*out, x)[None], (A.T @ (A @ x))[None]), "the Gram matrix on a vector"
        )

    return Row(what, f"{tall * n} × {n}", "float64", flops * n**3, make)


def rows(small: bool) -> list[Row]:
    """Every row of the table, in the order in which they run."""
    (n, d), k = ((200, 10), 5) if small else ((20_000, 500), 100)
    highest, default = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT
    design, by_gram = jxr.spectrum.from_design, jxr.spectrum.from_gram
    many = (100, 5, 3, 5) if small else (5000, 200, 200, 100)
    points, shifts = (60, 5) if small else (4000, 30)
    kernels, product = jxr.kernel_methods, 64 if small else 8192
    sizes = (8, 16, 24, 32, 48) if small else (256, 512, 1024, 2048, 4096)
    return [
        choice_row("ridge path, leave-one-out", n, d, 1, k, "float64", jxr.select.loo),
        path_row("ridge path", n, d, k, "float64", design, 6 * n * d * d),
        path_row("ridge path", n, d, k, "float32", design, 6 * n * d * d),
        path_row("ridge path by the Gram matrix", n, d, k, "float64", by_gram, 2 * n * d * d),
        choice_row("ridge path, five folds", *many, "float64", jxr.select.kfold(5)),
        stream_row(*((2, 50, 5) if small else (50, 10_000, 100))),
        batch_row(200 if small else 100_000),
        kernel_row("kernel path, tridiagonal", points, shifts, None, 3 * points**3),
        kernel_row("kernel path, eigenvectors", points, shifts, kernels.Eigen(), 9 * points**3),
        kernel_row("kernel path, Cholesky", points, shifts, kernels.Cholesky(), shifts / 3 * points**3),
        gradients_row(100 if small else 20_000, np.logspace(-1, 2, 2 if small else 4), 20 if small else 500),
        product_row("product, precision HIGHEST", product, highest),
        product_row("product, precision DEFAULT", product, default),
        *(factor_row(what, size) for size in sizes for what in FACTORISATIONS),
    ]


# The whole


def devices() -> tuple[Any, Any, str]:
    """The device to measure, the CPU to compare it with, or None and why there is none."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return device, None, "No accelerator was found: every figure is the CPU's, nothing is compared."
    try:
        return device, jax.devices("cpu")[0], ""
    except RuntimeError as error:
        return device, None, f"JAX offers no CPU beside it, nothing is compared ({first_line(error)})."


def head(device, reason) -> str:
    lines = [
        "# The CPU alone" if device.platform == "cpu" else f"# {device.device_kind} and the CPU beside it",
        f"Device: {device.device_kind}, platform {device.platform}, {jax.device_count()} of them.  ",
        f"{header('jaxlib')}.  ",
        f"Python {platform.python_version()}, {datetime.date.today()}.",
        *([reason] if reason else []),
        LEGEND,
    ]
    return "\n".join([lines[0], "", *lines[1:4], *("\n" + text for text in lines[4:])])


def give_up(report):
    """What is known is written, and the row that still runs is left."""
    report.write()
    report.show(len(report.rows))
    print(f"Out of time; the table is in {report.path}", flush=True)
    os._exit(0)


def main(arguments=None) -> int:
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=480.0, help="of all rows; what is left then is not run")
    parser.add_argument("--row-seconds", type=float, default=15.0, help="a call that would take longer is not made")
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    device, cpu, reason = devices()
    kind = re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-")
    path = options.out / f"accelerator-{kind}{'-small' if options.small else ''}.md"
    report = Report(path, head(device, reason), rows(options.small))
    print(report.head, *top(), sep="\n", flush=True)
    end = begun + options.seconds
    watch = threading.Timer(max(0.0, end - time.monotonic()) + 1.0, give_up, [report])
    watch.daemon = True
    watch.start()
    bench = Bench(device, cpu, options.row_seconds, end, cpu_speed(cpu) if cpu else 1.0, report)
    for i, row in enumerate(report.rows):
        if time.monotonic() < end:
            bench.run(row)
            gc.collect()
        report.write()
        report.show(i + 1)
    watch.cancel()
    print(f"{time.monotonic() - begun:.0f} s; the table is in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
