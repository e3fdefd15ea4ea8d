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
        "coefficients, float32 factor": (path(jxr.kernel_methods.Mixed()), "one tridiagonalisation"),
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
    found["kernel; with Cholesky, inverse, backward"] = (lambda f=value: f(at), lambda f=jax.jit(floor): f(at))
    for rule in ("loo", "evidence"):
        for name, solver in (("Cholesky", None), ("eigh", jxr.kernel_methods.Eigen())):

            def score(scale, rule=getattr(jxr.select, rule), solver=solver):
                kernel = jxr.kernels.RBF(scale)
                return jnp.sum(jxr.kernel_ridge_score(X, y, 0.1, kernel=kernel, rule=rule, solver=solver))

            value, both, at = jax.jit(score), jax.jit(jax.value_and_grad(score)), jnp.asarray(3.0)
            found[f"{rule}, one λ, by {name}"] = (lambda f=value, at=at: f(at), lambda f=both, at=at: f(at))
    return found


def by_sklearn(K, y):
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.model_selection import GridSearchCV

    options = {"cv": 5, "scoring": "neg_mean_squared_error"}
    GridSearchCV(KernelRidge(kernel="precomputed"), {"alpha": LAMS}, **options).fit(K, y)


def by_himalaya(K, y):
    from himalaya.kernel_ridge import KernelRidgeCV

    KernelRidgeCV(alphas=LAMS, kernel="precomputed", cv=5).fit(K, y)


PEERS = {"scikit-learn": by_sklearn, "himalaya": by_himalaya}


def main(options):
    X, price = diamonds(options.points)
    noise = np.random.default_rng(1).standard_normal((options.points, options.targets))
    X, y = jnp.asarray(X), jnp.asarray(price[:, None] + 0.1 * np.arange(options.targets) * noise)
    K = KERNEL.matrix(X)
    print(header(*options.peers))
    print(f"{options.points} points, {X.shape[1]} features, {len(LAMS)} λ, {options.targets} targets, float64")
    verbs = ours(X, y)
    verbs = {name: verbs[name] for name in options.verbs or verbs}
    runs = {**floors(K), **{name: run for name, (run, _) in verbs.items()}}
    seconds = interleaved(runs, repeats=options.repeats)
    for name in floors(K):
        row(name, seconds[name])
    for name, (run, floor) in verbs.items():
        chosen = f", λ* = {float(run()[0]):.3g}" if name in ("leave-one-out", "GCV", "evidence", "five folds") else ""
        row(name, seconds[name], f"{seconds[name] / seconds[floor]:.2f} × {floor}{chosen}")
    least = None
    for name, (value, both) in gradients(X, y).items() if options.gradients else ():
        pair = interleaved({"value": value, "both": both}, repeats=options.repeats)
        least = least or pair["both"]
        against = f"{pair['both'] / pair['value']:.2f} × its value, {pair['both'] / least:.2f} × the floor"
        row(name, pair["value"], f"with its gradient {pair['both']:.2f} s, {against}")
    for name in options.peers:
        theirs = once(lambda: PEERS[name](np.asarray(K), np.asarray(y)))
        row(name, theirs, ", ".join(f"{verb} {theirs / seconds[verb]:.1f}×" for verb in verbs if verb != "one λ"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--targets", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--verbs", nargs="+", metavar="NAME", help="by the names in the table, all if not given")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--no-gradients", dest="gradients", action="store_false")
    jax.config.update("jax_enable_x64", True)
    main(parser.parse_args())
