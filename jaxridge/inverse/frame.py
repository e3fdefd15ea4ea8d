"""A Tikhonov problem in u, where x = x₀ + L⁺u + Wc: what takes the unpenalised directions out, and the way back.

The directions W leave by a projection: with √ωAW = QR the problem is plain least squares in u with
Ā = (I − QQᵀ)√ωAL⁺.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Bool, Float
from jaxridge.inverse.fit import TikhonovProblem
from jaxridge.inverse.maps import columns


class Frame(eqx.Module):
    """The frozen problem in u: what takes the unpenalised directions out, and the way back."""

    problem: TikhonovProblem
    root: Float[Array, " m"] | None  # √ω
    data: Float[Array, "m t"]  # √ω(b − Ax₀)
    Q: Float[Array, "m q"]  # √ωAW = QR
    R: Float[Array, "q q"]
    G: Float[Array, "n q"]  # Aᵀ√ωQ
    shared: Bool[Array, ""]

    @classmethod
    def of(cls, problem: TikhonovProblem) -> "Frame":
        """2q products, and one for x₀."""
        W = problem.norm.null
        root = None if problem.weights is None else jnp.sqrt(problem.weights)
        weigh = lambda r: r if root is None else root * r  # noqa: E731
        data = columns(weigh, problem.data())
        Q, R = jnp.linalg.qr(columns(lambda w: weigh(problem.A(w)), W))
        G = columns(lambda y: problem.A.adjoint(weigh(y)), Q)
        # ‖AᵀQ‖ is the size of A near Q; what A leaves of W below that rounds to nothing.
        size = jnp.max(jnp.linalg.norm(G, axis=0), initial=0.0)
        least = jnp.min(jnp.abs(jnp.diagonal(R)), initial=jnp.inf)
        shared = least <= max(problem.A.shape) * jnp.finfo(W.dtype).eps * size
        return cls(problem, root, data, Q, R, G, shared)

    def outside(self, y: Float[Array, " m"]) -> Float[Array, " m"]:
        """(I − QQᵀ)y; twice, since once leaves the rounding of what it takes away."""
        y = y - matmul(self.Q, matmul(self.Q.T, y))
        return y - matmul(self.Q, matmul(self.Q.T, y))

    def apply(self, u: Float[Array, " r"]) -> Float[Array, " m"]:
        """Āu."""
        y = self.problem.A(self.problem.norm.times(u))
        return self.outside(y if self.root is None else self.root * y)

    def adjoint(self, y: Float[Array, " m"]) -> Float[Array, " r"]:
        """Āᵀy."""
        y = self.outside(y)
        return self.problem.norm.adjoint(self.problem.A.adjoint(y if self.root is None else self.root * y))

    def back(self, u: Float[Array, "r t"]) -> Float[Array, "n t"]:
        """x = x₀ + L⁺u + Wc, with the c that fits best."""
        x, x_ref = self.whole(columns(self.problem.norm.times, u), matmul(self.Q.T, self.data)), self.problem.x_ref
        return x if x_ref is None else x + x_ref[:, None]

    def whole(self, along: Float[Array, "n t"], seen: Float[Array, "q t"]) -> Float[Array, "n t"]:
        """L⁺u + Wc with Rc = Qᵀ(what is to be fitted) − QᵀAL⁺u."""
        c = jax.scipy.linalg.solve_triangular(self.R, seen - matmul(self.G.T, along))
        return along + matmul(self.problem.norm.null, c)

    def solve(self, g: Float[Array, "n t"], iterate: Callable[[Array], Any]) -> tuple[Float[Array, "n t"], Any]:
        """x with (AᵀωA + λLᵀL)x = g, where ``iterate(h)`` solves (ĀᵀĀ + λ)u = h."""
        seen = jax.scipy.linalg.solve_triangular(self.R, matmul(self.problem.norm.null.T, g), trans=1)
        u, stats = iterate(columns(self.problem.norm.adjoint, g - matmul(self.G, seen)))
        return self.whole(columns(self.problem.norm.times, u), seen), stats
