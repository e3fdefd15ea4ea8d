"""How long does a path of 30 λ on a sparse X take, against as many solves by scikit-learn at the same accuracy?

A matrix like counts of words in texts: 10 000 × 50 000, 1 % of the entries, frequencies of the columns by a power law.
Errors are those of the coefficients against our solver at 1e-9; scikit-learn's solver is what it takes by itself.
"""

import resource
import time
import warnings

import _peers
import jax
import numpy as np
import scipy.sparse as sparse

import jaxridge as jxr

N, D, DENSITY = 10_000, 50_000, 0.01
GRIDS = {"1e-2 to 1e2": np.logspace(-2, 2, 30), "1 to 1e4": np.logspace(0, 4, 30)}


def texts(rng):
    """Log counts, and a target that some words tell."""
    frequency = 1.0 / np.arange(1, D + 1)
    frequency = np.minimum(frequency * (N * D * DENSITY / 1.35) / frequency.sum() / N, 0.6)
    lengths = rng.binomial(N, frequency)
    rows = np.concatenate([rng.choice(N, k, replace=False) for k in lengths])
    columns = np.repeat(np.arange(D), lengths)
    X = sparse.csr_array((np.log1p(rng.geometric(0.5, len(rows))), (rows, columns)), (N, D))
    return X, X @ (rng.standard_normal(D) * (rng.random(D) < 0.02)) + rng.standard_normal(N)


def timed(fn):
    wall, cpu = time.perf_counter(), time.process_time()
    found = fn()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def main():
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Ridge

    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(_peers.header("scikit-learn", "scipy"))
    X, y = texts(np.random.default_rng(0))
    size = (X.data.nbytes + X.indices.nbytes + X.indptr.nbytes) / 2**20
    print(f"{N} × {D}, {X.nnz} entries, {size:.0f} MiB as CSR, {8 * N * D / 2**20:.0f} MiB if it were dense")
    for name, lams in GRIDS.items():
        compare(X, y, name, lams, Ridge)


def compare(X, y, grid, lams, Ridge):
    path = lambda tol, budget=150: np.asarray(  # noqa: E731
        jxr.ridge_path(X, y, lams, solver=jxr.GolubKahan(tol=tol, budget=budget)).coef
    )
    runs = {"jaxridge, first call": timed(lambda: path(1e-2)), "jaxridge, again": timed(lambda: path(1e-2))}
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    theirs = timed(lambda: np.stack([Ridge(alpha=lam).fit(X, y).coef_ for lam in lams]))
    runs = {"scikit-learn, 30 solves": theirs, **runs, "jaxridge, tol=1e-4": timed(lambda: path(1e-4))}
    exact = path(1e-9, 1000)
    print(f"λ from {grid}; peak memory of all before scikit-learn {ours} MiB")
    print(f"{'':24}  {'wall s':>7}  {'CPU s':>7}  {'share':>6}  {'error':>8}")
    for name, (found, wall, cpu) in runs.items():
        error = np.max(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1))
        print(f"{name:24}  {wall:7.2f}  {cpu:7.2f}  {wall / theirs[1]:6.2f}  {error:8.1e}")


if __name__ == "__main__":
    main()
