"""What does a path of 50 λ cost when only products with A are to be had?

A photograph of 256 × 256 pixels, blurred by a Gaussian of 2 pixels with black beyond the border, 1 % noise, √λ from
1e-3 to 1 of the largest singular value, float64. Ours is one Krylov space for all λ; peers solve each λ on its own, to
the same accuracy: with the loosest tolerance of a short list at which the error against the exact solution (from the
SVD of the two factors, NumPy) is at most 1e-6 for all the λ that ours solves. A second table has a tomograph and travel
times. `--small` takes a quarter of each side.
"""

import argparse
import functools
import importlib.util
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _data import photograph
from _peers import header, interleaved, once
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, lsqr

from jaxridge import inverse, operators, select
from jaxridge.inverse import testproblems

BUDGET, TOL, LEVEL = 150, 1e-6, 0.01
EVERY = 5  # of the λ of a peer that solves each on its own, one in so many is timed
TOLS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
KEY = jax.random.key(0)


class Exact:
    """Solutions in closed form: A = F₀ ⊗ F₁ has the products of singular values and vectors."""

    def __init__(self, factors, b):
        (U0, s0, self.V0), (U1, s1, self.V1) = (np.linalg.svd(F) for F in factors)
        self.s, self.z = np.outer(s0, s1), U0.T @ b @ U1
        self.largest = self.s.max()

    def x(self, lam):
        return self.V0.T @ (self.s * self.z / (self.s**2 + lam)) @ self.V1

    def rss(self, lam):
        return np.sum(np.square(lam * self.z / (self.s**2 + lam)))

    def discrepancy(self, squared):
        """λ with a residual of that square."""
        low, high = np.log(self.largest**2) + np.log([1e-10, 1e4])
        return np.exp(brentq(lambda u: self.rss(np.exp(u)) - squared, low, high, xtol=1e-12))


class Blurred(NamedTuple):
    """The problem, for JAX and for NumPy."""

    op: Any
    factors: list
    truth: np.ndarray
    b: np.ndarray
    noise: float  # σ²
    exact: Exact
    lams: np.ndarray


class Peer(NamedTuple):
    """``solve(lams, setting, steps)`` gives (k, n); ``alone``: for each λ on its own, so that a part can be timed."""

    name: str
    solve: Callable
    settings: tuple = TOLS
    alone: bool = True


def blurred(size):
    problem = testproblems.blur(photograph(size))
    b = np.asarray(problem.noisy(KEY, LEVEL))
    factors = [np.asarray(F) for F in operators.separated(problem.A)]
    exact, noise = Exact(factors, b), float(problem.noise_sd(LEVEL) ** 2)
    lams = np.square(exact.largest * np.logspace(-3, 0, 50))
    return Blurred(problem.A, factors, np.asarray(problem.x), b, noise, exact, lams)


def relative(x, truth):
    """(k,) errors of images, flat or not."""
    x, truth = (np.reshape(v, (-1, truth.shape[-2] * truth.shape[-1])) for v in (x, truth))
    return np.linalg.norm(x - truth, axis=1) / np.linalg.norm(truth, axis=1)


def timed(f, repeats=3):
    """What f returns, the seconds of its first call, and those of the best of more."""
    first, out = time.perf_counter(), jax.block_until_ready(f())
    first = time.perf_counter() - first
    return out, first, min(once(lambda: jax.block_until_ready(f())) for _ in range(repeats))


def ours(problem, orthogonal):
    """Prints, and returns the seconds and which λ were solved."""
    solver = inverse.GolubKahan(tol=TOL, budget=BUDGET, orthogonal=orthogonal)
    path, first, seconds = timed(lambda: inverse.tikhonov_path(problem.op, problem.b, problem.lams, solver=solver))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    solved = np.asarray(path.steps) >= 0
    errors = relative(path.x, np.stack([problem.exact.x(lam) for lam in problem.lams]))
    kept = "a basis kept orthogonal" if orthogonal else "a basis as it comes"
    cost = f"{seconds:.2f} s for {len(problem.lams)} λ, the first call {first:.2f} s; peak {peak:.2f} GiB"
    print(f"jaxridge, {kept}: {cost}")
    print(
        f"  {int(path.products)} products; {solved.sum()} λ solved by their own bound, with errors up to "
        f"{errors[solved].max():.1e}; {np.sum(errors <= TOL)} of all within {TOL:.0e} of the exact solution"
    )
    rule = select.discrepancy(problem.noise)
    choice = inverse.tikhonov_cv(problem.op, problem.b, problem.lams, rule=rule, solver=solver)
    lam = problem.exact.discrepancy(problem.noise * problem.b.size)
    mine, theirs = (relative(x, problem.truth)[0] for x in (choice.fit.x, problem.exact.x(lam)))
    print(f"  discrepancy: λ/s₁² = {lam / problem.exact.largest**2:.3e}, ours/exact − 1 = {choice.lam / lam - 1:.1e};")
    print(f"  image error there {mine:.6f}, that of the exact path {theirs:.6f}", flush=True)
    return seconds, solved


def each(one):
    """A solver of one λ as one of many."""
    return lambda lams, tol, steps: np.stack([np.ravel(one(lam, tol, steps)) for lam in lams])


def scipy_operator(problem):
    """The fastest product there is in SciPy for such an image: two sparse matrices, here before two dense ones."""
    (F, G), shape, size = (csr_array(F) for F in problem.factors), problem.b.shape, problem.b.size
    Ft, Gt = F.T.tocsr(), G.T.tocsr()
    forward = lambda x: (G @ (F @ x.reshape(shape)).T).T.ravel()  # noqa: E731
    back = lambda y: (Gt @ (Ft @ y.reshape(shape)).T).T.ravel()  # noqa: E731
    return LinearOperator((size, size), matvec=forward, rmatvec=back, dtype=float)


def products(problem):
    """What a product costs in JAX and in SciPy."""
    mine, theirs, x = jax.jit(lambda x: problem.op.mv(x)), scipy_operator(problem), problem.b.ravel()
    times = interleaved({"jaxridge": lambda: mine(problem.b), "SciPy": lambda: theirs.matvec(x)}, repeats=21)
    print("a product with A: " + ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in times.items()))


def by_scipy(problem):
    A, b = scipy_operator(problem), problem.b.ravel()
    one = lambda lam, tol, steps: lsqr(A, b, damp=lam**0.5, atol=tol, btol=tol, iter_lim=steps)[0]  # noqa: E731
    yield Peer("SciPy lsqr", each(one))


def by_pylops(problem):
    import pylops
    from pylops.optimization import basic, leastsquares

    A, b = pylops.aslinearoperator(scipy_operator(problem)), problem.b.ravel()
    identity = pylops.Identity(b.size)

    def own(lam, tol, steps):
        return basic.lsqr(A, b, damp=lam**0.5, atol=tol, btol=tol, niter=steps, calc_var=False)[0]

    def regularised(lam, tol, steps):
        options = {"atol": tol, "btol": tol, "iter_lim": steps}
        return leastsquares.regularized_inversion(A, b, [identity], epsRs=[lam**0.5], **options)[0]

    yield Peer("PyLops lsqr", each(own))
    yield Peer("PyLops regularized_inversion", each(regularised))


def by_matfree(problem):
    from matfree import lstsq

    @jax.jit
    def one(A, b, lam, tol, steps):
        solve = lstsq.lsmr(atol=tol, btol=tol, maxiter=steps)
        return solve(lambda y, A: A.T.mv(y), b, A, damp=jnp.sqrt(lam))[0]

    yield Peer("matfree lsmr", each(functools.partial(one, problem.op, jnp.asarray(problem.b))))


def by_pytikhonov(problem):
    import pytikhonov

    A, b = scipy_operator(problem), problem.b.ravel()

    def solve(lams, steps, _, reorth):
        _, V, B, _, _, size = pytikhonov.golub_kahan(A, b, steps, reorth=reorth)
        small = pytikhonov.TikhonovFamily(B, np.eye(B.shape[1]), size * np.eye(len(B))[0])
        return (V @ small.solve(lams)).T

    for reorth in ("none", "mgs"):
        peer = lambda *args, reorth=reorth: solve(*args, reorth)  # noqa: E731
        yield Peer(f"pytikhonov, orthogonalised: {reorth}", peer, (50, 100, BUDGET), alone=False)


def by_jax(problem):
    data = problem.op, jnp.asarray(problem.b)

    def one(A, b, lam, tol, steps):
        normal = lambda x: A.T.mv(A.mv(x)) + lam * x  # noqa: E731
        return jax.scipy.sparse.linalg.cg(normal, A.T.mv(b), tol=tol, maxiter=steps)[0]

    together = jax.jit(jax.vmap(one, in_axes=(None, None, 0, None, None)))
    yield Peer("JAX cg, one λ at a time", each(functools.partial(jax.jit(one), *data)))
    yield Peer("JAX cg, vmapped over λ", lambda *args: np.asarray(together(*data, *args)))


PEERS = {"scipy": by_scipy, "jax": by_jax, "pylops": by_pylops, "matfree": by_matfree, "pytikhonov": by_pytikhonov}


def measure(peer, lams, exact, settings, steps):
    """Seconds for all λ, the setting and the largest error, of the first setting that reaches TOL, or the last one."""
    some = lams[:: EVERY if peer.alone else 1]
    if peer.alone:
        peer.solve(some, 1.0, steps)  # compiles, and stops at once
    truths = np.stack([exact.x(lam) for lam in some])
    for setting in settings:
        start = time.perf_counter()
        x = peer.solve(some, setting, steps)
        seconds = (time.perf_counter() - start) * len(lams) / len(some)
        errors = relative(x, truths)
        if np.max(errors) <= TOL:
            break
    return seconds, setting, errors


def compare(problem, peer, seconds, solved):
    theirs, setting, errors = measure(peer, problem.lams[solved], problem.exact, peer.settings, 10 * BUDGET)
    if np.max(errors) > TOL:
        print(f"  {peer.name}: error {np.max(errors):.1e} at best ({setting:g}), {theirs:.1f} s", flush=True)
        return
    print(
        f"  {peer.name:33} at {setting:5g}: the {solved.sum()} λ solved {theirs:7.2f} s, {theirs / seconds:6.1f}×",
        end="",
        flush=True,
    )
    setting = setting if peer.alone else BUDGET
    theirs, _, errors = measure(peer, problem.lams, problem.exact, (setting,), BUDGET)
    good = f"{np.sum(errors <= TOL)} of {len(errors)}"
    print(f"; all 50 in {BUDGET} steps {theirs:7.2f} s, {theirs / seconds:6.1f}×, {good} to {TOL:.0e}", flush=True)


def peers(problem, seconds, solved, wanted):
    print(f"× slower than ours, which solved all 50 λ; of those who solve each λ alone, one in {EVERY} λ was timed:")
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed: no figures for it")
            continue
        for peer in PEERS[name](problem):
            compare(problem, peer, seconds, solved)


def other(problem):
    """What a path costs, and what the rules make of it."""
    b, truth = problem.noisy(KEY, LEVEL), np.asarray(problem.x)
    path, first, seconds = timed(lambda: inverse.tikhonov_path(problem.A, b, solver=inverse.GolubKahan()), repeats=1)
    solved = np.asarray(path.steps) >= 0
    best = np.min(relative(path.x, truth)[solved])
    print(
        f"  {problem.name}, {b.size} × {truth.size}: {seconds:.2f} s (first call {first:.1f}), {int(path.products)} "
        f"products, {solved.sum()} of {len(path)} λ solved; image error {best:.4f} at the best of them",
        flush=True,
    )
    rules = {"discrepancy": select.discrepancy(problem.noise_sd(LEVEL) ** 2), "GCV": select.gcv}
    compared = inverse.compare(problem.A, b, rules, solver=inverse.GolubKahan(KEY))
    for name in compared.names:
        choice = compared.choices[name]
        error = relative(choice.fit.x, truth)[0]
        print(f"    {name:12} λ = {choice.lam:.3e}, image error {error:.4f}  {choice.message()}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a quarter of each side")
    parser.add_argument("--only", nargs="+", choices=[*PEERS, "operators"], default=[*PEERS, "operators"])
    options = parser.parse_args()
    scale = 4 if options.small else 1
    print(header("scipy", *(name for name in PEERS if name not in ("jax", "scipy") and importlib.util.find_spec(name))))
    problem = blurred(256 // scale)
    plain, _ = ours(problem, orthogonal=False)
    seconds, solved = ours(problem, orthogonal=True)
    print(f"ratios are to the latter; those to the former are {seconds / plain:.2f} times as large")
    products(problem)
    peers(problem, seconds, solved, [name for name in PEERS if name in options.only])
    if "operators" in options.only:
        print("Other operators, on the grid that they get by themselves:")
        other(testproblems.tomography(128 // scale, np.pi * np.arange(90 // scale) / (90 // scale)))
        other(testproblems.travel_time(64 // scale))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
