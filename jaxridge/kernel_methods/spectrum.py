"""Kernel ridge in the space of its n points: every λ from one decomposition of the kernel matrix.

The problem is   min over α, b of   Σᵢ ωᵢ (yᵢ − (Kα)ᵢ − b)² + λ αᵀKα.   With K̃ of `jaxridge.kernel_methods.form` and
G = (K̃ + λI)⁻¹, back in all n coordinates, the matrix A = √ωG√ω says it all:

    α = Ay,      r = λα/ω,      1 − hᵢ = λAᵢᵢ/ωᵢ,      leave-one-out residual αᵢ/Aᵢᵢ,      posterior covariance.

Values come from a frozen factor of `jaxridge.kernel_methods.factor`; derivatives are those of the live equations, to
every order, by `_carrier` and `jaxridge.kernel_methods.influence`.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.checks import as_flag, as_floats
from jaxridge.core.factored import Solver, Terms
from jaxridge.core.implicit import derived, frozen
from jaxridge.core.numbers import matmul, norm_in, safe_divide
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.kernel_methods import influence
from jaxridge.kernel_methods.factor import Factor, cholesky, eigen, factor_of
from jaxridge.kernel_methods.fit import KernelFactored, KernelFit
from jaxridge.kernel_methods.folds import KernelFolds, kernel_fold_factors
from jaxridge.kernel_methods.form import KernelDesign, KernelForm, KernelProblem
from jaxridge.kernel_methods.tridiagonal import mixed, tridiagonal
from jaxridge.kernels.base import Precomputed

__all__ = ["Cholesky", "Eigen", "KernelSpectrum", "Mixed", "Tridiagonal", "from_kernel"]


class KernelSpectrum(KernelFactored):
    """A factored kernel ridge problem. Methods take one λ, or one for each target, ``(t,)``; ``vmap`` the grid.

    Derivatives in K, y, λ and weights are those of (K̃ + λI)γ = √ωy, to every order. Those of leverages, dof and
    leave-one-out cost a product of two n × n matrices at each λ that is differentiated.
    """

    problem: KernelProblem
    K: Float[Array, "n n"]
    form: KernelForm
    factor: Factor
    z: Float[Array, "p t"]  # ỹ in the coordinates of the factor, for all λ

    @property
    def missing(self) -> str:
        return "needs eigenvectors, which this factor has not; use solver=Eigen()"

    @property
    def design(self) -> KernelDesign:
        """The live problem with its matrix."""
        problem = self.problem
        return KernelDesign(K=self.K, y=problem.y, weights=problem.weights, terms=problem.terms)

    def fits(self, lams: Float[Array, "k *t"]) -> KernelFit:
        """With degrees of freedom, which cost little beside a decomposition for all λ."""
        fits = super().fits(lams)
        return eqx.tree_at(lambda fit: fit.dof, fits, jax.vmap(self.dof)(lams), is_leaf=lambda x: x is None)

    def of_part(self, design: KernelDesign, form: KernelForm, factor: Factor, z: Array) -> "KernelSpectrum":
        """That of some of the points."""
        problem = matrix_problem(design.K, design.y, design.weights, Terms(design.intercept))
        return KernelSpectrum(problem, design.K, form, factor, z)

    def fold(self, partition: Any) -> KernelFolds:
        return kernel_fold_factors(self, partition)

    # Coefficients and residuals: values from the frozen factor, derivatives from the carrier.

    def solve(self, lam: Lam, a: Float[Array, "n m"], s: Float[Array, " m"]) -> tuple[Array, Array]:
        x = _carrier(self, jnp.atleast_1d(lam), self._stack(a, s))
        return self._split(x)

    def _solution(self, lam: Lam) -> tuple[Array, Array]:
        """α and b, live; 0 and the mean of y at λ = ∞."""
        lam, y = jnp.atleast_1d(lam), self.design.weigh(self.problem.y)
        infinite = jnp.isinf(lam)
        alpha, b = self.solve(jnp.where(infinite, self.form.damping_scale, lam), y, jnp.zeros(y.shape[1], y.dtype))
        mean = self.problem.mean(self.problem.y) if self.problem.intercept else b
        return jnp.where(infinite[None, :], 0.0, alpha), jnp.where(infinite, mean, b)

    def _gamma(self, lam: Lam) -> Array:
        """The frozen γ, in units of K̃."""
        form, factor, mu = self.form, self.factor, self.form.mu(lam)
        return factor.back(form, jnp.where(jnp.isinf(mu)[None, :], 0.0, factor.within(mu, self.z)))

    def _coef(self, lam: Lam) -> Float[Array, "n t"]:
        """α; predictions are the kernel between new points and the old ones, times α, plus the intercept."""
        return self.form.root[:, None] * self._gamma(lam) / self.form.scale

    coef = derived(_coef, lambda self, lam: self._solution(lam)[0])

    def _intercept(self, lam: Lam) -> Float[Array, " t"]:
        """b = Σω(y − Kα)/Σω, or 0."""
        form, problem = self.form, self.problem
        if not problem.intercept:
            return jnp.zeros(problem.y.shape[1], problem.y.dtype)
        along = matmul(form.across, self._gamma(lam)) / jnp.linalg.norm(form.root)
        rest = jnp.where((form.root > 0)[:, None], problem.y - form.level[None, :], 0.0)
        return form.level + (problem.mean(rest) - along)

    intercept = derived(_intercept, lambda self, lam: self._solution(lam)[1])

    def _unweighted(self, lam: Lam, scaled: Array) -> Array:
        """scaled/√ω; rows of weight zero from their own definition, y − Kα − b."""
        problem, root = self.problem, self.form.root[:, None]
        if problem.weights is None:
            return scaled
        alone = problem.y - matmul(self.K, self._coef(lam)) - self._intercept(lam)[None, :]
        return jnp.where(root > 0, safe_divide(scaled, jnp.broadcast_to(root, scaled.shape)), alone)

    def _residual(self, lam: Lam) -> Float[Array, "n t"]:
        """y − Kα − b = λα/ω, the part of y in the null space of K also at λ = 0."""
        form, factor = self.form, self.factor
        return self._unweighted(lam, factor.back(form, factor.damped(form.mu(lam), self.z)))

    def _residual_live(self, lam: Lam) -> Float[Array, "n t"]:
        alpha, b = self._solution(lam)
        return self.problem.y - matmul(self.K, alpha) - b[None, :]

    residual = derived(_residual, _residual_live)

    def _rss(self, lam: Lam) -> Float[Array, " t"]:
        """Weighted residual sum of squares, which needs no way back from the coordinates of the factor.

        Rows of weight zero have no part in it: their ỹ is 0.
        """
        form = self.form
        return self.factor.damped_squares(form.mu(lam), self.z) * (form.damping_scale / form.scale)

    def _rss_live(self, lam: Lam) -> Float[Array, " t"]:
        return jnp.sum(self.problem.weigh(jnp.square(self._residual_live(lam))), axis=0)

    rss = derived(_rss, _rss_live)

    def penalty_of(self, w: Float[Array, "n t"]) -> Float[Array, " t"]:
        """αᵀKα, the squared norm in the space of the kernel."""
        return jnp.sum(w * matmul(self.K, w), axis=0)

    def _norm(self, lam: Lam) -> Float[Array, " t"]:
        """√(αᵀKα) = √(γᵀK̃γ), which needs no way back from the coordinates of the factor."""
        factor, mu = self.factor, self.form.mu(lam)
        norm = norm_in(factor.within(mu, self.z), factor.fitted(mu, self.z) / self.form.scale)
        return jnp.where(jnp.isinf(mu), 0.0, norm)

    def _norm_live(self, lam: Lam) -> Float[Array, " t"]:
        alpha, _ = self._solution(lam)
        return norm_in(alpha, matmul(self.K, alpha))

    norm = derived(_norm, _norm_live)

    # Traces and rows, live by the influence matrix.

    def _dof(self, lam: Lam) -> Lam:
        """tr K̃G, and one for the intercept."""
        form, mu = self.form, self.form.mu(lam)
        dof = self.factor.effective(form, mu) - form.unused(1.0 / (1.0 + mu)) + self.problem.free
        return dof.reshape(jnp.shape(lam))

    def _dof_live(self, lam: Lam) -> Lam:
        return influence.dof((self.form, self.factor), self.design, lam)

    dof = derived(_dof, _dof_live)

    def _residual_dof(self, lam: Lam) -> Lam:
        """Rows of positive weight − dof, without cancellation."""
        form, mu = self.form, self.form.mu(lam)
        kept = self.factor.kept_sum(form, mu) - form.unused(1.0 / (1.0 + 1.0 / mu))
        return kept.reshape(jnp.shape(lam))

    residual_dof = derived(_residual_dof, lambda self, lam: self.problem.rows() - self._dof_live(lam))

    def _logdet(self, lam: Lam) -> Lam:
        """log det(I + K̃/λ)."""
        return influence.logdet_value((self.form, self.factor), self.design, lam)

    logdet = derived(_logdet, lambda self, lam: influence.logdet((self.form, self.factor), self.design, lam))

    def _one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        """1 − hᵢ = λGᵢᵢ."""
        self._with_diagonal("one_minus_leverage")
        form = self.form
        return jnp.where((form.root > 0)[:, None], self.factor.damped_diagonal(form, form.mu(lam)), 1.0)

    one_minus_leverage = derived(
        _one_minus_leverage,
        lambda self, lam: influence.one_minus_leverage((self.form, self.factor), self.design, lam),
    )

    def _loo_residual(self, lam: Lam) -> Float[Array, "n t"]:
        """yᵢ minus the prediction of the fit without it, αᵢ/Aᵢᵢ; a row of weight 0 never took part."""
        self._with_diagonal("loo_residual")
        form = self.form
        return self._unweighted(lam, self.factor.loo(form, form.mu(lam), self.z))

    def _loo_residual_live(self, lam: Lam) -> Float[Array, "n t"]:
        r = self._residual_live(lam)
        return r / jnp.broadcast_to(self.one_minus_leverage(lam), r.shape)

    loo_residual = derived(_loo_residual, _loo_residual_live)

    def _with_diagonal(self, what: str) -> None:
        if not self.factor.has_diagonal:
            raise self.unavailable(what)

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        form, lam = self.form, jax.lax.stop_gradient(jnp.atleast_1d(lam))
        mu, known = form.mu(lam), jnp.all(jnp.isfinite(self._coef(lam)), axis=0)
        good = form.finite & form.finite_y & form.weights
        return first_failure(
            (~form.finite, RESULTS.nonfinite_kernel),
            (~form.finite_y, RESULTS.nonfinite_input),
            (~form.weights, RESULTS.invalid_weights),
            (~(form.symmetric & self.factor.definite), RESULTS.indefinite_kernel),
            (~(lam >= 0), RESULTS.invalid_lam),
            (good & ~known, RESULTS.indefinite_kernel),
            ((self.factor.singular & (mu < self.factor.floor)) | self._lost(mu), RESULTS.unresolved),
            shape=(self.problem.y.shape[1],),
        )

    def _lost(self, mu: Float[Array, " c"]) -> Bool[Array, " t"]:
        """Whether rounding in the entries of K, E, may change the fit f = K̃Gz by its twentieth part.

        It changes f by K̃GEγ, γ = Gz, so by ‖E‖‖γ‖ at most, ‖E‖ about ½√n eps of the largest entry, which is 1. Where
        μ > 1 nothing of it is seen, and a fit below a tenth of the data is small, not lost.
        """
        factor, z = jax.lax.stop_gradient((self.factor, self.z))
        gamma, rest = factor.within(mu, z), factor.damped(mu, z)
        unit = 0.5 * math.sqrt(self.K.shape[0]) * float(jnp.finfo(z.dtype).eps)
        size = jnp.maximum(jnp.linalg.norm(z - rest, axis=0), 0.1 * jnp.linalg.norm(z, axis=0))
        return (mu < 1.0) & (unit * jnp.linalg.norm(gamma, axis=0) > 0.05 * size)

    def _stack(self, a: Array, s: Array) -> Array:
        return jnp.concatenate([a, s[None, :]]) if self.problem.intercept else a

    def _split(self, x: Array) -> tuple[Array, Array]:
        n = self.K.shape[0]
        return x[:n], x[n] if self.problem.intercept else jnp.zeros(x.shape[1], x.dtype)


def _bordered(spectrum: KernelSpectrum, lam: Array, a: Array, s: Array) -> tuple[Array, Array]:
    """(γ, b) of K̂γ + λγ + √ωb = a, √ωᵀγ = s, with the frozen factor; in the user's units of K and ω."""
    form = spectrum.form
    unit = form.damping_scale
    mu = form.mu(lam)
    if not spectrum.problem.intercept:
        return spectrum.factor.solve(form, mu, a) / unit, s
    root_scale = jnp.sqrt(unit / form.scale)
    length = root_scale * jnp.linalg.norm(form.root)
    u, across = form.u(), unit * form.across
    along = s / length
    gamma = spectrum.factor.solve(form, mu, a - across[:, None] * along[None, :]) / unit + u[:, None] * along[None, :]
    return gamma, (matmul(u, a) - matmul(across, gamma) - lam * along) / length


def _carrier(spectrum: KernelSpectrum, lam: Float[Array, " c"], rhs: Float[Array, "m t"]) -> Float[Array, "m t"]:
    """(α, b) of ΩKα + λα + ωb = a, 1ᵀα = s, live: linear in ω, so that a weight may be 0."""
    design, still = spectrum.design, frozen(spectrum)
    still_lam = jax.lax.stop_gradient(lam)
    root = still.form.root * jnp.sqrt(still.form.damping_scale / still.form.scale)
    root, unused = root[:, None], (still.form.root == 0)[:, None]

    def operator(x: Array) -> Array:
        alpha, b = spectrum._split(x)
        seen = matmul(design.K, alpha) + (b[None, :] if design.intercept else 0.0)
        return spectrum._stack(design.weigh(seen) + lam[None, :] * alpha, jnp.sum(alpha, axis=0))

    def below(_: Any, rhs: Array) -> Array:
        a, s = still._split(rhs)
        if design.weights is None:
            return still._stack(*_bordered(still, still_lam, a, s))
        # A row of weight zero stands alone and only adds to the others.
        alone = jnp.where(unused, safe_divide(a, jnp.broadcast_to(still_lam[None, :], a.shape)), 0.0)
        others = safe_divide(a, jnp.broadcast_to(root, a.shape)) - root * matmul(still.K, alone)
        gamma, b = _bordered(still, still_lam, others, s - jnp.sum(alone, axis=0))
        return still._stack(root * gamma + alone, b)

    def beside(_: Any, rhs: Array) -> Array:
        c, d = still._split(rhs)
        if design.weights is None:
            return still._stack(*_bordered(still, still_lam, c, d))
        gamma, q = _bordered(still, still_lam, root * c, d)
        rest = c - matmul(still.K, root * gamma) - (q[None, :] if design.intercept else 0.0)
        rest = safe_divide(rest, jnp.broadcast_to(still_lam[None, :], rest.shape))
        return still._stack(jnp.where(unused, rest, safe_divide(gamma, jnp.broadcast_to(root, gamma.shape))), q)

    return jax.lax.custom_linear_solve(operator, rhs, below, beside)


class Dense(Solver):
    """A solver that forms the kernel matrix; kinds differ in how they factor it."""

    takes = KernelProblem
    decompose: ClassVar[Callable[[KernelForm, Array], Factor]]

    def factor(self, problem: KernelProblem, lams: Any = None) -> KernelSpectrum:
        K = problem.matrix()
        design = KernelDesign(K=K, y=problem.y, weights=problem.weights, terms=problem.terms)
        return KernelSpectrum(problem, K, *factor_of(self.decompose, design))


class Eigen(Dense):
    """One eigendecomposition of the kernel matrix: all exits, any λ, right down to 0.

    Eigenvalues below rounding are taken as 0; a negative one, or a matrix that is not symmetric, comes back as a code
    with NaN.
    """

    decompose = staticmethod(eigen)


class Tridiagonal(Dense):
    """The kernel matrix in tridiagonal form: coefficients, GCV and evidence for any number of λ.

    Two to three times cheaper than `Eigen`; leverages and leave-one-out are a ``ValueError``. A λ below
    rounding gives the solution at the least λ that the dtype resolves, with a code.
    """

    decompose = staticmethod(tridiagonal)


class Cholesky(Dense):
    """K + λI factored anew at each λ: ten times cheaper than `Eigen`, for one λ or very few.

    A λ below rounding is treated as by `Tridiagonal`. That a matrix has negative eigenvalues shows only where K + λI
    has them too.
    """

    decompose = staticmethod(cholesky)


class Mixed(Dense):
    """A float64 kernel matrix factored in float32, and refined: coefficients as exact as those of float64.

    At half the price of `Tridiagonal`; needs x64 on. λ must be above what float32 resolves, about (10 + √n)·1e-7 of
    the largest eigenvalue; below it there is a code. Degrees of freedom, GCV and evidence have the precision of
    float32.
    """

    decompose = staticmethod(mixed)


def matrix_problem(K: Array, y: Array, weights: Array | None, terms: Terms) -> KernelProblem:
    """The problem of a matrix that is there already."""
    return KernelProblem(kernel=Precomputed(), points=K, y=y, weights=weights, terms=terms)


def from_kernel(
    K: Any, y: Any, *, weights: Any = None, intercept: bool = False, solver: Dense | None = None
) -> KernelSpectrum:
    """A symmetric positive semidefinite kernel matrix factored, by one eigendecomposition or as ``solver`` says.

    Args:
        K: (n, n). y: (n, t). weights: (n,) precisions >= 0. intercept: whether to add an unpenalised constant.
        solver: `Eigen`, `Tridiagonal`, `Cholesky` or `Mixed`.

    >>> import jax.numpy as jnp
    >>> from jaxridge import kernel_methods
    >>> kernel = kernel_methods.from_kernel(2.0 * jnp.eye(3), jnp.ones((3, 1)))
    >>> print(kernel.dual_coef(jnp.array(2.0))[:, 0], kernel.dof(jnp.array(2.0)))
    [0.25 0.25 0.25] 1.5
    """
    K, y = as_floats("K", K, (2,)), as_floats("y", y, (1, 2))
    if K.shape[0] != K.shape[1]:
        raise ValueError(f"K has shape {K.shape}; a kernel matrix is square, (n, n).")
    if y.ndim != 2 or y.shape[0] != K.shape[0]:
        raise ValueError(f"y has shape {y.shape}; targets for a kernel matrix of {K.shape[0]} points are (n, t).")
    if weights is not None and weights.shape != K.shape[:1]:
        raise ValueError(f"weights has shape {weights.shape}; one weight for each point is needed: {K.shape[:1]}.")
    problem = matrix_problem(K, y, weights, Terms(as_flag("intercept", intercept)))
    return (Eigen() if solver is None else solver).factor(problem)
