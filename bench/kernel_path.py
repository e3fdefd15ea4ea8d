"""How long does a kernel ridge path take, and its leave-one-out curve? Diamonds, 3000 rows, 30 λ, 5 targets.

The log price of real diamonds and four noisier copies of it, RBF kernel, float64. Beside each figure stands the floor
of its route: one eigendecomposition, tridiagonalisation or Cholesky factorisation of the kernel matrix. The peers are
scikit-learn's GridSearchCV(KernelRidge) and himalaya's KernelRidgeCV, five folds each, on the ready kernel matrix.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from _data import diamonds
from _peers import header, interleaved, once

import jaxridge as jxr

LAMS = np.logspace(-4, 3, 30)
KERNEL = jxr.kernels.RBF(3.0)


def row(name, seconds, more=""):
    print(f"{name:38} {seconds:8.2f} s   {more}", flush=True)


def floors(K):
    """The factorisations that the routes stand on."""
    shifted = K + 0.1 * jnp.eye(K.shape[0])
    return {
        "one eigh": lambda: jax.jit(jnp.linalg.eigh)(K),
        "one tridiagonalisation": lambda: jax.jit(jax.lax.linalg.tridiagonal)(K),
        "one Cholesky": lambda: jax.jit(jnp.linalg.cholesky)(shifted),
    }


def ours(X, y):
    """Verbs by name, each with its floor."""

    def path(solver=None):
        @jax.jit
        def run(X, y):
            path = jxr.kernel_ridge_path(X, y, LAMS, kernel=KERNEL, solver=solver)
            return path.dual_coef, path.dof

        return lambda: run(X, y)

    def chosen(rule, solver=None):
        @jax.jit
        def run(X, y):
            choice = jxr.kernel_ridge_cv(X, y, LAMS, kernel=KERNEL, rule=rule, solver=solver)
            return choice.lam, choice.scores

        return lambda: run(X, y)

    one = jax.jit(lambda X, y: jxr.kernel_ridge(X, y, 0.1, kernel=KERNEL).dual_coef)
    return {
        "leave-one-out": (chosen(jxr.select.loo), "one eigh"),
        "GCV": (chosen(jxr.select.gcv), "one tridiagonalisation"),
        "evidence": (chosen(jxr.select.evidence), "one tridiagonalisation"),
        "coefficients": (path(), "one tridiagonalisation"),
        "coefficients, float32 factor": (path(jxr.spectrum.from_kernel_mixed), "one tridiagonalisation"),
        "five folds": (chosen(jxr.select.kfold(5)), "one tridiagonalisation"),
        "one λ": (lambda: one(X, y), "one Cholesky"),
    }


def gradients(X, y):
    """A score at one λ, and with its gradient in the length scale, by the planner's route and by eigenvectors.

    The floor of a gradient without eigenvectors is the kernel, its Cholesky factor, the inverse, and the kernel's own
    backward pass on an n × n cotangent.
    """
    found = {}

    def floor(scale):
        K, back = jax.vjp(lambda scale: jxr.kernels.RBF(scale).matrix(X), scale)
        eye = jnp.eye(K.shape[0])
        return back(jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(K + 0.1 * eye), True), eye))

    value, at = jax.jit(lambda scale: jxr.kernels.RBF(scale).matrix(X)), jnp.asarray(3.0)
    found["kernel; with Cholesky, inverse, backward"] = (lambda: value(at), lambda f=jax.jit(floor): f(at))
    for rule in ("loo", "evidence"):
        for name, solver in (("Cholesky", None), ("eigh", jxr.spectrum.from_kernel)):

            def score(scale, rule=getattr(jxr.select, rule), solver=solver):
                kernel = jxr.kernels.RBF(scale)
                return jnp.sum(jxr.kernel_ridge_score(X, y, 0.1, kernel=kernel, rule=rule, solver=solver))

            value, both, at = jax.jit(score), jax.jit(jax.value_and_grad(score)), jnp.asarray(3.0)
            found[f"{rule}, one λ, by {name}"] = (lambda f=value, at=at: f(at), lambda f=both, at=at: f(at))
    return found


def peers(K, y):
    """Fits of five folds each, and the λ that they take."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV

    options = {"cv": 5, "scoring": "neg_mean_squared_error"}
    search = GridSearchCV(KernelRidge(kernel="precomputed"), {"alpha": LAMS}, **options)
    yield "scikit-learn GridSearchCV(KernelRidge)", lambda: search.fit(K, y)
    try:
        from himalaya.kernel_ridge import KernelRidgeCV
    except ImportError:
        print("himalaya is not installed: no figures for it")
        return
    yield "himalaya KernelRidgeCV", lambda: KernelRidgeCV(alphas=LAMS, kernel="precomputed", cv=5).fit(K, y)


def main(points, targets, repeats, with_peers):
    X, price = diamonds(points)
    noise = np.random.default_rng(1).standard_normal((points, targets))
    X, y = jnp.asarray(X), jnp.asarray(price[:, None] + 0.1 * np.arange(targets) * noise)
    K = KERNEL.matrix(X)
    print(header("scikit-learn", "himalaya") if with_peers else header())
    print(f"{points} points, {X.shape[1]} features, {len(LAMS)} λ, {targets} targets, float64")
    verbs = ours(X, y)
    seconds = interleaved({**floors(K), **{name: run for name, (run, _) in verbs.items()}}, repeats=repeats)
    for name in floors(K):
        row(name, seconds[name])
    for name, (run, floor) in verbs.items():
        chosen = f", λ* = {float(run()[0]):.3g}" if name in ("leave-one-out", "GCV", "evidence", "five folds") else ""
        row(name, seconds[name], f"{seconds[name] / seconds[floor]:.2f} × {floor}{chosen}")
    least = None
    for name, (value, both) in gradients(X, y).items():
        pair = interleaved({"value": value, "both": both}, repeats=repeats)
        least = least or pair["both"]
        against = f"{pair['both'] / pair['value']:.2f} × its value, {pair['both'] / least:.2f} × the floor"
        row(name, pair["value"], f"with its gradient {pair['both']:.2f} s, {against}")
    if with_peers:
        for name, run in peers(np.asarray(K), np.asarray(y)):
            theirs = once(run)
            against = ", ".join(f"{what} {theirs / seconds[what]:.1f}×" for what in verbs if what != "one λ")
            row(name, theirs, against)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--targets", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    main(options.points, options.targets, options.repeats, not options.no_peers)
