"""How long does the exact path of the lasso take, at 50 λ, against coordinate descent in scikit-learn, celer and skglm?

One correlated problem (1000 × 500, ρ = 0.95), and a hundred of 200 × 50 by `vmap` where the peers take them in turn;
CPU seconds, medians in turns, all at tolerance 1e-10. How far each lies above the least objective is beside it.
"""

import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header
from sklearn.linear_model import lasso_path

import jaxridge as jxr

jax.config.update("jax_enable_x64", True)
warnings.filterwarnings("ignore")
TOL = 1e-10


def autoregressive(rng, n, d, rho, active):
    """Columns each correlated with the last, a few of them at work, standardised."""
    X = rng.standard_normal((n, d))
    for j in range(1, d):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    y = X[:, rng.choice(d, active, replace=False)] @ rng.standard_normal(active)
    y = y + rng.standard_normal(n) * y.std() / 3
    return np.asfortranarray((X - X.mean(0)) / X.std(0)), (y - y.mean()) / y.std()


def grid(X, y):
    return np.abs(X.T @ y).max() / len(y) * np.logspace(0, -3, 50)


def scikit(X, y, alphas):
    return lasso_path(X, y, alphas=alphas, tol=TOL, max_iter=100_000)[1].T


def celer(X, y, alphas):
    from celer import celer_path

    return celer_path(X, y, pb="lasso", alphas=alphas, tol=TOL, max_iter=1000)[1].T


def skglm(X, y, alphas):
    from skglm.datafits import Quadratic
    from skglm.penalties import L1
    from skglm.solvers import AndersonCD

    solver, w, found = AndersonCD(tol=TOL, fit_intercept=False, max_iter=1000), None, []
    datafit = Quadratic()
    datafit.initialize(X, y)
    for alpha in alphas:
        w = solver.solve(X, y, datafit, L1(alpha), w_init=w, Xw_init=None if w is None else X @ w)[0]
        found.append(w.copy())
    return np.array(found)


def objective(X, y, coef, alphas):
    return np.sum((y - coef @ X.T) ** 2, axis=1) / 2 / len(y) + alphas * np.abs(coef).sum(axis=1)


def cpu(functions, repeats):
    """Median CPU seconds of each, in turns, and what it gives."""
    found = {name: f() for name, f in functions.items()}
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, f in functions.items():
            start = time.process_time()
            jax.block_until_ready(f())
            times[name].append(time.process_time() - start)
    return {name: float(np.median(taken)) for name, taken in times.items()}, found


def report(title, problems, ours, repeats):
    peers = {"scikit-learn": scikit, "celer": celer, "skglm": skglm}
    each = {name: lambda f=f: np.array([f(X, y, grid(X, y)) for X, y in problems]) for name, f in peers.items()}
    times, found = cpu({"jaxridge": ours} | each, repeats)
    best = {name: np.array([objective(X, y, w, grid(X, y)) for (X, y), w in zip(problems, np.asarray(ws), strict=True)])
            for name, ws in found.items()}  # fmt: skip
    least = np.min(list(best.values()), axis=0)
    print(title)
    for name, seconds in times.items():
        over = np.max(best[name] / least - 1)
        print(f"  {name:13s} {seconds:7.3f} CPU s  {seconds / times['jaxridge']:5.1f}×  {over:.0e} above the least")


def main():
    print(header("scikit-learn", "celer", "skglm"))
    rng = np.random.default_rng(0)
    X, y = autoregressive(rng, 1000, 500, 0.95, 50)
    Xj, yj, lams = jnp.asarray(X), jnp.asarray(y), jnp.asarray(2 * len(y) * grid(X, y))
    path = jax.jit(lambda X, y, lams: jxr.lasso_path(X, y, lams, intercept=False))
    report("1000 × 500, ρ = 0.95", [(X, y)], lambda: path(Xj, yj, lams).coef[None], 5)

    problems = [autoregressive(rng, 200, 50, 0.5, 8) for _ in range(100)]
    Xs, ys = (jnp.asarray(np.stack(part)) for part in zip(*problems, strict=True))
    many = jnp.asarray(np.stack([400 * grid(X, y) for X, y in problems]))
    paths = jax.jit(jax.vmap(lambda X, y, lams: jxr.lasso_path(X, y, lams, intercept=False).coef))
    report("100 problems of 200 × 50, ρ = 0.5", problems, lambda: paths(Xs, ys, many), 3)


if __name__ == "__main__":
    main()
