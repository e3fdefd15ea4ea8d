"""A Tikhonov problem known by products alone, solved for every λ in one Krylov space, and live.

In x = x₀ + L⁺u + Wc (see `jaxridge.inverse.seminorm`) the directions W leave by a projection: with √ωAW = QR the
problem is plain least squares in u with Ā = (I − QQᵀ)√ωAL⁺, which is bidiagonalised once. Values come from the
projected problem; their derivatives from

    Aᵀω(Ax − b) + λLᵀL(x − x₀) = 0,

live, with tangent systems solved by conjugate gradients that the same Krylov space preconditions.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.factored import EXITS, damped
from jaxridge.core.implicit import derived_columns, first_order_only, frozen, linear_root
from jaxridge.core.numbers import log_spaced, matmul, poison, safe_sqrt
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Int, Lam, Scalar
from jaxridge.inverse.fit import TikhonovFactored, TikhonovProblem, within_range
from jaxridge.inverse.frame import Frame
from jaxridge.inverse.maps import columns
from jaxridge.linalg import conjugate_gradients
from jaxridge.linalg.golub_kahan import (
    Bidiagonal,
    Projected,
    Run,
    bidiagonalise,
    largest_singular_value,
    quadrature,
    relative_error_bound,
    residual_share,
)
from jaxridge.linalg.pivoted_cholesky import LowRank
from jaxridge.linear.fit import span_of

# Heuristic: below what a handful of random probes leaves open in the trace.
_PROBE_TOL = 1e-3


class ProjectedSpectrum(TikhonovFactored):
    """Every λ from one Krylov space; every exit can be differentiated in all arrays of the problem.

    ``dof``, ``residual_dof`` and ``logdet`` are means over random probes, each with a Krylov space of its own: those
    of the projected problem would be silently wrong. ``logdet`` has derivatives in λ only, NaN in others.
    """

    problem: TikhonovProblem
    grid: Float[Array, " k"]  # the λs that the space was made for
    frame: Frame
    run: Run  # leading axis t
    small: Projected  # leading axis t
    probes: Float[Array, "p m"] | None
    traces: Bidiagonal | None  # leading axis p
    tol: Scalar
    counted: Int[Array, ""]
    max_steps: int = eqx.field(static=True)

    @property
    def missing(self) -> str:
        return "needs the rows of A, which products with it do not give; use select.gcv, with a key for probes"

    @property
    def products(self) -> Int[Array, ""]:
        return self.counted

    @property
    def singular_values(self) -> Float[Array, " p"]:
        """Those of the projected problem, which approach the outer ones of A first."""
        return self.small.s[0] * self.small.unit[0]

    def span(self) -> tuple[Array, Array]:
        return span_of(self.singular_values)

    def default_grid(self) -> Float[Array, " k"]:
        return self.grid

    def solution(self, lam: Lam) -> tuple[Array, Array, Array, Any]:
        """With derivatives that share their solves."""
        x, rss, squared = self._exit(_solution_value, ProjectedSpectrum._solution_live, self._each(lam))
        return x, rss, safe_sqrt(squared), self.result(lam)

    def steps(self, lam: Lam) -> Int[Array, " t"]:
        """Those of the grid point, for any other λ those of the whole space."""
        lam, run = self._each(lam), self.run

        def one(steps: Int[Array, " k"], state: Bidiagonal, lam: Array, resolved: Array) -> Array:
            known, whole = self.grid == lam, jnp.where(resolved, state.steps, -1).astype(steps.dtype)
            return jnp.where(jnp.any(known), steps[jnp.argmax(known)], whole)

        return jax.vmap(one)(run.steps, run.bidiagonal, lam, self.resolved(lam))

    def coef(self, lam: Lam) -> Float[Array, "n t"]:
        """x, flat."""
        return self._exit(_coef_value, ProjectedSpectrum._coef_live, self._each(lam))

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """‖√ω(Ax − b)‖²."""
        return self._exit(_rss_value, ProjectedSpectrum._rss_live, self._each(lam))

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """‖L(x − x₀)‖²."""
        return self._exit(_squared_norm_value, ProjectedSpectrum._squared_norm_live, self._each(lam))

    def misfit(self, lam: Lam) -> Float[Array, " t"]:
        """‖√ω(Ax − b)‖² + λ‖L(x − x₀)‖²."""
        return self._exit(_misfit_value, ProjectedSpectrum._misfit_live, self._each(lam))

    def residual_dof(self, lam: Lam) -> Lam:
        """m − dof: the mean of zᵀ(I − H)z over the probes."""
        lams = jnp.atleast_1d(self._probed("residual_dof", lam))
        return self._exit(_residual_dof_value, ProjectedSpectrum._residual_dof_live, lams).reshape(jnp.shape(lam))

    def dof(self, lam: Lam) -> Lam:
        """tr H, m less ``residual_dof``."""
        return self.problem.rows() - self.residual_dof(lam)

    def logdet(self, lam: Lam) -> Lam:
        """log det(I + ĀĀᵀ/λ): the mean of zᵀ log(I + ĀĀᵀ/λ) z over the probes."""
        lam, moving = self._probed("logdet", lam), eqx.filter(self.problem, eqx.is_inexact_array)
        guarded = eqx.tree_at(lambda s: s.traces, self, first_order_only(self.traces, moving, None))
        return _logdet_value(guarded, jnp.atleast_1d(lam)).reshape(jnp.shape(lam))

    def error_bound(self, lam: Lam) -> Float[Array, " t"]:
        """A bound on ‖L(x − x(λ))‖/‖L(x − x₀)‖."""
        lam = jax.lax.stop_gradient(self._each(lam))
        return jax.vmap(lambda state, lam: relative_error_bound(state, lam[None])[0])(self.run.bidiagonal, lam)

    def resolved(self, lam: Lam) -> Bool[Array, " t"]:
        """Whether λ was solved to tol."""
        return self.error_bound(lam) <= self.tol

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        lam, live = self._each(lam), frozen(self.problem)
        good = jnp.all(jnp.isfinite(live.y), axis=0) & jnp.all(jnp.isfinite(self.frame.R))
        # A product that is not finite leaves NaN in the bidiagonal.
        good &= jnp.all(jnp.isfinite(self.run.bidiagonal.alpha), axis=1)
        weights = jnp.array(True)
        if live.weights is not None:
            weights = jnp.all(live.weights >= 0) & jnp.any(live.weights > 0)
        finite = jax.vmap(lambda small, lam: jnp.all(jnp.isfinite(small.coordinates(lam))))(self.small, lam)
        return first_failure(
            (~weights, RESULTS.invalid_weights),
            (~good, RESULTS.nonfinite_input),
            (self.frame.shared, RESULTS.shared_null_space),
            (~(lam >= 0), RESULTS.invalid_lam),
            (~finite, RESULTS.overflow),
            (~self.resolved(lam), RESULTS.max_products),
            shape=lam.shape,
        )

    def _each(self, lam: Lam) -> Float[Array, " t"]:
        return jnp.broadcast_to(jnp.atleast_1d(lam), self.problem.y.shape[1:])

    def _probed(self, what: str, lam: Lam) -> Lam:
        if self.traces is None:
            raise ValueError(
                f"{EXITS.get(what, what)} of products with A needs random probes; pass solver=GolubKahan(key), with a "
                "key of jax.random."
            )
        return lam

    def _exit(self, value: Callable[..., Any], live: Callable[..., Any], lam: Float[Array, " c"]) -> Any:
        """``value`` with the derivatives of ``live``, a column for each λ."""
        arrays, static = eqx.partition(self, eqx.is_array)
        leaves, tree = jax.tree.flatten(static)
        return _attached(value, live, tuple(leaves), tree)(arrays, lam)

    def _system(self, lam: Float[Array, " c"]) -> Callable[[Array], tuple[Array, conjugate_gradients.Stats]]:
        """g ↦ x with (AᵀωA + λLᵀL)x = g, frozen, by conjugate gradients in u."""
        frame, lam = self.frame, within_range(jax.lax.stop_gradient(lam))
        normal = lambda V: columns(lambda v: frame.adjoint(frame.apply(v)), V)  # noqa: E731
        M = _preconditioner(self)
        return lambda g: frame.solve(g, lambda h: conjugate_gradients.run(h, lam, normal, M, self.tol, self.max_steps))

    def _solved(
        self,
        live: TikhonovProblem,
        lam: Float[Array, " c"],
        seen: Float[Array, "m c"],
        x: Array,
        solved: Bool[Array, " c"],
    ) -> Float[Array, "n c"]:
        """``x``, found already, as the solution of the live equation; NaN derivatives where it was not solved."""
        system, root_tol = self._system(lam), jnp.sqrt(self.tol)

        def tangent(g: Array) -> Array:
            change, stats = system(g)
            # A column that nobody asks about has g = 0, and its NaN would reach the others.
            good = (solved & (stats.residual_norm <= root_tol)) | jnp.all(g == 0, axis=0)
            return poison(change, jnp.broadcast_to(good[None, :], change.shape))

        return linear_root(lambda x: live.gradient(x, within_range(lam), seen), x, tangent)

    def _coef_live(self, lam: Float[Array, " t"]) -> Array:
        x = _coef_value(frozen(self), jax.lax.stop_gradient(lam))
        return self._solved(self.problem, lam, self.problem.weigh(self.problem.y), x, self.resolved(lam))

    def _solution_live(self, lam: Float[Array, " t"]) -> tuple[Array, Array, Array]:
        x = self._coef_live(lam)
        return x, self.problem.rss(x), self.problem.squared_norm(x)

    def _rss_live(self, lam: Float[Array, " t"]) -> Array:
        return self.problem.rss(self._coef_live(lam))

    def _squared_norm_live(self, lam: Float[Array, " t"]) -> Array:
        return self.problem.squared_norm(self._coef_live(lam))

    def _misfit_live(self, lam: Float[Array, " t"]) -> Array:
        x = self._coef_live(lam)
        return self.problem.rss(x) + damped(lam, self.problem.squared_norm(x))

    def _residual_dof_live(self, lams: Float[Array, " c"]) -> Float[Array, " c"]:
        """Mean of zᵀ(z − √ωAx_z), with x_z the fit of √ωb = z."""
        assert self.probes is not None
        Z = self.probes.T
        live = eqx.tree_at(lambda live: live.x_ref, self.problem, None, is_leaf=lambda x: x is None)
        root = 1.0 if live.weights is None else jnp.sqrt(live.weights)[:, None]

        def one(lam: Array) -> Array:
            lam = jnp.broadcast_to(lam, Z.shape[1:])
            x, stats = frozen(self)._system(lam)(jax.lax.stop_gradient(columns(live.A.adjoint, root * Z)))
            x = self._solved(live, lam, root * Z, x, stats.solved)
            return jnp.mean(jnp.sum(Z * (Z - root * columns(live.A, x)), axis=0))

        return jax.vmap(one)(lams)


@lru_cache(maxsize=64)
def _attached(value: Callable, live: Callable, leaves: tuple[Any, ...], tree: Any) -> Callable[..., Any]:
    """One function for each kind of spectrum, so that rules which ask for the same exits share what is traced."""
    static = jax.tree.unflatten(tree, leaves)

    def of(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda arrays, lam: fn(eqx.combine(arrays, static), lam)

    return derived_columns(of(value), of(live))


def _preconditioner(spectrum: ProjectedSpectrum) -> LowRank:
    """Of ĀᵀĀ, from the singular vectors of the first target's projection."""
    state, small = jax.tree.map(lambda x: x[0], jax.lax.stop_gradient((spectrum.run.bidiagonal, spectrum.small)))
    return LowRank.spectral(state.along(small.V), small.s * small.unit)


def _over(fn: Callable[..., Array], spectrum: ProjectedSpectrum, lam: Float[Array, " t"], out: int = 0) -> Array:
    """``fn(bidiagonal, small, λ)`` of every target."""
    return jax.vmap(fn, out_axes=out)(spectrum.run.bidiagonal, spectrum.small, lam)


def _coef_value(spectrum: ProjectedSpectrum, lam: Float[Array, " t"]) -> Array:
    u = _over(lambda state, small, lam: state.along(small.y(lam)[:, None])[:, 0], spectrum, lam, 1)
    return spectrum.frame.back(u)


def _rss_value(spectrum: ProjectedSpectrum, lam: Float[Array, " t"]) -> Array:
    return _over(lambda _, small, lam: small.rss(lam), spectrum, lam)


def _squared_norm_value(spectrum: ProjectedSpectrum, lam: Float[Array, " t"]) -> Array:
    return _over(lambda _, small, lam: small.squared_norm(lam), spectrum, lam)


def _misfit_value(spectrum: ProjectedSpectrum, lam: Float[Array, " t"]) -> Array:
    return _over(lambda _, small, lam: small.misfit(lam), spectrum, lam)


def _solution_value(spectrum: ProjectedSpectrum, lam: Float[Array, " t"]) -> tuple[Array, Array, Array]:
    return _coef_value(spectrum, lam), _rss_value(spectrum, lam), _squared_norm_value(spectrum, lam)


def _residual_dof_value(spectrum: ProjectedSpectrum, lams: Float[Array, " c"]) -> Float[Array, " c"]:
    share = lambda state: jnp.square(state.beta[0]) * residual_share(state, lams)  # noqa: E731
    assert spectrum.traces is not None
    return jnp.mean(jax.vmap(share)(spectrum.traces), axis=0)


def _logdet_value(spectrum: ProjectedSpectrum, lams: Float[Array, " c"]) -> Float[Array, " c"]:
    """zᵀ log(I + AAᵀ/λ)z by the Gauss–Radau rule: nodes s², weights the squares of first components."""

    def one(state: Bidiagonal) -> Array:
        small = Projected.of(state)
        logs = jnp.log1p(jnp.square(small.s * small.unit)[:, None] / lams[None, :])
        return jnp.square(small.size) * matmul(jnp.square(small.z[:-1]), logs)

    assert spectrum.traces is not None
    return jnp.mean(jax.vmap(one)(spectrum.traces), axis=0)


def project(
    problem: TikhonovProblem,
    lams: Float[Array, " k"] | None,
    *,
    tol: Array,
    budget: int,
    orthogonal: bool,
    key: Array | None,
    probes: int,
    max_steps: int,
) -> ProjectedSpectrum:
    """Bidiagonalise for every target, until each λ is solved, and for as many probes.

    For ``lams`` None 49 of them from 1e-6 to 100 times s₁², which twenty products tell, and infinity: what is not
    penalised. Zero, and λ further down, would cost as many products as there are directions.
    """
    frame = Frame.of(frozen(problem))
    if lams is None:
        start, size = frame.outside(frame.data[:, 0]), problem.norm.size
        largest = largest_singular_value(frame.apply, frame.adjoint, start, size)
        square = 2 * jnp.log10(largest)
        lams = log_spaced(square - 6, square + 2, 49)
        lams = jnp.concatenate([lams, jnp.full(1, jnp.inf, lams.dtype)])
    lams, size = jax.lax.stop_gradient(lams), problem.norm.size

    def one(b: Array) -> Run:
        return bidiagonalise(frame.apply, frame.adjoint, b, size, lams, tol=tol, budget=budget, orthogonal=orthogonal)

    rhs = columns(frame.outside, frame.data)
    # A loop under vmap keeps two copies of the basis and selects between them.
    run = jax.tree.map(lambda x: x[None], one(rhs[:, 0])) if rhs.shape[1] == 1 else jax.vmap(one, in_axes=1)(rhs)
    counted = 2 * problem.free + int(problem.x_ref is not None)
    products = jnp.sum(2 * run.bidiagonal.steps + 1, dtype=jnp.int32) + counted
    Z, traces = None, None
    if key is not None:
        Z = jax.random.rademacher(key, (probes, problem.y.shape[0]), problem.y.dtype)

        def trace(z: Array) -> Bidiagonal:
            return quadrature(frame.apply, frame.adjoint, frame.outside(z), size, budget, wanted, _PROBE_TOL)

        # A λ that was not solved for b has no score, and needs no trace.
        solved = jnp.all(run.steps >= 0, axis=0)
        wanted = jnp.where(solved, lams, jnp.inf)
        traces = jax.vmap(trace)(Z)
    small = jax.vmap(Projected.of)(run.bidiagonal)
    tol = jnp.asarray(tol, problem.y.dtype)
    return ProjectedSpectrum(problem, lams, frame, run, small, Z, traces, tol, products, max_steps)
