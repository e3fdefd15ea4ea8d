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
LAMS = np.logspace(0, 4, 30)


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
    path = lambda tol: np.asarray(jxr.ridge_path(X, y, LAMS, solver=jxr.GolubKahan(tol=tol, budget=600)).coef)  # noqa: E731
    theirs, their_wall, their_cpu = timed(lambda: np.stack([Ridge(alpha=lam).fit(X, y).coef_ for lam in LAMS]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runs = {tol: (timed(lambda tol=tol: path(tol)), timed(lambda tol=tol: path(tol))) for tol in (1e-3, 1e-4, 1e-5)}
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    exact = path(1e-9)
    error = lambda w: np.max(np.linalg.norm(w - exact, axis=1) / np.linalg.norm(exact, axis=1))  # noqa: E731
    print(f"{'':24}  {'wall s':>7}  {'CPU s':>7}  {'error':>8}")
    print(f"{'scikit-learn, 30 solves':24}  {their_wall:7.2f}  {their_cpu:7.2f}  {error(theirs):8.1e}")
    for tol, (first, again) in runs.items():
        for name, (found, wall, cpu) in (("first call", first), ("again", again)):
            print(f"{f'jaxridge {tol:.0e}, {name}':24}  {wall:7.2f}  {cpu:7.2f}  {error(found):8.1e}")
    print(f"memory beyond what scikit-learn left: {more:.0f} MiB")


if __name__ == "__main__":
    main()
