"""How the λs of bands are found for every target: by evidence, by descent on held-out rows, or at random.

Evidence: E(λ) = N log Q + log det(I + Σ K_g/λ_g) is stationary where λ_g = γ_g σ²/‖w_g‖², σ² = Q/N (MacKay 1992); some
steps of that come near, Newton's method in log λ ends it, and a band that fades there is tried at λ = ∞.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_floats, as_key
from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.plan import whole
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.linear.bands import System

__all__ = ["Search", "descent", "evidence", "random_search"]


class Found(NamedTuple):
    """λs in the units of the system, and what is least there."""

    lams: Float[Array, "G t"]
    score: Float[Array, " t"]


class Search(eqx.Module):
    """What finds λs: ``find(system, y, N, ones)``."""

    @abstractmethod
    def find(self, system: System, y: Float[Array, "n t"], count: Scalar, ones: Array | None) -> Found:
        """The λs of each target."""


class Evidence(Search):
    """See `evidence`."""

    steps: int = eqx.field(static=True)
    newton: int = eqx.field(static=True)
    probes: int | None = eqx.field(static=True)

    def find(self, system: System, y: Float[Array, "n t"], count: Scalar, ones: Array | None) -> Found:
        signs = None
        if self.probes is not None:
            # Signs that are the same in every call: the search is a function of the data alone.
            signs = jax.random.rademacher(jax.random.key(0), (system.size, self.probes), y.dtype)
        lams, score = jax.lax.map(lambda y: self.one(system, y, count, signs), y.T)
        return Found(lams.T, score)

    def one(self, system: System, y: Float[Array, " n"], count: Scalar, signs: Array | None) -> tuple[Array, Array]:
        """λs and E of one target."""
        energy = system.energy()
        start = jnp.full_like(energy, jnp.maximum(jnp.sum(energy) / system.size, jnp.finfo(y.dtype).tiny))
        top = 1e6 * jnp.maximum(energy, start)

        def step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            lam, best, least = state
            terms = system.terms(lam, y, signs)
            level = _level(terms, count)
            better = level < least
            ratio = safe_divide(jnp.maximum(terms.gamma, 0.0) * (terms.misfit / count), terms.penalties)
            ratio = jnp.where(terms.penalties == 0, 1e3, jnp.clip(ratio, 1e-3, 1e3))
            return jnp.clip(lam * ratio, 1e-30, top), jnp.where(better, lam, best), jnp.where(better, level, least)

        first = (start, start, jnp.array(jnp.inf, y.dtype))
        _, best, least = jax.lax.fori_loop(0, self.steps, step, first)
        best, least = jax.lax.fori_loop(0, self.newton, lambda _, at: _newton(system, y, count, *at), (best, least))
        terms = system.terms(best, y, signs)
        falls = terms.penalties <= terms.gamma * (terms.misfit / count)
        fades = (falls & (terms.gamma < 1.0)) | (terms.gamma < 1e-3)
        off = jnp.where(fades, jnp.inf, best)
        level = _level(system.terms(off, y, signs), count)
        # To rounding in a sum of N terms.
        as_good = level <= least + 8.0 * jnp.finfo(y.dtype).eps * count
        return jnp.where(as_good, off, best), jnp.where(as_good, level, least)


def _level(terms: Any, count: Scalar) -> Scalar:
    """N log Q + log det."""
    return count * jnp.log(terms.misfit) + terms.logdet


def _newton(system: System, y: Array, count: Scalar, lam: Array, least: Array) -> tuple[Array, Array]:
    """A step in log λ with the absolute values of the curvatures, of at most 2, or a part of it if E falls further."""

    def level(x: Array) -> Array:
        return _level(system.terms(jnp.exp(x), y, jnp.zeros((system.size, 1), y.dtype)), count)

    x = jnp.log(lam)
    slope, curvature = jax.grad(level)(x), jax.hessian(level)(x)
    e, V = jnp.linalg.eigh(curvature)
    move = -matmul(V, matmul(V.T, slope) / jnp.maximum(jnp.abs(e), 1e-6))
    tries = x[None, :] + jnp.array([1.0, 0.25, 0.05], x.dtype)[:, None] * jnp.clip(move, -2.0, 2.0)[None, :]
    levels = jax.lax.map(level, tries)
    best = jnp.nanargmin(jnp.append(levels, least))
    return jnp.concatenate([jnp.exp(tries), lam[None]])[best], jnp.append(levels, least)[best]


def evidence(steps: int = 10, *, newton: int = 0, probes: int | None = None) -> Evidence:
    """The λs of most evidence, from 1 + 1/3 Cholesky factorisations a step and as much again for the exact traces.

    With fewer rows than columns the evidence may grow down to λ = 0, a perfect fit, and the steps end on the way there.

    Args:
        steps: of λ_g ← γ_g σ²/‖w_g‖². newton: steps of Newton's method after those, each some twenty times as dear.
        probes: columns of random signs that estimate the traces, 16 for a few percent of λ; None is exact, at four
            times the cost.

    >>> from jaxridge.linear import searches
    >>> searches.evidence(5).steps
    5
    """
    probes = None if probes is None else whole("probes", probes, 1)
    return Evidence(whole("steps", steps, 1), whole("newton", newton), probes)


def _masks(n: int, folds: int, key: Array | None, dtype: Any) -> Float[Array, "f n"]:
    """1 for the rows that are fitted; consecutive blocks are held out, of shuffled rows if there is a key."""
    if folds > n:
        raise ValueError(f"folds is {folds}, but X has only {n} rows.")
    label = jnp.arange(n) * folds // n
    label = label if key is None else jax.random.permutation(key, label)
    return (label[None, :] != jnp.arange(folds)[:, None]).astype(dtype)


class Descent(Search):
    """See `descent`."""

    folds: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    key: Array | None
    start: Search
    errors: Array

    def find(self, system: System, y: Float[Array, "n t"], count: Scalar, ones: Array | None) -> Found:
        first = self.start.find(system, y, count, ones)
        masks = _masks(y.shape[0], self.folds, self.key, y.dtype)
        parts = [system.fold(mask, ones) for mask in masks]

        def one(each: tuple[Array, Array]) -> tuple[Array, Array]:
            lam, y = each

            def residuals(lam: Array) -> tuple[Array, Array]:
                found = [part.residuals(lam, y) for part in parts]
                return sum(r for r, _ in found), sum(J for _, J in found)  # pyright: ignore[reportReturnType]

            found, before, after = _levenberg(residuals, lam, self.steps)
            gain = before - after
            # Of Σ gain, rows that are all held out once.
            error = jnp.std(gain) * jnp.sqrt(jnp.asarray(gain.shape[0], gain.dtype))
            better = jnp.sum(gain) > self.errors.astype(gain.dtype) * error
            return jnp.where(better, found, lam), jnp.mean(jnp.where(better, after, before))

        lams, score = jax.lax.map(one, (first.lams.T, y.T))
        return Found(lams.T, score)


def _levenberg(residuals: Any, lam: Float[Array, " G"], steps: int) -> tuple[Float[Array, " G"], Array, Array]:
    """Levenberg and Marquardt's method in log λ, with r and J at each trial: λs, and r² at the start and at the end."""

    def normal(lam: Array) -> tuple[Array, Array, Array]:
        r, J = residuals(lam)
        return r * r, matmul(J.T, J), matmul(J.T, r)

    def step(_: int, state: Any) -> Any:
        lam, (squares, JJ, Jr), mu = state
        diagonal = jnp.diagonal(JJ)
        damping = mu * diagonal + 1e-6 * jnp.max(diagonal, initial=0.0)
        move = -jnp.linalg.solve(JJ + jnp.diag(jnp.where(damping > 0, damping, 1.0)), Jr)
        trial = lam * jnp.exp(jnp.clip(move, -2.0, 2.0))
        trial = jnp.where(jnp.isinf(lam), lam, jnp.clip(trial, 1e-30, 1e30))
        found = normal(trial)
        better = jnp.sum(found[0]) < jnp.sum(squares)
        take = lambda new, old: jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)  # noqa: E731
        return take(trial, lam), take(found, (squares, JJ, Jr)), jnp.where(better, 0.2 * mu, 4.0 * mu)

    first = normal(lam)
    lam, (squares, _, _), _ = jax.lax.fori_loop(0, steps, step, (lam, first, jnp.array(0.05, lam.dtype)))
    return lam, first[0], squares


def descent(
    folds: int = 5, *, steps: int = 4, key: Any = None, start: Search | None = None, errors: float = 2.0
) -> Descent:
    """Down the mean squared error on held-out rows, over log λs of all bands at once, from where ``start`` ends.

    Levenberg–Marquardt: a trial costs a Cholesky factorisation for each fold, and its derivatives in all log λs a solve
    with as many columns. A target keeps the λs of ``start``, evidence by default, unless its squared errors fall by
    more than ``errors`` standard errors of their mean: noise alone lets some fall (Breiman et al. 1984, section 3.4.3).

    >>> from jaxridge.linear import searches
    >>> searches.descent(3, steps=2).folds
    3
    """
    start = evidence() if start is None else start
    return Descent(
        whole("folds", folds, 2),
        whole("steps", steps),
        as_key(key, optional=True),
        start,
        as_floats("errors", errors, (0,)),
    )


class Random(Search):
    """See `random_search`."""

    key: Array
    grid: Float[Array, " k"]
    count: int = eqx.field(static=True)
    folds: int = eqx.field(static=True)

    def find(self, system: System, y: Float[Array, "n t"], count: Scalar, ones: Array | None) -> Found:
        bands, masks = system.energy().shape[0], _masks(y.shape[0], self.folds, None, y.dtype)
        parts = [system.fold(mask, ones) for mask in masks]
        sharp, flat, which = jax.random.split(self.key, 3)
        draws = [
            jax.random.dirichlet(key, jnp.full(bands, x, y.dtype), (self.count,))
            for key, x in ((sharp, 0.1), (flat, 1.0))
        ]
        weights = jnp.where(jax.random.bernoulli(which, 0.5, (self.count, 1)), *draws)
        weights = weights.at[0].set(1.0 / bands)
        lams = self.grid.astype(y.dtype)[None, :, None] / jnp.maximum(weights, 1e-12)[:, None, :]
        lams = lams.reshape(-1, bands)

        def error(lam: Array) -> Array:
            residual = sum(part.held_out(lam, y) for part in parts)
            return jnp.mean(jnp.square(residual), axis=0)  # pyright: ignore[reportArgumentType]

        def better(state: tuple[Array, Array], lam: Array) -> tuple[tuple[Array, Array], None]:
            best, least = state
            found = error(lam)
            less = found < least
            return (jnp.where(less[None, :], lam[:, None], best), jnp.where(less, found, least)), None

        t = y.shape[1]
        start = (jnp.full((bands, t), jnp.nan, y.dtype), jnp.full(t, jnp.inf, y.dtype))
        (best, least), _ = jax.lax.scan(better, start, lams)
        return Found(best, least)


def random_search(key: Any, lams: Any, *, count: int = 20, folds: int = 5) -> Random:
    """The best of ``count`` random shares of the bands (Dirichlet of 0.1 or 1), each times every λ of a grid (k,).

    The baseline that others use; the mean squared error on held-out rows decides for each target. ``lams`` are in units
    of the standardised problem, in which columns have entries of about 1.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge.linear import searches
    >>> searches.random_search(jax.random.key(0), jnp.logspace(-2, 3, 6)).count
    20
    """
    return Random(as_key(key), as_floats("lams", lams, (1,)), whole("count", count, 1), whole("folds", folds, 2))
