"""How long does a support vector machine take at 50 λ, against LinearSVC and SVC at the same gap?

CPU seconds, medians in turns, in float64. ``above`` is by what part of the objective a solver's own solution lies above
the least: of LinearSVC by the objective it minimises (its intercept has a penalty, so ours is a column of ones here),
of SVC by its dual, which is good to more digits than its primal.
"""

import argparse
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.svm import SVC, LinearSVC

import jaxridge as jxr
from jaxridge import margins

jax.config.update("jax_enable_x64", True)
warnings.filterwarnings("ignore")
LAMS = np.logspace(2, -2, 50)


def standardised(X):
    return (X - X.mean(0)) / X.std(0)


def classes(n, d):
    X, y = make_classification(n, d, n_informative=d * 2 // 5, class_sep=0.8, random_state=0)
    return standardised(X), 2.0 * y - 1.0


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return standardised(X), 2.0 * y - 1.0


def cpu(f, repeats):
    """Median CPU seconds after a first call, and what it gives."""
    out = jax.block_until_ready(f())
    times = []
    for _ in range(repeats):
        start = time.process_time()
        out = jax.block_until_ready(f())
        times.append(time.process_time() - start)
    return float(np.median(times)), out


def squared(X, y, lams, repeats):
    """Squared hinge against LinearSVC(dual=False)."""
    X1 = np.c_[X, np.ones(len(y))]
    arrays = tuple(map(jnp.asarray, (X1, y, lams)))
    path = jax.jit(lambda X, y, lams: jxr.svm_path(X, y, lams, loss=margins.SquaredHinge(), intercept=False))
    ours, fits = cpu(lambda: path(*arrays), repeats)

    def theirs():
        fitted = [LinearSVC(C=0.5 / lam, dual=False, tol=1e-8, max_iter=100_000).fit(X, y) for lam in lams]
        return np.array([np.append(machine.coef_[0], machine.intercept_) for machine in fitted])

    other, w = cpu(theirs, 1)
    value = lams * np.sum(w**2, axis=1) + np.sum(np.maximum(0, 1 - y * (w @ X1.T)) ** 2, axis=1)
    line("squared hinge", X, ours, np.max(np.asarray(fits.gap)), "LinearSVC", other, np.max(value / fits.objective - 1))


def hinge(X, y, lams, repeats, tol):
    """Hinge with a free intercept against SVC(kernel="linear")."""
    arrays = tuple(map(jnp.asarray, (X, y, lams)))
    path = jax.jit(jxr.svm_path)
    ours, fits = cpu(lambda: path(*arrays), repeats)

    def theirs():
        return [SVC(C=0.5 / lam, kernel="linear", tol=tol, cache_size=1000).fit(X, y) for lam in lams]

    other, machines = cpu(theirs, 1) if len(y) < 1000 else once(theirs)
    duals = []
    for lam, machine in zip(lams, machines, strict=True):
        beta = 2 * lam * machine.dual_coef_[0]
        duals.append(np.abs(beta).sum() - np.sum((beta @ machine.support_vectors_) ** 2) / (4 * lam))
    below = np.max(1 - np.array(duals) / np.asarray(fits.objective))
    line(f"hinge, tol {tol:.0e}", X, ours, np.max(np.asarray(fits.gap)), "SVC", other, below)


def once(f):
    start = time.process_time()
    out = f()
    return time.process_time() - start, out


def many(repeats):
    """A hundred problems of 100 × 10, ten λ each, by one program."""
    rng = np.random.default_rng(0)
    Xs = rng.standard_normal((100, 100, 10))
    ys = np.sign(Xs[:, :, 0] + Xs[:, :, 1] + rng.standard_normal((100, 100)))
    lams = LAMS[::5]
    arrays = tuple(map(jnp.asarray, (Xs, ys)))
    for loss, peer in ((margins.Hinge(), SVC), (margins.SquaredHinge(), LinearSVC)):
        path = jax.jit(jax.vmap(lambda X, y, loss=loss: jxr.svm_path(X, y, lams, loss=loss)))
        ours, fits = cpu(lambda path=path: path(*arrays), repeats)
        options = (
            {"kernel": "linear", "tol": 1e-8} if peer is SVC else {"dual": False, "tol": 1e-8, "max_iter": 100_000}
        )
        make = lambda lam, peer=peer, options=options: peer(C=0.5 / lam, **options)  # noqa: E731
        other, _ = once(lambda make=make: [make(lam).fit(X, y) for X, y in zip(Xs, ys, strict=True) for lam in lams])
        name = type(loss).__name__
        line(f"100 problems, {name}", Xs[0], ours, np.max(np.asarray(fits.gap)), peer.__name__, other, np.nan)


def line(what, X, ours, gap, peer, theirs, above):
    n, d = X.shape
    print(
        f"{what:28s} {n:5d} × {d:2d}  {ours:7.3f} CPU s, gap {gap:.0e}   "
        f"{peer} {theirs:7.3f} CPU s, above {above:.0e}   {theirs / ours:6.1f}×",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the large problems")
    quick = parser.parse_args().quick
    print(header("scikit-learn"))
    squared(*cancer(), LAMS, 5)
    for n, d in [(800, 20)] + [(4000, 50)] * (not quick):
        squared(*classes(n, d), LAMS, 3)
    for tol in (1e-3, 1e-8, 1e-12):
        hinge(*cancer(), LAMS, 5, tol)
    many(3)
    if not quick:
        # Each λ of theirs takes up to a minute; so five of the fifty.
        hinge(*classes(5000, 50), LAMS[5::10], 3, 1e-3)


if __name__ == "__main__":
    main()
