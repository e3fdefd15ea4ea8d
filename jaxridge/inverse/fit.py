"""A regularised solution, and what every factored Tikhonov problem has in common."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.factored import Factored, Model, Problem, Terms
from jaxridge.core.types import Array, Float, Int, Lam
from jaxridge.inverse.maps import Map, columns
from jaxridge.inverse.seminorm import Seminorm


class TikhonovFit(Model):
    """A regularised solution.

    ``x`` in the shape that A takes (a trailing axis t for several right-hand sides), ``lam``, ``rss`` = ‖√ω(Ax − b)‖²,
    ``norm`` = ‖L(x − x₀)‖, ``result`` (`RESULTS`), ``error_bound`` on ‖L(x − x(λ))‖/‖L(x − x₀)‖, 0 for exact solvers,
    ``steps`` after how many Krylov steps this λ was solved: −1 if it was not, 0 for exact solvers. In a `Path` each has
    an axis of λ in front.
    """

    x: Any
    lam: Array
    rss: Float[Array, "*t"]
    norm: Float[Array, "*t"]
    result: Any
    error_bound: Float[Array, "*t"]
    steps: Int[Array, "*t"]


class TikhonovProblem(Problem):
    """min ‖√ω(Ax − b)‖² + λ‖L(x − x₀)‖² with b in ``y``, flat: derivatives flow through these arrays and no others."""

    A: Map
    norm: Seminorm
    y: Float[Array, "m t"]
    weights: Float[Array, " m"] | None
    x_ref: Float[Array, " n"] | None
    terms: Terms = eqx.field(static=True)

    @property
    def free(self) -> int:
        """q, the dimension of the null space of L."""
        return self.norm.null.shape[1]

    def residual(self, x: Float[Array, "n t"]) -> Float[Array, "m t"]:
        """b − Ax."""
        return self.y - columns(self.A, x)

    def rss(self, x: Float[Array, "n t"]) -> Float[Array, " t"]:
        """‖√ω(Ax − b)‖²."""
        return jnp.sum(self.weigh(jnp.square(self.residual(x))), axis=0)

    def from_reference(self, x: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """x − x₀."""
        return x if self.x_ref is None else x - self.x_ref[:, None]

    def data(self) -> Float[Array, "m t"]:
        """b − Ax₀."""
        return self.y if self.x_ref is None else self.y - self.A(self.x_ref)[:, None]

    def size_of(self, x: Float[Array, "n t"]) -> Float[Array, " t"]:
        """‖Lx‖²."""
        return jnp.sum(jnp.square(columns(self.norm.apply, x)), axis=0)

    def squared_norm(self, x: Float[Array, "n t"]) -> Float[Array, " t"]:
        """‖L(x − x₀)‖²."""
        return self.size_of(self.from_reference(x))

    def gradient(self, x: Float[Array, "n t"], lam: Float[Array, " t"], seen: Float[Array, "m t"]) -> Array:
        """Aᵀ(ωAx − seen) + λLᵀL(x − x₀), where ``seen`` is ωb."""
        misfit = columns(self.A.adjoint, self.weigh(columns(self.A, x)) - seen)
        return misfit + lam[None, :] * columns(self.norm.normal, self.from_reference(x))


class TikhonovFactored(Factored):
    """A factored Tikhonov problem; ``coef`` is x, flat."""

    problem: eqx.AbstractVar[TikhonovProblem]

    model = TikhonovFit

    def solution(self, lam: Lam) -> tuple[Float[Array, "n t"], Float[Array, " t"], Float[Array, " t"], Any]:
        """x, ‖√ω(Ax − b)‖², ‖L(x − x₀)‖ and a `RESULTS` item for each target, for kinds that share work among them."""
        return self.coef(lam), self.rss(lam), self.norm(lam), self.result(lam)

    def error_bound(self, lam: Lam) -> Float[Array, " t"]:
        """A bound on ‖L(x − x(λ))‖/‖L(x − x₀)‖."""
        return jnp.zeros(self.problem.y.shape[1], self.problem.y.dtype)

    def steps(self, lam: Lam) -> Int[Array, " t"]:
        """Krylov steps after which λ was solved."""
        return jnp.zeros(self.problem.y.shape[1], jnp.int32)

    @property
    def products(self) -> Int[Array, ""]:
        """With A and Aᵀ in all, those of probes not counted; 0 for exact solvers."""
        return jnp.zeros((), jnp.int32)

    def penalty_of(self, w: Float[Array, "n t"]) -> Float[Array, " t"]:
        """‖Lw‖²."""
        return self.problem.size_of(w)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """‖L(x − x₀)‖²."""
        return self.problem.squared_norm(self.coef(lam))

    def residual(self, lam: Lam) -> Float[Array, "m t"]:
        """b − Ax."""
        return self.problem.residual(self.coef(lam))

    def predict_at(self, name: str, X: Any, lams: Float[Array, "k *t"]) -> Float[Array, "k v t"]:
        """Xx for a matrix or operator X of other measurements."""
        other, n = Map.of(name, X), self.problem.A.shape[1]
        if other.shape[1] != n:
            raise ValueError(f"{name} takes {other.shape[1]} numbers and A {n}; pass rows of the same kind.")
        other = other.astype(self.problem.y.dtype)
        return jax.vmap(lambda lam: columns(other, self.coef(lam)))(lams)

    def fit(self, lam: Lam) -> TikhonovFit:
        x, rss, norm, result = self.solution(lam)
        x = jax.vmap(self.problem.A.inputs.shaped, in_axes=1, out_axes=-1)(x)
        parts = (x, rss, norm, result, self.error_bound(lam), self.steps(lam))
        x, rss, norm, result, bound, steps = self.problem.squeeze(parts)
        return TikhonovFit(x, lam, rss, norm, result, bound, steps)


def within_range(lam: Float[Array, " c"]) -> Float[Array, " c"]:
    """λ, or a number beside which A is nothing, so that the equation stays in the range of the dtype."""
    return jnp.minimum(lam, jnp.sqrt(jnp.finfo(lam.dtype).max).astype(lam.dtype))
