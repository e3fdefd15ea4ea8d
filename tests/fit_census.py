"""The census of fits: every solver on every problem of `fits` in all units, judged by answers that others found.

solved    right, with a success code          flagged   not right, and the code says so
needless  right, but called a failure         wrong     not right, with a success code
local     another minimum than the least, with a success code: the gradient vanishes there and the Hessian is positive

Right is a cost that is the least known one, to what the dtype resolves; of NIST's regressions ten digits of each
parameter in float64, two in float32. Both costs are computed in float64, in units in which the data are of size one.
"""

from collections import Counter, defaultdict
from functools import cache
from typing import NamedTuple

import fits
import jax
import jax.numpy as jnp
import nist
import numpy as np
import scipy.optimize

import jaxridge as jxr
from jaxridge import optimize

SOLVERS = {
    "LM": jxr.LevenbergMarquardt(),
    "LM, plain": jxr.LevenbergMarquardt(acceleration=False),
    "TR": jxr.TrustRegion(),
    "batch": jxr.LevenbergMarquardt(linear=optimize.cholesky, acceleration=False),
}
MINPACK = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 0.0, "maxfev": 2000}


class Row(NamedTuple):
    """One fit to be tried: a problem, the size of its data, and its start."""

    problem: str
    decade: int
    start: str
    x0: tuple


class Verdict(NamedTuple):
    kind: str
    evaluations: int
    code: str
    x: tuple


@cache
def program(n, solver, dtype, bounded):
    """(x0, args) ↦ value, success, code, evaluations."""
    residual = fits.residual_of_any(n)
    options = {"bounds": (0.0, None)} if bounded else {}

    def fit(x0, args):
        if solver == "batch":
            lanes = jax.tree.map(lambda leaf: leaf[None], args)
            found = jxr.least_squares_batch(residual, x0[None], lanes, **options)
            found = jax.tree.map(lambda leaf: leaf[0], found)
        elif solver == "path":
            found = jxr.least_squares_path(residual, x0, args, lams=jnp.zeros(1, dtype), **options)
            found = jax.tree.map(lambda leaf: leaf[0], found)
        else:
            found = jxr.least_squares(residual, x0, args, solver=SOLVERS[solver], **options)
        return found.value, found.success, found.result, found.residual_evaluations

    return jax.jit(fit)


@cache
def functions(name):
    """r, J, and gradient and Hessian of ½‖r‖², in float64, of (b, y)."""
    residual = fits.PROBLEMS[name].residual
    cost = lambda b, y: 0.5 * jnp.sum(jnp.square(residual(b, y)))  # noqa: E731
    return [jax.jit(fn) for fn in (residual, jax.jacfwd(residual), jax.grad(cost), jax.hessian(cost))]


def data(problem, decade):
    y = fits.measured(problem) if problem.truth and problem.t else np.zeros(fits.POINTS)
    return y * 10.0**decade


def in_units_of_one(problem, x, decade):
    x = np.array(x, float)
    if problem.t:
        x[0] /= 10.0**decade
    return x


def minpack(problem, x0, y):
    """lmder with the same Jacobian: where it ends and how often it evaluated the residual."""
    r, J, _, _ = functions(problem.name)
    fn, slopes = (lambda b, f=f: np.asarray(f(jnp.asarray(b), jnp.asarray(y))) for f in (r, J))
    with np.errstate(all="ignore"):
        x, _, info, _, code = scipy.optimize.leastsq(fn, x0, Dfun=slopes, full_output=True, **MINPACK)
    return x, info["nfev"], code


@cache
def least(name):
    """The least sum of squares of an everyday problem in units of one."""
    problem = fits.PROBLEMS[name]
    y = fits.measured(problem)
    x, _, _ = minpack(problem, problem.truth, y)
    return float(np.sum(np.square(functions(name)[0](jnp.asarray(x), jnp.asarray(y)))))


def right(problem, x, decade, dtype, digits=None):
    """Whether x is the least known minimum."""
    single = dtype == "float32"
    if problem.name in nist.DATA:
        return nist.digits(problem.name, x) >= (digits or (2 if single else 10))
    x = in_units_of_one(problem, x, decade)
    y = jnp.asarray(data(problem, 0))
    rss = float(np.sum(np.square(functions(problem.name)[0](jnp.asarray(x), y))))
    first = float(np.sum(np.square(functions(problem.name)[0](jnp.asarray(problem.x0, float), y))))
    known = (least(problem.name),) if problem.t else problem.least
    more, floor = (1e-3, 1e-6) if single else (1e-6, 1e-12)
    return any(abs(rss - m) <= more * m + (floor * min(first, 1.0) if m == 0 else 0.0) for m in known)


def local(problem, x, decade, dtype, bounded, idle=False):
    """Whether x is a minimum of some kind: the Hessian H in units of its columns is positive, and a cost lower by what
    Newton's step promises, ½gᵀH⁻¹g, would be the same cost to what `right` asks of the least one.

    Of the parameters that have an influence, where the code says that some have none.
    """
    x = in_units_of_one(problem, x, decade)
    y = jnp.asarray(data(problem, 0))
    r, J, g, H = (np.asarray(f(jnp.asarray(x), y)) for f in functions(problem.name))
    norms, size = np.linalg.norm(J, axis=0), np.linalg.norm(r)
    free = ~(bounded & (x <= 0) & (g >= 0))
    free = free & (norms > 0) if idle else free
    if not np.all(np.isfinite(H)) or np.any(norms[free] == 0) or not free.any():
        return False
    h = np.sqrt(np.abs(np.diag(H))[free])
    h = np.where(h > 0, h, 1.0)
    e = np.linalg.eigvalsh(H[np.ix_(free, free)] / h[:, None] / h[None, :])
    promise = 0.5 * g[free] / h @ np.linalg.pinv(H[np.ix_(free, free)] / h[:, None] / h[None, :]) @ (g[free] / h)
    return bool(e[0] > 1e-9 and promise <= (1e-3 if dtype == "float32" else 1e-6) * 0.5 * size**2)


def try_row(row, solver, dtype):
    problem = fits.PROBLEMS[row.problem]
    bounded = row.start == "bound"
    args = fits.arguments(problem, data(problem, row.decade), dtype)
    x, success, code, evaluations = program(problem.n, solver, dtype, bounded)(jnp.asarray(row.x0, dtype), args)
    success = bool(success)
    good = right(problem, x, row.decade, dtype)
    if good:
        kind = "solved" if success else "needless"
    elif not success:
        kind = "flagged"
    else:
        idle = bool(code == jxr.RESULTS.no_influence)
        kind = "local" if local(problem, x, row.decade, dtype, bounded, idle) else "wrong"
    return Verdict(kind, int(evaluations), jxr.RESULTS[code][:60], tuple(np.asarray(x, float).tolist()))


def everyday(decades, starts=("ones", "near", "bound")):
    for problem in fits.EVERYDAY:
        for decade in decades:
            units = np.array([10.0**decade, *[1.0] * (problem.n - 1)])
            truth = np.array(problem.truth) * units
            signs = (-1.0) ** np.arange(problem.n)
            x0 = {"ones": np.ones(problem.n), "near": truth * (1 + 0.1 * signs), "bound": truth * (1 + 0.1 * signs)}
            x0["bound"][0] = 0.0
            for start in starts:
                yield Row(problem.name, decade, start, tuple(x0[start]))


def classic(times=1):
    for problem in fits.CLASSIC:
        yield Row(problem.name, 0, f"{times} x0", tuple(times * np.array(problem.x0)))


def regressions():
    for problem in fits.NIST:
        for k, start in enumerate(nist.DATA[problem.name]["starts"]):
            yield Row(problem.name, 0, f"start {k + 1}", tuple(start))


SETS = {
    "everyday 1e-15 to 1, from ones": lambda: everyday(range(-15, 1), ("ones",)),
    "everyday 10 to 1e15, from ones": lambda: everyday(range(1, 16), ("ones",)),
    "everyday, near": lambda: everyday(range(-15, 16, 3), ("near",)),
    "everyday, on a bound": lambda: everyday(range(-15, 16, 3), ("bound",)),
    "classic, x0": lambda: classic(1),
    "classic, 10 x0": lambda: classic(10),
    "NIST": regressions,
}


def baseline(rows):
    """{row: (verdict, evaluations)} of MINPACK, in float64."""
    found = {}
    for row in rows:
        problem = fits.PROBLEMS[row.problem]
        x, count, code = minpack(problem, row.x0, data(problem, row.decade))
        good = right(problem, x, row.decade, "float64", digits=6)
        found[row] = ("solved" if good else "wrong" if code in (1, 2, 3, 4) else "flagged"), count
    return found


def table(sets=SETS, solvers=(*SOLVERS, "path"), dtypes=("float64", "float32"), show=()):
    """Print it, a line for each set, dtype and solver, and what is wrong or needless."""
    totals = defaultdict(Counter)
    for name, rows in sets.items():
        # A process holds so many compiled programs only.
        jax.clear_caches()
        program.cache_clear()
        functions.cache_clear()
        rows = list(rows())
        theirs = baseline(rows) if not any(row.start == "bound" for row in rows) else {}
        count = Counter(kind for kind, _ in theirs.values())
        print(f"{name}: {len(rows)} rows, MINPACK {dict(count)}, {sum(n for _, n in theirs.values())} evaluations")
        for dtype in dtypes:
            for solver in solvers:
                if solver == "path" and not name.startswith("everyday"):
                    continue
                found = {row: try_row(row, solver, dtype) for row in rows}
                kinds = Counter(verdict.kind for verdict in found.values())
                totals[dtype].update(kinds)
                both = [
                    (verdict.evaluations, theirs[row][1])
                    for row, verdict in found.items()
                    if theirs and verdict.kind == "solved" and theirs[row][0] == "solved"
                ]
                ratio = f"{np.median([a / b for a, b in both]):.2f}" if both else "-"
                evaluations = f"{sum(a for a, _ in both)} to {sum(b for _, b in both)}"
                print(f"  {dtype} {solver:10s} {dict(kinds)}; {evaluations}, median ratio {ratio}", flush=True)
                for row, verdict in found.items():
                    if verdict.kind in show:
                        print("     ", verdict.kind, row.problem, row.decade, row.start, verdict[1:], flush=True)
    print({dtype: dict(kinds) for dtype, kinds in totals.items()})


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    table(show=("wrong", "needless"))
