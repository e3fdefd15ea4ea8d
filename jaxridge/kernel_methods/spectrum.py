"""Kernel ridge in the space of its n points: every λ from one decomposition of the kernel matrix.

The problem is   min over α, b of   Σᵢ ωᵢ (yᵢ − (Kα)ᵢ − b)² + λ αᵀKα.   With K̃ of `jaxridge.kernel_methods.form` and
G = (K̃ + λI)⁻¹, back in all n coordinates, the matrix A = √ωG√ω says it all:

    α = Ay,      r = λα/ω,      1 − hᵢ = λAᵢᵢ/ωᵢ,      leave-one-out residual αᵢ/Aᵢᵢ,      posterior covariance.

Values come from a frozen factor of `jaxridge.kernel_methods.factor`; derivatives are those of the live equations, to
every order, by `_carrier` and `_influence`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import attach, moves, one_by_one
from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Float, Lam, Scalar
from jaxridge.kernel_methods.factor import Factor, cholesky, eigen, mixed, tridiagonal
from jaxridge.kernel_methods.form import KernelDesign, KernelForm, kernel_form
from jaxridge.linear.design import Terms


class KernelSpectrum(eqx.Module):
    """A factored kernel ridge problem. Methods take one λ, or one for each target, ``(t,)``; ``vmap`` the grid.

    Derivatives in K, y, λ and weights are those of (K̃ + λI)γ = √ωy, to every order. Those of leverages, dof and
    leave-one-out cost a product of two n × n matrices at each λ that is differentiated.
    """

    design: KernelDesign
    form: KernelForm
    factor: Factor
    z: Float[Array, "p t"]  # ỹ in the coordinates of the factor, for all λ

    def dual_coef(self, lam: Lam) -> Float[Array, "n t"]:
        """α; predictions are the kernel between new points and the old ones, times α, plus the intercept."""
        return _dual(self, lam)

    def intercept(self, lam: Lam) -> Float[Array, " t"]:
        """b = Σω(y − Kα)/Σω, or 0."""
        return _intercept(self, lam)

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        """y − Kα − b = λα/ω, the part of y in the null space of K also at λ = 0."""
        return _residual(self, lam)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """Weighted residual sum of squares, which needs no way back from the coordinates of the factor."""
        return _rss(self, lam)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """αᵀKα, the squared norm in the space of the kernel."""
        alpha = self.dual_coef(lam)
        return jnp.sum(alpha * matmul(self.design.K, alpha), axis=0)

    def dof(self, lam: Lam) -> Lam:
        """tr K̃G, and one for the intercept."""
        return _dof(self, lam)

    def residual_dof(self, lam: Lam) -> Lam:
        """Rows of positive weight − dof, without cancellation."""
        return _residual_dof(self, lam)

    def one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        """1 − hᵢ = λGᵢᵢ."""
        return _one_minus_hat(self, lam)

    def loo_residual(self, lam: Lam) -> Float[Array, "n t"]:
        """yᵢ minus the prediction of the fit without it, αᵢ/Aᵢᵢ; a row of weight 0 never took part."""
        return _loo_residual(self, lam)

    def logdet(self, lam: Lam) -> Lam:
        """log det(I + K̃/λ)."""
        return _logdet(self, lam)

    def solve(self, lam: Lam, a: Float[Array, "n m"], s: Float[Array, " m"]) -> tuple[Array, Array]:
        """α, b of Ω(Kα + b) + λα = a, 1ᵀα = s: what posterior covariances are made of."""
        x = _carrier(self, jnp.atleast_1d(lam), self._stack(a, s))
        return self._split(x)

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        form, lam = self.form, jnp.atleast_1d(lam)
        mu = form.mu(jax.lax.stop_gradient(lam))
        known = jnp.all(jnp.isfinite(jax.lax.stop_gradient(_dual_value(self, lam))), axis=0)
        good = form.finite & form.finite_y & form.weights
        return first_failure(
            (~form.finite, RESULTS.nonfinite_kernel),
            (~form.finite_y, RESULTS.nonfinite_input),
            (~form.weights, RESULTS.invalid_weights),
            (~(form.symmetric & self.factor.definite), RESULTS.indefinite_kernel),
            (~(lam >= 0), RESULTS.invalid_lam),
            (good & ~known, RESULTS.indefinite_kernel),
            (self.factor.singular & (mu < self.factor.floor), RESULTS.unresolved),
            shape=(self.design.y.shape[1],),
        )

    def _stack(self, a: Array, s: Array) -> Array:
        return jnp.concatenate([a, s[None, :]]) if self.design.terms.intercept else a

    def _split(self, x: Array) -> tuple[Array, Array]:
        n = self.design.K.shape[0]
        return x[:n], x[n] if self.design.terms.intercept else jnp.zeros(x.shape[1], x.dtype)


def from_kernel(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor a symmetric positive semidefinite kernel matrix by one eigendecomposition: all exits, any λ.

    Args:
        K: (n, n). y: (n, t). weights: (n,) precisions >= 0. intercept: whether to add an unpenalised constant.

    Eigenvalues below rounding are taken as 0; a negative one, or a matrix that is not symmetric, comes back as a code
    with NaN.

    >>> import jax.numpy as jnp
    >>> from jaxridge import spectrum
    >>> kernel = spectrum.from_kernel(2.0 * jnp.eye(3), jnp.ones((3, 1)))
    >>> print(kernel.dual_coef(jnp.array(2.0))[:, 0], kernel.dof(jnp.array(2.0)))
    [0.25 0.25 0.25] 1.5
    """
    return _factored(eigen, K, y, weights, intercept)


def from_kernel_tridiagonal(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor a kernel matrix by its tridiagonal form: coefficients, GCV and evidence for any number of λ.

    Args as for `from_kernel`, two to three times cheaper; leverages and leave-one-out are a ``ValueError``. A λ below
    rounding gives the solution at the least λ that the dtype resolves, with a code. Not on TPU; ``jax.export`` gives
    no guarantee for this factorisation and wants `from_kernel` or a disabled check.
    """
    return _factored(tridiagonal, K, y, weights, intercept)


def from_kernel_cholesky(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor K + λI anew at each λ: ten times cheaper than `from_kernel`, for one λ or very few.

    Args as for `from_kernel`. A λ below rounding is treated as by `from_kernel_tridiagonal`. That a matrix has
    negative eigenvalues shows only where K + λI has them too.
    """
    return _factored(cholesky, K, y, weights, intercept)


def from_kernel_mixed(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor a float64 kernel matrix in float32, and refine: coefficients as exact as those of float64.

    Args as for `from_kernel_tridiagonal`, at half its price; needs x64 on. λ must be above what float32 resolves,
    about (10 + √n)·1e-7 of the largest eigenvalue; below it there is a code. Degrees of freedom, GCV and evidence have
    the precision of float32.
    """
    return _factored(mixed, K, y, weights, intercept)


def _factored(factor: Any, K: Any, y: Any, weights: Any, intercept: bool) -> KernelSpectrum:
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"K has shape {K.shape}; a kernel matrix is square, (n, n).")
    if y.ndim != 2 or y.shape[0] != K.shape[0]:
        raise ValueError(f"y has shape {y.shape}; targets for a kernel matrix of {K.shape[0]} points are (n, t).")
    if weights is not None and weights.shape != K.shape[:1]:
        raise ValueError(f"weights has shape {weights.shape}; one weight for each point is needed: {K.shape[:1]}.")
    design = KernelDesign(K, y, weights, Terms(intercept, False, (), False))
    form, reduced = kernel_form(design)
    # One point and an intercept leave nothing, of which LAPACK has no other form.
    factor = jax.lax.stop_gradient((factor if reduced.shape[0] else eigen)(form, reduced))
    return KernelSpectrum(design, form, factor, factor.coordinates(form, form.lift(form.y)))


def _bordered(spectrum: KernelSpectrum, lam: Array, a: Array, s: Array) -> tuple[Array, Array]:
    """(γ, b) of K̂γ + λγ + √ωb = a, √ωᵀγ = s, with the frozen factor; in the user's units of K and ω."""
    form = spectrum.form
    unit = form.damping_scale
    mu = form.mu(lam)
    if not spectrum.design.terms.intercept:
        return spectrum.factor.solve(form, mu, a) / unit, s
    root_scale = jnp.sqrt(unit / form.scale)
    length = root_scale * jnp.linalg.norm(form.root)
    u, across = form.u(), unit * form.across
    along = s / length
    gamma = spectrum.factor.solve(form, mu, a - across[:, None] * along[None, :]) / unit + u[:, None] * along[None, :]
    return gamma, (matmul(u, a) - matmul(across, gamma) - lam * along) / length


def _carrier(spectrum: KernelSpectrum, lam: Float[Array, " c"], rhs: Float[Array, "m t"]) -> Float[Array, "m t"]:
    """(α, b) of ΩKα + λα + ωb = a, 1ᵀα = s, live: linear in ω, so that a weight may be 0."""
    design, still = spectrum.design, jax.lax.stop_gradient(spectrum)
    still_lam = jax.lax.stop_gradient(lam)
    root = still.form.root * jnp.sqrt(still.form.damping_scale / still.form.scale)
    root, unused = root[:, None], (still.form.root == 0)[:, None]

    def operator(x: Array) -> Array:
        alpha, b = spectrum._split(x)
        seen = matmul(design.K, alpha) + (b[None, :] if design.terms.intercept else 0.0)
        return spectrum._stack(design.weigh(seen) + lam[None, :] * alpha, jnp.sum(alpha, axis=0))

    def below(_: Any, rhs: Array) -> Array:
        a, s = still._split(rhs)
        if design.weights is None:
            return still._stack(*_bordered(still, still_lam, a, s))
        # A row of weight zero stands alone and only adds to the others.
        alone = jnp.where(unused, safe_divide(a, jnp.broadcast_to(still_lam[None, :], a.shape)), 0.0)
        others = safe_divide(a, jnp.broadcast_to(root, a.shape)) - root * matmul(still.design.K, alone)
        gamma, b = _bordered(still, still_lam, others, s - jnp.sum(alone, axis=0))
        return still._stack(root * gamma + alone, b)

    def beside(_: Any, rhs: Array) -> Array:
        c, d = still._split(rhs)
        if design.weights is None:
            return still._stack(*_bordered(still, still_lam, c, d))
        gamma, q = _bordered(still, still_lam, root * c, d)
        rest = c - matmul(still.design.K, root * gamma) - (q[None, :] if design.terms.intercept else 0.0)
        rest = safe_divide(rest, jnp.broadcast_to(still_lam[None, :], rest.shape))
        return still._stack(jnp.where(unused, rest, safe_divide(gamma, jnp.broadcast_to(root, gamma.shape))), q)

    return jax.lax.custom_linear_solve(operator, rhs, below, beside)


def _live_solution(spectrum: KernelSpectrum, lam: Lam) -> tuple[Array, Array]:
    y = spectrum.design.weigh(spectrum.design.y)
    return spectrum.solve(lam, y, jnp.zeros(y.shape[1], y.dtype))


def _gamma(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """The frozen γ, in units of K̃."""
    form, factor = spectrum.form, spectrum.factor
    return factor.back(form, factor.within(form.mu(lam), spectrum.z))


def _dual_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return spectrum.form.root[:, None] * _gamma(spectrum, lam) / spectrum.form.scale


def _intercept_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form, design = spectrum.form, spectrum.design
    if not design.terms.intercept:
        return jnp.zeros(design.y.shape[1], design.y.dtype)
    along = matmul(form.across, _gamma(spectrum, lam)) / jnp.linalg.norm(form.root)
    rest = jnp.where((form.root > 0)[:, None], design.y - form.level[None, :], 0.0)
    return form.level + (design.mean(rest) - along)


def _fitted_rows(spectrum: KernelSpectrum, lam: Lam, scaled: Array) -> Array:
    """scaled/√ω; rows of weight zero from their own definition, y − Kα − b."""
    design, root = spectrum.design, spectrum.form.root[:, None]
    if design.weights is None:
        return scaled
    alone = design.y - matmul(design.K, _dual_value(spectrum, lam)) - _intercept_value(spectrum, lam)[None, :]
    return jnp.where(root > 0, safe_divide(scaled, jnp.broadcast_to(root, scaled.shape)), alone)


def _residual_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form, factor = spectrum.form, spectrum.factor
    return _fitted_rows(spectrum, lam, factor.back(form, factor.damped(form.mu(lam), spectrum.z)))


def _residual_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    alpha, b = _live_solution(spectrum, lam)
    return spectrum.design.y - matmul(spectrum.design.K, alpha) - b[None, :]


def _rss_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """Rows of weight zero have no part in it: their ỹ is 0."""
    form = spectrum.form
    return spectrum.factor.damped_squares(form.mu(lam), spectrum.z) * (form.damping_scale / form.scale)


def _rss_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return jnp.sum(spectrum.design.weigh(jnp.square(_residual_live(spectrum, lam))), axis=0)


def _loo_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form = spectrum.form
    return _fitted_rows(spectrum, lam, spectrum.factor.loo(form, form.mu(lam), spectrum.z))


def _loo_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    r = _residual_live(spectrum, lam)
    return r / jnp.broadcast_to(_one_minus_hat(spectrum, lam), r.shape)


def _one_minus_hat_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form = spectrum.form
    return jnp.where((form.root > 0)[:, None], spectrum.factor.damped_diagonal(form, form.mu(lam)), 1.0)


def _dof_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form, mu = spectrum.form, spectrum.form.mu(lam)
    dof = spectrum.factor.effective(form, mu) - form.unused(1.0 / (1.0 + mu)) + spectrum.design.free
    return dof.reshape(jnp.shape(lam))


def _residual_dof_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form, mu = spectrum.form, spectrum.form.mu(lam)
    return (spectrum.factor.kept_sum(form, mu) - form.unused(1.0 / (1.0 + 1.0 / mu))).reshape(jnp.shape(lam))


def _logdet_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """With weights of 0 their part taken off again: log(1 + 1/μ) each."""
    form, mu = spectrum.form, spectrum.form.mu(lam)
    value = spectrum.factor.logdet(form, mu)
    if spectrum.design.weights is not None:
        value -= form.unused(jnp.log1p(1.0 / mu))
    return value.reshape(jnp.shape(lam))


# The influence matrix A = √ωG√ω, the one thing that derivatives of diagonals and traces need, by its own rule
#
#     dA = −A dK A + Rᵀ (dΩ R − dλ A)/λ,        R = (I − 1ωᵀ/Σω)(I − KA),   r = Ry,   λA = ΩR,
#
# which follows from M(α, b) = (Ωy, 0) of the carrier: M dα = dΩ r for ω, −Ω dK α for K, −dλ α for λ, and
# M⁻¹(Ω·) = A, M⁻¹ = AΩ⁻¹ = Rᵀ/λ. All of it is finite at ω = 0, and A inside the rule is the same function again.


def _residual_map(design: KernelDesign, A: Array) -> Array:
    """R, with r = Ry."""
    return design.centre(jnp.eye(A.shape[0], dtype=A.dtype) - matmul(design.K, A))


@jax.custom_jvp
def _influence(frozen: KernelSpectrum, design: KernelDesign, lam: Scalar) -> Float[Array, "n n"]:
    """A at one λ."""
    form = frozen.form
    return form.root[:, None] * frozen.factor.matrix(form, form.mu(lam)) * form.root[None, :] / form.scale


@jax.custom_jvp
def _influence_diagonal(frozen: KernelSpectrum, design: KernelDesign, lam: Scalar) -> Float[Array, " n"]:
    """Aᵢᵢ at one λ, without weights."""
    form = frozen.form
    return jnp.square(form.root) * frozen.factor.diagonal(form, form.mu(lam))[:, 0] / form.scale


def _moving(tangents: Any) -> tuple[Any, Any, Any]:
    """The tangents of K, ω and λ; None for one that does not move."""
    design, lam = tangents[1], tangents[2]
    still = lambda tangent: None if tangent is None or not moves(tangent) else tangent  # noqa: E731
    return still(design.K), still(design.weights), still(lam)


def _influence_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    _, design, lam = primals
    A = _influence(*primals)
    dK, dweights, dlam = _moving(tangents)
    tangent = jnp.zeros_like(A) if dK is None else -matmul(A, matmul(dK, A))
    if dweights is not None or dlam is not None:
        R = _residual_map(design, A)
        change = jnp.zeros_like(A) if dweights is None else dweights[:, None] * R
        tangent += matmul(R.T, change if dlam is None else change - dlam * A) / lam
    return A, tangent


def _influence_diagonal_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The diagonal of the rule above without weights, at half its price: R = λA."""
    A = _influence(*primals)
    dK, _, dlam = _moving(tangents)
    tangent = jnp.zeros_like(A[0]) if dK is None else -jnp.sum(A * matmul(dK, A), axis=0)
    if dlam is not None:
        tangent -= dlam * jnp.sum(jnp.square(A), axis=1)
    return _influence_diagonal(*primals), tangent


_influence.defjvp(_influence_rule, symbolic_zeros=True)
_influence_diagonal.defjvp(_influence_diagonal_rule, symbolic_zeros=True)


def _for_each(fn: Any, spectrum: KernelSpectrum, lam: Lam) -> Array:
    """``fn(λ)`` for each λ, in the shape of λ with what fn gives behind; one after another, since each is n × n."""
    frozen = jax.lax.stop_gradient(spectrum)
    return one_by_one(lambda lam: fn(frozen, spectrum.design, lam), jnp.atleast_1d(lam))


def _one_minus_hat_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """λAᵢᵢ, or with weights, which may be 0, the diagonal of the residual map."""
    if spectrum.design.weights is None:
        return jnp.atleast_1d(lam)[None, :] * _for_each(_influence_diagonal, spectrum, lam).T
    return _for_each(lambda *args: jnp.diagonal(_residual_map(args[1], _influence(*args))), spectrum, lam).T


def _dof_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """tr KA, and one for the intercept."""
    trace = _for_each(lambda *args: jnp.sum(args[1].K * _influence(*args)), spectrum, lam)
    return (trace + spectrum.design.free).reshape(jnp.shape(lam))


def _residual_dof_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return spectrum.design.rows() - _dof_live(spectrum, lam)


@jax.custom_jvp
def _log_determinant(frozen: KernelSpectrum, design: KernelDesign, lam: Scalar) -> Scalar:
    """log det(I + K̃/λ) at one λ."""
    return _logdet_value(frozen, lam)


def _determinant(design: KernelDesign, lam: Scalar) -> Scalar:
    """The same by the bordered matrix of the carrier, whose determinant is that of K̃ + λ times −Σω."""
    n = design.K.shape[0]
    weights = jnp.ones(n, lam.dtype) if design.weights is None else design.weights
    M = jnp.eye(n, dtype=lam.dtype) + design.weigh(design.K) / lam
    if not design.terms.intercept:
        return jnp.linalg.slogdet(M)[1]
    last = jnp.pad(jnp.ones((1, n), lam.dtype), ((0, 0), (0, 1)))
    M = jnp.concatenate([jnp.concatenate([M, weights[:, None]], axis=1), last])
    return jnp.linalg.slogdet(M)[1] - jnp.log(jnp.sum(weights))


def _log_determinant_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """tr(A dK) − dλ tr(KA)/λ; in ω by the determinant itself."""
    _, design, lam = primals
    dK, dweights, dlam = _moving(tangents)
    A = _influence(*primals)
    tangent = jnp.zeros_like(lam) if dK is None else jnp.sum(A * dK)
    if dlam is not None:
        tangent -= dlam * jnp.sum(A * design.K) / lam
    if dweights is not None:
        of_weights = lambda weights: _determinant(KernelDesign(design.K, design.y, weights, design.terms), lam)  # noqa: E731
        tangent += jax.jvp(of_weights, (design.weights,), (dweights,))[1]
    return _log_determinant(*primals), tangent


_log_determinant.defjvp(_log_determinant_rule, symbolic_zeros=True)


def _logdet_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return _for_each(_log_determinant, spectrum, lam).reshape(jnp.shape(lam))


_dual = attach(_dual_value, lambda spectrum, lam: _live_solution(spectrum, lam)[0])
_intercept = attach(_intercept_value, lambda spectrum, lam: _live_solution(spectrum, lam)[1])
_residual = attach(_residual_value, _residual_live)
_rss = attach(_rss_value, _rss_live)
_one_minus_hat = attach(_one_minus_hat_value, _one_minus_hat_live)
_loo_residual = attach(_loo_value, _loo_live)
_dof = attach(_dof_value, _dof_live)
_residual_dof = attach(_residual_dof_value, _residual_dof_live)
_logdet = attach(_logdet_value, _logdet_live)
