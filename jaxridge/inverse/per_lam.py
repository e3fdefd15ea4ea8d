"""A Tikhonov problem known by products alone whose L has no pseudo-inverse: a solve for each λ, and nothing shared."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import frozen, linear_root
from jaxridge.core.numbers import log_spaced, poison, safe_sqrt
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Float, Lam, Scalar
from jaxridge.inverse.fit import TikhonovFactored, TikhonovProblem, within_range
from jaxridge.inverse.maps import columns
from jaxridge.linalg import conjugate_gradients
from jaxridge.linalg.golub_kahan import largest_singular_value


class PerLamSpectrum(TikhonovFactored):
    """Exits by a solve of (AᵀωA + λLᵀL)x = Aᵀωb + λLᵀLx₀ at each λ; nothing is shared, and nothing but x is known."""

    problem: TikhonovProblem
    tol: Scalar
    max_steps: int = eqx.field(static=True)

    @property
    def missing(self) -> str:
        return (
            "would take a solve for each probe and λ; use select.discrepancy or select.l_curve, or an L that "
            "brings its pseudo-inverse, such as operators.difference"
        )

    def span(self) -> tuple[Array, Array]:
        """Around the ratio of the norms of A and L: for want of L⁺ no more is known of generalised singular values."""
        ratio = self._ratio()
        return ratio - 6, ratio + 4

    def default_grid(self) -> Float[Array, " k"]:
        """50 λ over ten decades (heuristic): small ones bound A, large ones the smooth part that L hardly sees."""
        return log_spaced(*self.span(), 50)

    def _ratio(self) -> Scalar:
        """log₁₀ of ‖A‖²/‖L‖²."""
        problem = frozen(self.problem)
        A, L, n = problem.A, problem.norm.L, problem.A.shape[1]
        of_A = largest_singular_value(A, A.adjoint, problem.y[:, 0], n)
        if L is None:
            return 2 * jnp.log10(of_A)
        of_L = largest_singular_value(L, L.adjoint, L(jnp.cos(jnp.arange(n, dtype=problem.y.dtype))), n)
        return 2 * (jnp.log10(of_A) - jnp.log10(of_L))

    def _solve(self, lam: Float[Array, " t"]) -> tuple[Float[Array, "n t"], conjugate_gradients.Stats]:
        still, fixed = frozen(self.problem), within_range(jax.lax.stop_gradient(lam))
        normal = lambda V: columns(still.A.adjoint, still.weigh(columns(still.A, V)))  # noqa: E731
        penalty = lambda V: columns(still.norm.normal, V)  # noqa: E731

        def iterate(g: Array) -> tuple[Array, conjugate_gradients.Stats]:
            return conjugate_gradients.run(
                g, fixed, normal, conjugate_gradients.identity, self.tol, self.max_steps, penalty
            )

        zero = jnp.zeros((still.A.shape[1], fixed.shape[0]), still.y.dtype)
        x, stats = iterate(-still.gradient(zero, fixed, still.weigh(still.y)))

        def tangent(g: Array) -> Array:
            change, own = iterate(g)
            return conjugate_gradients.unless_failed(change, g, self.tol, stats, own)

        seen = self.problem.weigh(self.problem.y)
        return linear_root(lambda x: self.problem.gradient(x, within_range(lam), seen), x, tangent), stats

    def solution(self, lam: Lam) -> tuple[Array, Array, Array, Any]:
        """x, ‖√ω(Ax − b)‖², ‖L(x − x₀)‖ and a `RESULTS` item for each target, from one solve."""
        lam = jnp.broadcast_to(jnp.atleast_1d(lam), self.problem.y.shape[1:])
        valid = lam >= 0
        lam = poison(lam, valid)
        x, stats = self._solve(lam)
        x = poison(x, valid[None, :])
        finite = jnp.all(jnp.isfinite(self.problem.y), axis=0) & (jnp.isfinite(stats.residual_norm) | ~valid)
        result = override(RESULTS.invalid_lam, ~valid, stats.result(lam))
        result = override(RESULTS.nonfinite_input, ~finite, result)
        return x, self.problem.rss(x), safe_sqrt(self.problem.squared_norm(x)), result

    def coef(self, lam: Lam) -> Float[Array, "n t"]:
        return self.solution(lam)[0]

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        return self.solution(lam)[1]

    def norm(self, lam: Lam) -> Float[Array, " t"]:
        return self.solution(lam)[2]

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        return self.solution(lam)[3]
