"""How exact is ridge in float32 on ordinary tables, up to a million rows and a thousand deviations from zero?

Errors of the coefficients against double precision, in memory and as a stream, beside scikit-learn's svd solver on the
same float32 arrays; then the time of a warm call. Run without x64, as float32 users do.
"""

import itertools
import time

import _peers
import jax
import jax.numpy as jnp
import numpy as np

import jaxridge as jxr
from jaxridge import stream

D, LAM = 10, 1.0


def table(n, condition, offset, noise, rng):
    """Columns of unit size with that condition, some deviations away from zero, in float32."""
    Q = np.linalg.qr(rng.standard_normal((n, D)))[0]
    V = np.linalg.qr(rng.standard_normal((D, D)))[0]
    X = np.sqrt(n) * (Q * np.logspace(0, -np.log10(condition), D)) @ V.T
    y = X @ (np.ones(D) / X.std(axis=0)) + noise * np.sqrt(D) * rng.standard_normal(n)
    return (X + offset * X.std(axis=0)).astype(np.float32), y.astype(np.float32)


def exact(X, y):
    """In double precision, from the arrays as they are."""
    X, y = X.astype(float), y.astype(float)
    X, y = X - X.mean(axis=0), y - y.mean()
    rows = np.concatenate([X, np.sqrt(LAM) * np.eye(D)])
    return np.linalg.lstsq(rows, np.concatenate([y, np.zeros(D)]))[0]


def streamed(X, y, block=8192):
    """Coefficients and code from rows a block at a time."""
    rows, update = stream.init(D, 1, dtype=X.dtype), jax.jit(stream.update)
    for start in range(0, len(y), block):
        rows = update(rows, X[start : start + block], y[start : start + block])
    spectrum = stream.finish(rows)
    lam = jnp.asarray(LAM, spectrum.problem.X.dtype)
    return np.asarray(spectrum.coef(lam))[:D, 0], spectrum.result(lam)


def main():
    from sklearn.linear_model import Ridge

    print(_peers.header("scikit-learn"))
    rng = np.random.default_rng(0)
    worst = 0.0
    print(
        f"{'n':>8} {'cond':>6} {'offset':>6} {'noise':>6}  {'jaxridge':>8}  {'stream':>8}  {'sklearn':>8}  {'bound':>8}"
    )
    axes = (10**4, 10**5, 10**6), (1e1, 1e2, 1e3), (0, 1e2, 1e3), (1, 1e-3)
    for n, condition, offset, noise in itertools.product(*axes):
        X, y = table(n, condition, offset, noise, rng)
        w = exact(X, y)
        fit, (rows, code) = jxr.ridge(X, y, LAM), streamed(X, y)
        peer = Ridge(alpha=LAM, solver="svd").fit(X, y).coef_
        coefficients = np.asarray(fit.coef), rows, peer
        ours, by_rows, theirs = (float(np.linalg.norm(v - w) / np.linalg.norm(w)) for v in coefficients)
        bound = max(10 * theirs, 10 * condition * float(np.finfo(np.float32).eps))
        worst = max(worst, ours / bound, by_rows / bound)
        solved = [bool(np.all(item == jxr.RESULTS.successful)) for item in (fit.result, code)]
        flags = "" if all(solved) else f"  solved: {solved}"
        errors = "  ".join(f"{x:8.1e}" for x in (ours, by_rows, theirs, bound))
        print(f"{n:8d} {condition:6.0e} {offset:6.0e} {noise:6.0e}  {errors}{flags}")
    print(f"worst error over its bound: {worst:.2g}")
    X, y = (jnp.asarray(v) for v in table(10**6, 1e2, 0, 1, rng))
    jax.block_until_ready(jxr.ridge(X, y, LAM).coef)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(5):
        jax.block_until_ready(jxr.ridge(X, y, LAM).coef)
    print(f"warm call, n = 10⁶: {(time.perf_counter() - wall) / 5:.3f} s, {(time.process_time() - cpu) / 5:.3f} CPU s")


if __name__ == "__main__":
    main()
