"""A Tikhonov problem known by products alone, solved for every λ in one Krylov space, and live.

In x = x₀ + L⁺u + Wc (see `jaxridge.inverse.maps`) the directions W leave by a projection: with √ωAW = QR the
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

from jaxridge.core.implicit import attach_columns, implicit_solution, once_only, still
from jaxridge.core.numbers import matmul, poison, safe_sqrt
from jaxridge.core.results import RESULTS, first_failure, override
from jaxridge.core.types import Array, Bool, Float, Int, Lam, Scalar
from jaxridge.inverse.diagonal import Measurements
from jaxridge.inverse.maps import Map, Seminorm, columns
from jaxridge.linalg import conjugate_gradients
from jaxridge.linalg.golub_kahan import (
    Bidiagonal,
    Projected,
    Run,
    bidiagonalise,
    quadrature,
    relative_error_bound,
    residual_share,
)

# Heuristic: below what a handful of random probes leaves open in the trace.
_PROBE_TOL = 1e-3


class Live(eqx.Module):
    """min ‖√ω(Ax − b)‖² + λ‖L(x − x₀)‖²: derivatives flow through these arrays and no others."""

    A: Map
    norm: Seminorm
    b: Float[Array, "m t"]
    weights: Float[Array, " m"] | None
    x_ref: Float[Array, " n"] | None

    def weigh(self, R: Float[Array, "m t"]) -> Float[Array, "m t"]:
        """ωr."""
        return R if self.weights is None else self.weights[:, None] * R

    def residual(self, x: Float[Array, "n t"]) -> Float[Array, "m t"]:
        """b − Ax."""
        return self.b - columns(self.A, x)

    def rss(self, x: Float[Array, "n t"]) -> Float[Array, " t"]:
        """‖√ω(Ax − b)‖²."""
        return jnp.sum(self.weigh(jnp.square(self.residual(x))), axis=0)

    def from_reference(self, x: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """x − x₀."""
        return x if self.x_ref is None else x - self.x_ref[:, None]

    def penalised(self, x: Float[Array, "n t"]) -> Float[Array, "p t"]:
        """L(x − x₀)."""
        return columns(self.norm.apply, self.from_reference(x))

    def squared_norm(self, x: Float[Array, "n t"]) -> Float[Array, " t"]:
        """‖L(x − x₀)‖²."""
        return jnp.sum(jnp.square(self.penalised(x)), axis=0)

    def gradient(self, x: Float[Array, "n t"], lam: Float[Array, " t"], seen: Float[Array, "m t"]) -> Array:
        """Aᵀ(ωAx − seen) + λLᵀL(x − x₀), where ``seen`` is ωb."""
        misfit = columns(self.A.adjoint, self.weigh(columns(self.A, x)) - seen)
        return misfit + lam[None, :] * columns(self.norm.normal, self.from_reference(x))


class Frame(eqx.Module):
    """The frozen problem in u: what takes the unpenalised directions out, and the way back."""

    live: Live
    root: Float[Array, " m"] | None  # √ω
    data: Float[Array, "m t"]  # √ω(b − Ax₀)
    Q: Float[Array, "m q"]  # √ωAW = QR
    R: Float[Array, "q q"]
    G: Float[Array, "n q"]  # Aᵀ√ωQ
    shared: Bool[Array, ""]

    @classmethod
    def of(cls, live: Live) -> "Frame":
        """2q products, and one for x₀."""
        W = live.norm.null
        root = None if live.weights is None else jnp.sqrt(live.weights)
        weigh = lambda r: r if root is None else root * r  # noqa: E731
        data = columns(weigh, live.b if live.x_ref is None else live.b - live.A(live.x_ref)[:, None])
        Q, R = jnp.linalg.qr(columns(lambda w: weigh(live.A(w)), W))
        G = columns(lambda y: live.A.adjoint(weigh(y)), Q)
        # ‖AᵀQ‖ is the size of A near Q; what A leaves of W below that rounds to nothing.
        size = jnp.max(jnp.linalg.norm(G, axis=0), initial=0.0)
        least = jnp.min(jnp.abs(jnp.diagonal(R)), initial=jnp.inf)
        shared = least <= max(live.A.shape) * jnp.finfo(W.dtype).eps * size
        return cls(live, root, data, Q, R, G, shared)

    def outside(self, y: Float[Array, " m"]) -> Float[Array, " m"]:
        """(I − QQᵀ)y; twice, since once leaves the rounding of what it takes away."""
        y = y - matmul(self.Q, matmul(self.Q.T, y))
        return y - matmul(self.Q, matmul(self.Q.T, y))

    def apply(self, u: Float[Array, " r"]) -> Float[Array, " m"]:
        """Āu."""
        y = self.live.A(self.live.norm.times(u))
        return self.outside(y if self.root is None else self.root * y)

    def adjoint(self, y: Float[Array, " m"]) -> Float[Array, " r"]:
        """Āᵀy."""
        y = self.outside(y)
        return self.live.norm.adjoint(self.live.A.adjoint(y if self.root is None else self.root * y))

    def back(self, u: Float[Array, "r t"]) -> Float[Array, "n t"]:
        """x = x₀ + L⁺u + Wc, with the c that fits best."""
        x, x_ref = self.whole(columns(self.live.norm.times, u), matmul(self.Q.T, self.data)), self.live.x_ref
        return x if x_ref is None else x + x_ref[:, None]

    def whole(self, along: Float[Array, "n t"], seen: Float[Array, "q t"]) -> Float[Array, "n t"]:
        """L⁺u + Wc with Rc = Qᵀ(what is to be fitted) − QᵀAL⁺u."""
        c = jax.scipy.linalg.solve_triangular(self.R, seen - matmul(self.G.T, along))
        return along + matmul(self.live.norm.null, c)

    def solve(self, g: Float[Array, "n t"], iterate: Callable[[Array], Any]) -> tuple[Float[Array, "n t"], Any]:
        """x with (AᵀωA + λLᵀL)x = g, where ``iterate(h)`` solves (ĀᵀĀ + λ)u = h."""
        seen = jax.scipy.linalg.solve_triangular(self.R, matmul(self.live.norm.null.T, g), trans=1)
        u, stats = iterate(columns(self.live.norm.adjoint, g - matmul(self.G, seen)))
        return self.whole(columns(self.live.norm.times, u), seen), stats


class ProjectedSpectrum(eqx.Module):
    """Exits of `jaxridge.linear.spectrum.Spectrum` from one Krylov space; every one can be differentiated in all of `Live`.

    ``dof``, ``residual_dof`` and ``logdet`` are means over random probes, each with a Krylov space of its own: those
    of the projected problem would be silently wrong. ``logdet`` has derivatives in λ only, NaN in others.
    """

    live: Live
    frame: Frame
    run: Run  # leading axis t
    small: Projected  # leading axis t
    probes: Float[Array, "p m"] | None
    traces: Bidiagonal | None  # leading axis p
    tol: Scalar
    products: Int[Array, ""]
    max_steps: int = eqx.field(static=True)

    @property
    def design(self) -> Measurements:
        return Measurements(self.live.b, self.live.weights, self.live.norm.null.shape[1])

    @property
    def singular_values(self) -> Float[Array, " p"]:
        """Those of the projected problem, which approach the outer ones of A first."""
        return self.small.s[0] * self.small.unit[0]

    def solution(self, lam: Lam) -> tuple[Array, Array, Array]:
        """x, ‖√ω(Ax − b)‖² and ‖L(x − x₀)‖, whose derivatives share their solves."""
        x, rss, squared = self._exit(_solution_value, ProjectedSpectrum._solution_live, self._each(lam))
        return x, rss, safe_sqrt(squared)

    def coef(self, lam: Lam) -> Float[Array, "n t"]:
        """x, flat."""
        return self._exit(_coef_value, ProjectedSpectrum._coef_live, self._each(lam))

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """‖√ω(Ax − b)‖²."""
        return self._exit(_rss_value, ProjectedSpectrum._rss_live, self._each(lam))

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """‖L(x − x₀)‖²."""
        return self._exit(_squared_norm_value, ProjectedSpectrum._squared_norm_live, self._each(lam))

    def penalised(self, lam: Lam) -> Float[Array, "p t"]:
        """L(x − x₀), of which `norm` is the norm."""
        return self.live.penalised(self.coef(lam))

    def norm(self, lam: Lam) -> Float[Array, " t"]:
        """‖L(x − x₀)‖, with derivative 0 where it is 0."""
        return safe_sqrt(self.squared_norm(lam))

    def residual_dof(self, lam: Lam) -> Lam:
        """m − dof: the mean of zᵀ(I − H)z over the probes."""
        lams = jnp.atleast_1d(self._probed("residual_dof", lam))
        return self._exit(_residual_dof_value, ProjectedSpectrum._residual_dof_live, lams).reshape(jnp.shape(lam))

    def dof(self, lam: Lam) -> Lam:
        """tr H, m less ``residual_dof``."""
        return self.design.rows() - self.residual_dof(lam)

    def logdet(self, lam: Lam) -> Lam:
        """log det(I + ĀĀᵀ/λ): the mean of zᵀ log(I + ĀĀᵀ/λ) z over the probes."""
        lam, moving = self._probed("logdet", lam), eqx.filter(self.live, eqx.is_inexact_array)
        guarded = eqx.tree_at(lambda s: s.traces, self, once_only(self.traces, moving, None))
        return _logdet_value(guarded, jnp.atleast_1d(lam)).reshape(jnp.shape(lam))

    def loo_residual(self, lam: Lam) -> Array:
        raise ValueError("leave-one-out needs all leverages, which products with A do not give; use select.gcv.")

    def one_minus_leverage(self, lam: Lam) -> Array:
        raise ValueError("leverages need the rows of A; products with A give residual_dof, by probes.")

    def error_bound(self, lam: Lam) -> Float[Array, " t"]:
        """A bound on ‖L(x − x(λ))‖/‖L(x − x₀)‖."""
        lam = jax.lax.stop_gradient(self._each(lam))
        return jax.vmap(lambda state, lam: relative_error_bound(state, lam[None])[0])(self.run.bidiagonal, lam)

    def resolved(self, lam: Lam) -> Bool[Array, " t"]:
        """Whether λ was solved to tol."""
        return self.error_bound(lam) <= self.tol

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        lam, live = self._each(lam), still(self.live)
        good = jnp.all(jnp.isfinite(live.b), axis=0) & jnp.all(jnp.isfinite(self.frame.R))
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
        return jnp.broadcast_to(jnp.atleast_1d(lam), self.live.b.shape[1:])

    def _probed(self, what: str, lam: Lam) -> Lam:
        if self.traces is None:
            raise ValueError(
                f"{what} of products with A needs random probes; pass solver=GolubKahan(key), with a key of jax.random."
            )
        return lam

    def _exit(self, value: Callable[..., Any], live: Callable[..., Any], lam: Float[Array, " c"]) -> Any:
        """``value`` with the derivatives of ``live``, a column for each λ."""
        arrays, static = eqx.partition(self, eqx.is_array)
        leaves, tree = jax.tree.flatten(static)
        return _attached(value, live, tuple(leaves), tree)(arrays, lam)

    def _system(self, lam: Float[Array, " c"]) -> Callable[[Array], tuple[Array, conjugate_gradients.Stats]]:
        """g ↦ x with (AᵀωA + λLᵀL)x = g, frozen, by conjugate gradients in u."""
        frame, lam = self.frame, _finite(jax.lax.stop_gradient(lam))
        normal = lambda V: columns(lambda v: frame.adjoint(frame.apply(v)), V)  # noqa: E731
        M = _preconditioner(self)
        return lambda g: frame.solve(g, lambda h: conjugate_gradients.run(h, lam, normal, M, self.tol, self.max_steps))

    def _solved(
        self, live: Live, lam: Float[Array, " c"], seen: Float[Array, "m c"], x: Array, solved: Bool[Array, " c"]
    ) -> Float[Array, "n c"]:
        """``x``, found already, as the solution of the live equation; NaN derivatives where it was not solved."""
        system, root_tol = self._system(lam), jnp.sqrt(self.tol)

        def tangent(g: Array) -> Array:
            change, stats = system(g)
            # A column that nobody asks about has g = 0, and its NaN would reach the others.
            good = (solved & (stats.residual_norm <= root_tol)) | jnp.all(g == 0, axis=0)
            return poison(change, jnp.broadcast_to(good[None, :], change.shape))

        return implicit_solution(lambda x: live.gradient(x, _finite(lam), seen), x, tangent)

    def _coef_live(self, lam: Float[Array, " t"]) -> Array:
        x = _coef_value(still(self), jax.lax.stop_gradient(lam))
        return self._solved(self.live, lam, self.live.weigh(self.live.b), x, self.resolved(lam))

    def _solution_live(self, lam: Float[Array, " t"]) -> tuple[Array, Array, Array]:
        x = self._coef_live(lam)
        return x, self.live.rss(x), self.live.squared_norm(x)

    def _rss_live(self, lam: Float[Array, " t"]) -> Array:
        return self.live.rss(self._coef_live(lam))

    def _squared_norm_live(self, lam: Float[Array, " t"]) -> Array:
        return self.live.squared_norm(self._coef_live(lam))

    def _residual_dof_live(self, lams: Float[Array, " c"]) -> Float[Array, " c"]:
        """Mean of zᵀ(z − √ωAx_z), with x_z the fit of √ωb = z."""
        assert self.probes is not None
        Z = self.probes.T
        live = eqx.tree_at(lambda live: live.x_ref, self.live, None, is_leaf=lambda x: x is None)
        root = 1.0 if live.weights is None else jnp.sqrt(live.weights)[:, None]

        def one(lam: Array) -> Array:
            lam = jnp.broadcast_to(lam, Z.shape[1:])
            x, stats = still(self)._system(lam)(jax.lax.stop_gradient(columns(live.A.adjoint, root * Z)))
            x = self._solved(live, lam, root * Z, x, stats.solved)
            return jnp.mean(jnp.sum(Z * (Z - root * columns(live.A, x)), axis=0))

        return jax.vmap(one)(lams)


@lru_cache(maxsize=64)
def _attached(value: Callable, live: Callable, leaves: tuple[Any, ...], tree: Any) -> Callable[..., Any]:
    """One function for each kind of spectrum, so that rules which ask for the same exits share what is traced."""
    static = jax.tree.unflatten(tree, leaves)

    def of(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda arrays, lam: fn(eqx.combine(arrays, static), lam)

    return attach_columns(of(value), of(live))


class PerLamSpectrum(eqx.Module):
    """Exits by a solve of (AᵀωA + λLᵀL)x = Aᵀωb + λLᵀLx₀ at each λ; nothing is shared, and nothing but x is known."""

    live: Live
    tol: Scalar
    max_steps: int = eqx.field(static=True)

    @property
    def design(self) -> Measurements:
        return Measurements(self.live.b, self.live.weights, 0)

    @property
    def singular_values(self) -> Float[Array, " one"]:
        """Of A, the largest one."""
        return largest_singular_value(self.live)[None]

    def _solve(self, lam: Float[Array, " t"]) -> tuple[Float[Array, "n t"], conjugate_gradients.Stats]:
        live, fixed = still(self.live), _finite(jax.lax.stop_gradient(lam))
        normal = lambda V: columns(live.A.adjoint, live.weigh(columns(live.A, V)))  # noqa: E731
        penalty = lambda V: columns(live.norm.normal, V)  # noqa: E731

        def iterate(g: Array) -> tuple[Array, conjugate_gradients.Stats]:
            return conjugate_gradients.run(
                g, fixed, normal, conjugate_gradients.identity, self.tol, self.max_steps, penalty
            )

        zero = jnp.zeros((live.A.shape[1], fixed.shape[0]), live.b.dtype)
        x, stats = iterate(-live.gradient(zero, fixed, live.weigh(live.b)))

        def tangent(g: Array) -> Array:
            change, own = iterate(g)
            return conjugate_gradients.unless_failed(change, g, self.tol, stats, own)

        seen = self.live.weigh(self.live.b)
        return implicit_solution(lambda x: self.live.gradient(x, _finite(lam), seen), x, tangent), stats

    def solution(self, lam: Lam) -> tuple[Array, Array, Array, Any]:
        """x, ‖√ω(Ax − b)‖², ‖L(x − x₀)‖ and a `RESULTS` item for each target, from one solve."""
        lam = jnp.broadcast_to(jnp.atleast_1d(lam), self.live.b.shape[1:])
        x, stats = self._solve(lam)
        finite = jnp.all(jnp.isfinite(self.live.b), axis=0) & jnp.isfinite(stats.residual_norm)
        result = override(RESULTS.nonfinite_input, ~finite, stats.result(lam))
        return x, self.live.rss(x), safe_sqrt(self.live.squared_norm(x)), result

    def coef(self, lam: Lam) -> Float[Array, "n t"]:
        """x, flat."""
        return self.solution(lam)[0]

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """‖√ω(Ax − b)‖²."""
        return self.solution(lam)[1]

    def penalised(self, lam: Lam) -> Float[Array, "p t"]:
        """L(x − x₀)."""
        return self.live.penalised(self.coef(lam))

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """‖L(x − x₀)‖²."""
        return self.live.squared_norm(self.coef(lam))

    def norm(self, lam: Lam) -> Float[Array, " t"]:
        """‖L(x − x₀)‖, with derivative 0 where it is 0."""
        return self.solution(lam)[2]

    def residual_dof(self, lam: Lam) -> Lam:
        raise ValueError(
            "dof by a solve for each probe and λ is not offered; use select.discrepancy or select.l_curve, or an L "
            "that brings its pseudo-inverse, such as operators.difference."
        )

    dof = logdet = loo_residual = one_minus_leverage = residual_dof

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        return self.solution(lam)[3]


def _finite(lam: Float[Array, " c"]) -> Float[Array, " c"]:
    """λ, or a number beside which A is nothing, so that the equation stays in the range of the dtype."""
    return jnp.minimum(lam, jnp.sqrt(jnp.finfo(lam.dtype).max).astype(lam.dtype))


def _preconditioner(spectrum: ProjectedSpectrum) -> conjugate_gradients.LowRank:
    """Of ĀᵀĀ, from the singular vectors of the first target's projection."""
    state, small = jax.tree.map(lambda x: x[0], jax.lax.stop_gradient((spectrum.run.bidiagonal, spectrum.small)))
    return conjugate_gradients.LowRank.spectral(state.along(small.V), small.s * small.unit)


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
    live: Live,
    lams: Float[Array, " k"],
    *,
    tol: Array,
    budget: int,
    orthogonal: bool,
    key: Array | None,
    probes: int,
    max_steps: int,
) -> ProjectedSpectrum:
    """Bidiagonalise for every target, until each λ is solved, and for as many probes."""
    frame = Frame.of(still(live))
    lams, size = jax.lax.stop_gradient(lams), frame.live.norm.size

    def one(b: Array) -> Run:
        return bidiagonalise(frame.apply, frame.adjoint, b, size, lams, tol=tol, budget=budget, orthogonal=orthogonal)

    rhs = columns(frame.outside, frame.data)
    # A loop under vmap keeps two copies of the basis and selects between them.
    run = jax.tree.map(lambda x: x[None], one(rhs[:, 0])) if rhs.shape[1] == 1 else jax.vmap(one, in_axes=1)(rhs)
    q = live.norm.null.shape[1]
    counted = 2 * q + int(live.x_ref is not None)
    products = jnp.sum(2 * run.bidiagonal.steps + 1, dtype=jnp.int32) + counted
    Z, traces = None, None
    if key is not None:
        Z = jax.random.rademacher(key, (probes, live.b.shape[0]), live.b.dtype)

        def trace(z: Array) -> Bidiagonal:
            return quadrature(frame.apply, frame.adjoint, frame.outside(z), size, budget, wanted, _PROBE_TOL)

        # A λ that was not solved for b has no score, and needs no trace.
        solved = jnp.all(run.steps >= 0, axis=0)
        wanted = jnp.where(solved, lams, jnp.inf)
        traces = jax.vmap(trace)(Z)
    small = jax.vmap(Projected.of)(run.bidiagonal)
    return ProjectedSpectrum(live, frame, run, small, Z, traces, jnp.asarray(tol, live.b.dtype), products, max_steps)


def largest_singular_value(live: Live, steps: int = 10) -> Scalar:
    """Of Ā to a few digits, by that many steps from the first right-hand side."""
    frame, none = Frame.of(still(live)), jnp.zeros(1, live.b.dtype)
    b = frame.outside(frame.data[:, 0])
    state = quadrature(frame.apply, frame.adjoint, b, live.norm.size, steps, none, 0.0)
    return jnp.max(jnp.linalg.svd(state.matrix(), compute_uv=False), initial=0.0) * state.unit
