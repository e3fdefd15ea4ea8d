"""How long does a path of 30 λ on a sparse X take, against as many solves by scikit-learn at the same accuracy?

A matrix like counts of words in texts: 10 000 × 50 000, 1 % of the entries, frequencies of the columns by a power law.
Errors are those of the coefficients against our solver at 1e-9; scikit-learn's solver is what it takes by itself.
Peak memory is that of processes of their own at three densities, of which the differences tell bytes an entry.
"""

import resource
import subprocess
import sys
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
    low, high = 0.0, float(D)
    for _ in range(60):
        # No word is in more than six tenths of the texts.
        frequency = np.minimum(0.5 * (low + high) / np.arange(1, D + 1), 0.6)
        low, high = (0.5 * (low + high), high) if frequency.mean() < DENSITY else (low, 0.5 * (low + high))
    lengths = rng.binomial(N, frequency)
    rows = np.concatenate([rng.choice(N, k, replace=False) for k in lengths])
    columns = np.repeat(np.arange(D), lengths)
    X = sparse.csr_array((np.log1p(rng.geometric(0.5, len(rows))), (rows, columns)), (N, D))
    return X, X @ (rng.standard_normal(D) * (rng.random(D) < 0.02)) + rng.standard_normal(N)


def timed(fn):
    wall, cpu = time.perf_counter(), time.process_time()
    found = fn()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def memory(density):
    """MiB at the peak before and after a path of 30 λ on as many random entries."""
    jax.config.update("jax_enable_x64", True)
    X = sparse.random_array((N, D), density=density, format="csr", rng=np.random.default_rng(0))
    y, before = X @ np.ones(D), peak()
    np.asarray(jxr.ridge_path(X, y, GRIDS["1e-2 to 1e2"], solver=jxr.GolubKahan(tol=1e-2, budget=150)).coef)
    print(X.nnz, before, peak())


def memories():
    """Those at three densities, and what an entry adds."""
    found = []
    for density in (0.0025, 0.01, 0.02):
        command = [sys.executable, __file__, "--memory", str(density)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(np.array(text.split(), float))
        entries, before, after = found[-1]
        print(f"{entries:.3g} entries: {after:.0f} MiB at the peak, {before:.0f} of them before the path")
    each = (found[-1][2] - found[0][2]) * 2**20 / (found[-1][0] - found[0][0])
    print(f"an entry takes {each:.0f} bytes at the peak, 12 of them in SciPy")


def main():
    if sys.argv[1:2] == ["--memory"]:
        return memory(float(sys.argv[2]))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Ridge

    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(_peers.header("scikit-learn", "scipy"))
    memories()  # first: the peak of a process is not below its parent's
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
    ours = peak()
    theirs = timed(lambda: np.stack([Ridge(alpha=lam).fit(X, y).coef_ for lam in lams]))
    runs = {"scikit-learn, 30 solves": theirs, **runs, "jaxridge, tol=1e-4": timed(lambda: path(1e-4))}
    exact = path(1e-9, 1000)
    print(f"λ from {grid}; peak memory of all before scikit-learn {ours:.0f} MiB")
    print(f"{'':24}  {'wall s':>7}  {'CPU s':>7}  {'share':>6}  {'error':>8}")
    for name, (found, wall, cpu) in runs.items():
        error = np.max(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1))
        print(f"{name:24}  {wall:7.2f}  {cpu:7.2f}  {wall / theirs[1]:6.2f}  {error:8.1e}")


if __name__ == "__main__":
    main()
