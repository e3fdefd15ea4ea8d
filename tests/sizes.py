"""Ordinary tables at real sizes: many rows, offsets, scales of columns, quiet targets, and each factorisation by name.

A cell is one problem solved by one verb. Its figure is LAPACK's: the error of the coefficients over what a backward
stable method of its kind may leave of them, eps times √d times what theory lets it grow by (rows, or the Gram matrix
where the name says so). One threshold judges all. A cell is *wrong* when the code is ``successful`` and the figure
passes the threshold or a tenth of the answer is lost, *needless* when the answer has two digits and is flagged.
"""

import functools
import itertools
import os
import sys
from dataclasses import dataclass

import numpy as np

THRESHOLD = 30.0  # as LAPACK's own test programs have it
D = 5
ROWS = (100, 10_000, 100_000, 1_000_000)
OFFSETS = (0.0, 1e2, 1e3)
NOISES = (1.0, 1e-3, 1e-6)
SCALES = {"equal": np.ones(D), "graded": 10.0 ** np.arange(-2, 3), "tiny": np.full(D, 1e-12), "vast": np.full(D, 1e12)}
VARIANTS = ("plain", "no intercept", "weights", "repeated column", "standardize")
SOLVERS = ("from_design", "from_gram", "from_cholesky")
VERBS = (*SOLVERS, "path", "cv", "stream", "kernel")
KERNEL_ROWS = 1000  # a dense kernel matrix has the square of that


@dataclass(frozen=True)
class Cell:
    """Where a problem stands in the table."""

    dtype: str
    rows: int
    offset: float
    noise: float
    scale: str
    variant: str

    def __str__(self):
        numbers = f"n={self.rows:.0e} offset {self.offset:.0e} noise {self.noise:.0e}"
        return f"{self.dtype} {numbers} {self.scale} {self.variant}"


def problem(cell, condition=1e2, d=D):
    """X, y, weights and λs in the dtype of the cell; the cast arrays are the problem."""
    rng = np.random.default_rng(cell.rows)
    Q = np.linalg.qr(rng.standard_normal((cell.rows, d)))[0]
    V = np.linalg.qr(rng.standard_normal((d, d)))[0]
    X = np.sqrt(cell.rows) * (Q * np.logspace(0, -np.log10(condition), d)) @ V.T
    scale = SCALES[cell.scale][:d] if cell.scale in SCALES else np.ones(d)
    sd = X.std(axis=0)
    signal = X @ (rng.standard_normal(d) / sd)
    y = signal + cell.noise * signal.std() * rng.standard_normal(cell.rows) + 3.0 * cell.offset
    X = (X + cell.offset * sd * np.where(np.arange(d) % 2, -1.0, 1.0)) * scale
    if cell.variant == "repeated column":
        X[:, -1] = X[:, 0]
    weights = rng.uniform(0.5, 2.0, cell.rows) if cell.variant == "weights" else None
    size = np.mean(np.square(X - X.mean(axis=0)), axis=0).max()
    lams = size * np.array([1e-3 * cell.rows, 1.0])
    if cell.variant == "standardize":
        lams = np.array([1e-3 * cell.rows, 1.0])
    if cell.variant == "repeated column":
        lams = np.append(lams, size * np.array([1e-12, 1e-14]) * (np.finfo(cell.dtype).eps / np.finfo(float).eps))
    cast = [None if a is None else a.astype(cell.dtype) for a in (X, y, weights, lams)]
    return cast


class Reference:
    """The problem in double precision with residuals in extended precision: coefficients, and how far they may move."""

    def __init__(self, X, y, weights, intercept, standardize):
        wide = np.longdouble
        X, y = X.astype(wide), y.astype(wide)
        omega = np.ones(len(y), wide) if weights is None else weights.astype(wide)
        share = omega / omega.sum()
        mean = share @ X
        variance = share @ np.square(X - mean)
        self.penalty = np.where(variance > 0, variance, 1) if standardize else np.ones(X.shape[1], wide)
        self.mean_X, self.mean_y = (mean, share @ y) if intercept else (0 * mean, wide(0))
        self.raw = float(np.max(np.linalg.norm(X.astype(float), axis=1)))
        root = np.sqrt(omega)
        unit = 1 / np.sqrt(self.penalty)
        self.A = root[:, None] * (X - self.mean_X) * unit
        self.b = root * (y - self.mean_y)
        self.unit, self.size = unit, np.max(np.abs(self.A))
        self.R = np.linalg.qr((self.A / self.size).astype(float), mode="r")
        _, s, self.Vt = np.linalg.svd(self.R)
        self.s = s * float(self.size)

    def at(self, lam):
        """ŵ, to all digits of double precision, and ‖r‖."""
        d, lam = self.A.shape[1], np.longdouble(lam)
        scaled = float(lam / self.size**2)
        A, b = self.A / self.size, self.b / self.size
        triangle = np.linalg.qr(np.concatenate([self.R, np.sqrt(scaled) * np.eye(d)]), mode="r")
        w = np.zeros(d, np.longdouble)
        for _ in range(6):
            gradient = A.T @ (b - A @ w) - lam / self.size**2 * w
            w = w + np.linalg.solve(triangle, np.linalg.solve(triangle.T, gradient.astype(float)))
        return w, np.linalg.norm((self.b - self.A @ w).astype(float))

    def bound(self, lam, w, residual, verb, eps):
        """How far a backward stable method of this kind may move the coefficients, relatively.

        A Gram matrix has eigenvalues above 10 √d eps times the largest only; `from_gram` leaves the others out.
        """
        w, lam, unit = w.astype(float), float(lam), eps * np.sqrt(D)
        norm, full = np.linalg.norm(w), self.s[-1] > 1e-13 * self.s[0]
        least = (self.s[-1] ** 2 if full else 0.0) + lam
        if verb == "kernel":
            # Entries of K hold the offset: δw = X̂ᵀGEα, ‖E‖ ≤ eps √n max |K|, ‖X̂ᵀG‖ ≤ 1/(2√λ), α = r/λ; and w = Xᵀα.
            alpha = residual / (lam * norm)
            return unit + eps * np.sqrt(len(self.b)) * self.raw * alpha * (self.raw / (2 * np.sqrt(lam)) + 1)
        if verb in ("from_gram", "from_cholesky"):
            out = np.square(self.s) < 10 * unit * self.s[0] ** 2
            left_out = np.linalg.norm((self.Vt @ w)[out]) / norm if verb == "from_gram" else 0.0
            target = float(np.linalg.norm(self.b.astype(float)))
            return unit * self.s[0] / least * (self.s[0] + target / norm) + left_out / 10.0
        longest = float(np.sqrt(np.max(np.sum(np.square(self.A), axis=1))))
        return unit * (1 + self.s[0] / np.sqrt(least) + longest * residual / (least * norm))


def solve(verb, X, y, weights, lams, options):
    """(code, coefficients (d,)) at every λ, by one verb."""
    import jax.numpy as jnp

    import jaxridge as jxr
    from jaxridge import spectrum, stream
    from jaxridge.kernels import Linear

    if weights is not None:
        options = {**options, "weights": weights}
    if verb == "path":
        path = jxr.ridge_path(X, y, lams, **options)
        return [(_code(path[k].result), np.asarray(path.coef[k])) for k in range(len(lams))]
    if verb == "cv":
        found = [jxr.ridge_cv(X, y, lams[k : k + 1], **options).fit for k in range(len(lams))]
        return [(_code(fit.result), np.asarray(fit.coef)) for fit in found]
    if verb == "kernel":
        options = {"kernel": Linear(), **options}
        found = [jxr.kernel_ridge(X, y, lam, **options) for lam in lams]
        return [(_code(fit.result), X.astype(float).T @ np.asarray(fit.dual_coef, float)) for fit in found]
    if verb in SOLVERS:
        found = [jxr.ridge(X, y, lam, solver=getattr(spectrum, verb), **options) for lam in lams]
        return [(_code(fit.result), np.asarray(fit.coef)) for fit in found]
    rows = stream.init(X.shape[1], 1, intercept=options.get("intercept", True), dtype=X.dtype)
    (update, finish, at), block = _of_stream(), min(8192, len(y))
    for start in range(0, len(y), block):
        part = slice(start, start + block)
        rows = update(rows, jnp.asarray(X[part]), jnp.asarray(y[part]), *([] if weights is None else [weights[part]]))
    spectrum_of_rows = finish(rows)
    found = [at(spectrum_of_rows, jnp.asarray(lam, spectrum_of_rows.problem.X.dtype)) for lam in lams]
    return [(_code(result), np.asarray(coef).reshape(-1)[: X.shape[1]]) for result, coef in found]


@functools.cache
def _of_stream():
    """What a stream needs, compiled once for each shape."""
    import jax

    from jaxridge import stream

    at = jax.jit(lambda factored, lam: (factored.problem.squeeze(factored.result(lam)), factored.coef(lam)))
    return jax.jit(stream.update), jax.jit(stream.finish), at


def _code(item):
    """The name of the only item there is."""
    import jaxridge as jxr

    return next(name for name in jxr.RESULTS._name_to_item if np.all(item == getattr(jxr.RESULTS, name)))


def judge(cell, verbs):
    """(verb, kind, figure, error, detail) of every verb at every λ of a cell."""
    X, y, weights, lams = problem(cell)
    options = {}
    if cell.variant == "no intercept":
        options["intercept"] = False
    if cell.variant == "standardize":
        options["standardize"] = True
    exact = Reference(X, y, weights, cell.variant != "no intercept", cell.variant == "standardize")
    answers = [(lam, *exact.at(lam)) for lam in lams]
    eps, verdicts = float(np.finfo(cell.dtype).eps), []
    for verb in verbs:
        if not applies(verb, cell):
            continue
        found = solve(verb, X, y, weights, lams, options)
        for (lam, w, residual), (code, coef) in zip(answers, found, strict=True):
            error = float(np.linalg.norm((coef / exact.unit - w).astype(float)) / np.linalg.norm(w.astype(float)))
            figure = error / exact.bound(lam, w, residual, verb, eps)
            if code == "successful":
                kind = "solved" if figure <= THRESHOLD and error <= 0.1 else "wrong"
            else:
                kind = "needless" if error < 0.01 else "flagged"
            detail = f"lam {lam:.0e} {code} error {error:.1e} figure {figure:.1e}"
            verdicts.append((verb, kind, figure, error, detail))
    return verdicts


def applies(verb, cell):
    """Streams and kernels do not standardise."""
    return not (verb in ("stream", "kernel") and cell.variant == "standardize") and (
        verb != "kernel" or cell.rows <= KERNEL_ROWS
    )


def cells(dtype, rows=ROWS):
    """The table: every pair of an axis with the plain case, and the corners where they meet."""
    for n, offset, noise, scale, variant in itertools.product(rows, OFFSETS, NOISES, SCALES, VARIANTS):
        if scale != "equal" and (variant not in ("plain", "no intercept") or noise == 1e-3):
            continue
        yield Cell(dtype, n, offset, noise, scale, variant)


def table(dtype, rows=ROWS, verbs=VERBS, show=print):
    """Judge everything and print a line for each number of rows and verb."""
    failures = []
    for n in rows:
        judged = [(cell, *verdict) for cell in cells(dtype, (n,)) for verdict in judge(cell, verbs)]
        failures += [(str(cell), *rest) for cell, *rest in judged if rest[1] in ("wrong", "needless")]
        for verb in verbs:
            found = [(kind, figure, error) for _, name, kind, figure, error, _ in judged if name == verb]
            kinds = [kind for kind, _, _ in found]
            useful = sum(error < 0.01 for _, _, error in found)
            figures = [figure for kind, figure, _ in found if kind in ("solved", "wrong")]
            show(
                f"{dtype} n={n:<8d} {verb:13s} {len(found):4d} tried, {kinds.count('wrong'):3d} silently wrong, "
                f"{kinds.count('flagged'):3d} flagged, {kinds.count('needless'):3d} of {useful} useful ones flagged, "
                f"worst figure {max(figures, default=0):.2g}",
                flush=True,
            )
    return failures


if __name__ == "__main__":
    dtype = sys.argv[1]
    os.environ["JAX_ENABLE_X64"] = str(int(dtype == "float64"))
    rows = tuple(int(float(n)) for n in sys.argv[2].split(",")) if len(sys.argv) > 2 else ROWS
    verbs = tuple(sys.argv[3].split(",")) if len(sys.argv) > 3 else VERBS
    for failure in table(dtype, rows, verbs):
        print(*failure)
