"""Is a λ for each of 20 000 targets, by 5 folds and 20 λs, found faster than by himalaya, and in less memory?

``ridge_cv(rule=select.kfold(5), per_target=True)`` beside himalaya's RidgeCV(cv=5, local_alpha) on the same folds; CPU
seconds of one call after one that compiles, blocks of targets in both, peak memory of a process of its own for
each. In float32 rounding decides between λs whose scores agree to seven digits: where the two differ, the scores of
both λs in float64 say whether it is such a tie; ``--dtype float64`` has none.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

LAMS = np.logspace(-2, 5, 20).astype(np.float32)
SHAPES = {"small": (1000, 100, 2000), "tall": (3000, 100, 20_000), "broad": (1000, 1000, 20_000)}
FOLDS, AT_ONCE, MEMORY = 5, 2000, 2**27  # targets at a time in himalaya, bytes for scores in ours


def problem(n, d, t, dtype):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype(dtype)
    Y = rng.standard_normal((n, t), np.float32).astype(dtype)
    Y *= (np.sqrt(d) * 10 ** rng.uniform(-1, 1, t)).astype(dtype)
    for start in range(0, t, AT_ONCE):
        Y[:, start : start + AT_ONCE] += X @ rng.standard_normal((d, AT_ONCE)).astype(dtype)
    return X, Y


def ours(X, Y):
    import jax
    import jax.numpy as jnp

    import jaxridge as jxr

    jax.config.update("jax_enable_x64", X.dtype == np.float64)
    X, Y, lams = jnp.asarray(X), jnp.asarray(Y), LAMS.astype(X.dtype)

    def run():
        found = jxr.ridge_cv(X, Y, lams, rule=jxr.select.kfold(FOLDS), per_target=True, intercept=False, memory=MEMORY)
        return np.asarray(found.lam), np.asarray(found.fit.coef)

    run()
    return lambda: run()[0]


def himalaya(X, Y):
    from himalaya.ridge import RidgeCV
    from sklearn.model_selection import KFold

    options = {"local_alpha": True, "n_targets_batch": AT_ONCE, "n_alphas_batch": 5}
    model = RidgeCV(alphas=LAMS, cv=KFold(FOLDS), fit_intercept=False, solver_params=options)
    return lambda: np.asarray(model.fit(X, Y).best_alphas_)


def tied(shape, one, other):
    """How many of the targets with two λs have scores in float64 that float32 cannot tell apart."""
    X, Y = problem(*SHAPES[shape], np.float32)
    differ = np.flatnonzero(~np.isclose(one, other, rtol=1e-4))
    X, Y = X.astype(float), Y[:, differ].astype(float)
    error = np.zeros((len(LAMS), len(differ)))
    for held in np.array_split(np.arange(len(X)), FOLDS):
        kept = np.delete(np.arange(len(X)), held)
        U, s, Vt = np.linalg.svd(X[kept], full_matrices=False)
        z, E = U.T @ Y[kept], X[held] @ Vt.T
        for i, lam in enumerate(LAMS.astype(float)):
            error[i] += np.mean(np.square(Y[held] - E @ ((s / (s * s + lam))[:, None] * z)), axis=0)
    at = [np.argmin(np.abs(np.log(LAMS[:, None] / lam[None, differ])), axis=0) for lam in (one, other)]
    a, b = (np.take_along_axis(error, index[None], axis=0)[0] for index in at)
    return np.abs(a - b) / a, len(differ)


def child(name, shape, dtype):
    X, Y = problem(*SHAPES[shape], dtype)
    run = {"jaxridge": ours, "himalaya": himalaya}[name](X, Y)
    del X, Y
    cpu, wall = time.process_time(), time.perf_counter()
    lam = run()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(*spent, peak, *lam.tolist())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=3)
    parser.add_argument("--shapes", nargs="*", default=["tall", "broad"])
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if options.child:
        return child(*options.child)
    from _peers import header

    print(header("himalaya"), options.dtype)
    for shape in options.shapes:
        found = {}
        for name in ("jaxridge", "himalaya"):
            command = [sys.executable, __file__, "--child", name, shape, options.dtype]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = np.array(text.split(), float)
        n, d, t = SHAPES[shape]
        same = np.mean(np.isclose(found["jaxridge"][3:], found["himalaya"][3:], rtol=1e-4))
        print(f"{n} × {d}, {t} targets, {len(LAMS)} λs, {FOLDS} folds: the same λ for {100 * same:.2f} %")
        gap, differ = tied(shape, found["jaxridge"][3:], found["himalaya"][3:])
        if differ:
            close = np.sum(gap < np.finfo(np.float32).eps)
            print(
                f"  of {differ} others {close} are ties: scores in float64 within 1.2e-7, at most {gap.max():.1e} apart"
            )
        for name, (cpu, wall, peak, *_) in found.items():
            ratio = cpu / found["jaxridge"][0]
            print(f"  {name:9s} {cpu:7.2f} CPU s {ratio:5.1f}×  {wall:7.2f} s wall  {peak:5.2f} GiB at the peak")


if __name__ == "__main__":
    main()
