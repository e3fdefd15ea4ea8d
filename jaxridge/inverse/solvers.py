"""The four ways to factor a Tikhonov problem once for every λ."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from jaxridge import operators
from jaxridge.core.checks import as_key
from jaxridge.core.factored import Solver
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float
from jaxridge.inverse.diagonal import from_diagonal
from jaxridge.inverse.fit import TikhonovProblem
from jaxridge.inverse.maps import columns
from jaxridge.inverse.per_lam import PerLamSpectrum
from jaxridge.inverse.projected import ProjectedSpectrum, project
from jaxridge.inverse.within import DiagonalFactored, DirectFactored
from jaxridge.linear.design import make_design
from jaxridge.linear.spectrum import from_design

__all__ = ["Diagonal", "Direct", "GolubKahan", "PerLam", "TikhonovSolver"]


class TikhonovSolver(Solver):
    """A solver of Tikhonov problems."""

    takes = TikhonovProblem
    inverts: ClassVar[bool] = True  # whether it needs the pseudo-inverse of L


class Direct(TikhonovSolver):
    """A as a matrix: ridge regression on AL⁺ with AW unpenalised, by QR and SVD; everything `Spectrum` can."""

    def factor(self, problem: TikhonovProblem, lams: Any = None) -> DirectFactored:
        A, norm = problem.A.matrix(), problem.norm
        inverse = columns(norm.times, jnp.eye(norm.size, dtype=A.dtype)) if norm.L is not None else None
        X = A if inverse is None else matmul(A, inverse)
        X = jnp.concatenate([X, matmul(A, norm.null)], axis=1)
        unpenalized = tuple(range(norm.size, norm.size + problem.free))
        options = {"intercept": False, "weights": problem.weights, "unpenalized": unpenalized}
        return DirectFactored(problem, from_design.factor(make_design(X, problem.data(), **options)))


class Diagonal(TikhonovSolver):
    """A, and LᵀL if there is an L, made diagonal by one orthonormal transform."""

    A: operators.Diagonalised
    gram: operators.Diagonalised | None

    def factor(self, problem: TikhonovProblem, lams: Any = None) -> DiagonalFactored:
        if problem.weights is not None:
            raise ValueError("weights make A other than diagonal; use solver=GolubKahan() or leave solver out.")
        shaped = problem.A.outputs.shaped
        z = columns(lambda y: self.A.analyse(shaped(y)).ravel(), problem.data())
        penalty = None if self.gram is None else jnp.sqrt(self.gram.symbol.ravel())
        return DiagonalFactored(problem, from_diagonal(self.A.symbol.ravel(), z, penalty=penalty), self.A)


class GolubKahan(TikhonovSolver):
    """One bidiagonalisation for every λ, by products with A and Aᵀ alone.

    key: of the random probes that ``dof`` needs (GCV, predictive risk, evidence); None does without them.
    tol: a λ is solved when ‖L(x − x(λ))‖ ≤ tol ‖L(x − x₀)‖, by the bound that the projection gives; None is 1e-6 in
        float64 and 1e-4 in float32.
    budget: steps at most, of two products and n numbers each. probes: how many of them.
    orthogonal: keep the basis orthogonal, at the price of some ten products a step; see
        `linalg.golub_kahan.bidiagonalise`.
    max_steps: of conjugate gradients, for a derivative.
    """

    key: Array | None
    tol: Array | None
    budget: int = eqx.field(static=True)
    orthogonal: bool = eqx.field(static=True)
    probes: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        key: Array | None = None,
        *,
        tol: Any = None,
        budget: int = 150,
        orthogonal: bool = True,
        probes: int = 4,
        max_steps: int = 1000,
    ):
        if budget < 1 or probes < 1 or max_steps < 1:
            raise ValueError(f"GolubKahan got budget {budget}, probes {probes}, max_steps {max_steps}; each is >= 1.")
        self.key, self.tol = as_key(key, optional=True), None if tol is None else jnp.asarray(tol)
        self.budget, self.orthogonal, self.probes, self.max_steps = budget, orthogonal, probes, max_steps

    def factor(self, problem: TikhonovProblem, lams: Float[Array, " k"] | None = None) -> ProjectedSpectrum:
        return project(
            problem,
            lams,
            tol=_usual(self.tol, problem.y.dtype, 1e-6),
            budget=self.budget,
            orthogonal=self.orthogonal,
            key=self.key,
            probes=self.probes,
            max_steps=self.max_steps,
        )


def _usual(tol: Array | None, dtype: Any, double: float) -> Array:
    """The tolerance asked for, or what the dtype can usually reach."""
    return jnp.asarray((double if dtype == jnp.float64 else 1e-4) if tol is None else tol, dtype)


class PerLam(TikhonovSolver):
    """Conjugate gradients on AᵀωA + λLᵀL, each λ on its own: for an operator L without a pseudo-inverse.

    tol: relative to the right-hand side; None is 1e-8 in float64 and 1e-4 in float32. max_steps: products with A, Aᵀ,
        L and Lᵀ for each λ at most.
    """

    tol: Array | None
    max_steps: int = eqx.field(static=True)

    inverts = False

    def __init__(self, *, tol: Any = None, max_steps: int = 1000):
        if max_steps < 1:
            raise ValueError(f"PerLam got max_steps {max_steps}; it is >= 1.")
        self.tol, self.max_steps = None if tol is None else jnp.asarray(tol), max_steps

    def factor(self, problem: TikhonovProblem, lams: Any = None) -> PerLamSpectrum:
        return PerLamSpectrum(problem, _usual(self.tol, problem.y.dtype, 1e-8), self.max_steps)
