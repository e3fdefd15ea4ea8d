"""One step: a quadratic model of the objective at a point, minimised with damping or within a radius.

The model is m(p) = gᵀp + ½ pᵀHp, and D = diag(d) > 0 says how steps are measured:

    damped    (H + μD²) p = −g
    exact     min m(p) over ‖Dp‖ ≤ Δ: the damped step whose μ gives that norm, or p = −H⁻¹g where it is shorter
    dogleg, steihaug   approximations of the exact step along two directions, or in a Krylov space

For a sum of squares, g = Jᵀr and H = JᵀJ, the damped step is the ridge solution of (J D⁻¹, −r) at λ = μ.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.linalg import secular
from jaxridge.optimize.small import added, every, small_cholesky, small_cholesky_solve

# Up to so many parameters linear algebra is written out, which a batch of problems runs side by side.
SMALL = 8


class Step(NamedTuple):
    """A step, the μ it belongs to, and h ↦ −(H + μD²)⁻¹h from the same factorisation, where there is one."""

    p: Float[Array, " n"]
    mu: Scalar
    solve: Callable[[Array], Array] | None = None


class Spectrum(NamedTuple):
    """JD⁻¹ = U diag(s) Vᵀ of a sum of squares, s = 0 where rounding could have made it, and z = Uᵀr."""

    s: Float[Array, " n"]
    V: Float[Array, "n n"]
    z: Float[Array, " n"]


class Triangle(eqx.Module):
    """H = RᵀR and g = Rᵀz, from the QR factorisation of J: right to the condition of J."""

    R: Float[Array, "p n"]
    z: Float[Array, " p"]
    gradient: Float[Array, " n"]
    norms: Float[Array, " n"]  # of the columns of J
    own: Bool[Array, " n"]  # which of them have a part beyond what rounding makes of a dependent one

    @classmethod
    def of(cls, S: Float[Array, "p n+1"]) -> "Triangle":
        """From [R z], with what is read again and again."""
        R, z, (p, n) = S[:, :-1], S[:, -1], (S.shape[0], S.shape[1] - 1)
        norms = jnp.sqrt(jnp.sum(jnp.square(R), axis=0))
        beyond = jnp.abs(R) > 4 * n * jnp.finfo(R.dtype).eps * norms[None, :]
        return cls(R, z, matmul(R.T, z), norms, jnp.any(beyond & jnp.eye(p, n, dtype=bool), axis=0))

    def curvature(self, p: Float[Array, " n"]) -> Scalar:
        """pᵀHp."""
        return jnp.sum(jnp.square(matmul(self.R, p)))

    def independent(self) -> Bool[Array, ""]:
        """Whether each column of J has a part of its own."""
        return every(self.own)

    def told(self) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """√(H⁻¹)ⱼⱼ and −H⁻¹g, in the directions that J tells."""
        (p, n), own = self.R.shape, self.own
        eye = jnp.eye(n, dtype=self.R.dtype)
        R, z = self.R, self.z
        if p < n:
            R, z = jnp.pad(R, ((0, n - p), (0, 0))), jnp.pad(z, (0, n - p))
        right = jnp.concatenate([eye, jnp.where(own, z, 0.0)[:, None]], axis=1)
        both = solve_triangular(jnp.where(own[:, None] & own[None, :], R.T, eye), right, trans="T", lower=True)
        return jnp.where(own, jnp.linalg.norm(both[:, :n], axis=1), 0.0), -jnp.where(own, both[:, n], 0.0)

    def restricted(self, free: Bool[Array, " n"]) -> "Triangle":
        """The model in the free variables, whose steps are 0 in the others."""
        kept = lambda x: jnp.where(free, x, 0.0)  # noqa: E731
        R = jnp.where(free[None, :], self.R, 0.0)
        return Triangle(R, self.z, kept(self.gradient), kept(self.norms), self.own & free)

    def dense(self) -> "Dense":
        return Dense(matmul(self.R.T, self.R), self.gradient)

    def damped(self, d: Float[Array, " n"], mu: Scalar) -> Step:
        """QR of [R; √μ D], which does not square a condition number."""
        n = len(d)
        # On the diagonal of (n, n+1) is every (n+2)th number.
        below = jax.lax.pad(jnp.sqrt(mu) * d, jnp.zeros((), d.dtype), [(0, 1, n + 1)]).reshape(n, n + 1)
        stacked = jnp.concatenate([jnp.concatenate([self.R, self.z[:, None]], axis=1), below])
        # What LAPACK leaves below the diagonal is never read.
        S = jnp.linalg.qr(stacked, mode="raw")[0].T[:n]
        R = S[:, :n]

        def solve(h: Array) -> Array:  # seminormal: enough for a correction
            return solve_triangular(R, solve_triangular(R, -h, trans="T"))

        return Step(solve_triangular(R, -S[:, n]), mu, solve)

    def spectrum(self, d: Float[Array, " n"]) -> "Spectrum":
        """By the SVD of RD⁻¹."""
        n = self.R.shape[1]
        below = jnp.zeros((max(0, n - self.R.shape[0]), n), d.dtype)
        U, s, Vt = jnp.linalg.svd(jnp.concatenate([self.R / d[None, :], below]), full_matrices=False)
        s = jnp.where(s > max(self.R.shape) * jnp.finfo(s.dtype).eps * jnp.max(s, initial=0.0), s, 0.0)
        return Spectrum(s, Vt.T, matmul(U[: self.R.shape[0]].T, self.z))

    def within(self, d: Float[Array, " n"], radius: Scalar) -> Step:
        """The exact step by the SVD of RD⁻¹."""
        s, V, z = self.spectrum(d)
        mu, _, _ = _boundary(jnp.square(s), s * z, radius)
        denominator = jnp.square(s) + mu

        def solve(h: Array) -> Array:
            return -matmul(V, safe_divide(matmul(V.T, h / d), denominator)) / d

        return Step(-matmul(V, safe_divide(s * z, denominator)) / d, mu, solve)


class Dense(eqx.Module):
    """H and g themselves: half the work of `Triangle` for a sum of squares, and H need not be definite."""

    H: Float[Array, "n n"]
    gradient: Float[Array, " n"]

    def as_small(self) -> "Dense | Small":
        """As `Small`, if it is."""
        n = len(self.gradient)
        if n > SMALL:
            return self
        return Small(tuple(tuple(self.H[i, : i + 1]) for i in range(n)), tuple(self.gradient))

    def curvature(self, p: Float[Array, " n"]) -> Scalar:
        return jnp.sum(p * matmul(self.H, p))

    def diagonal(self) -> Float[Array, " n"]:
        return jnp.diagonal(self.H)

    @property
    def norms(self) -> Float[Array, " n"]:
        return jnp.sqrt(jnp.maximum(self.diagonal(), 0.0))

    def independent(self) -> Bool[Array, ""]:
        """As for `Triangle`, as far as H tells, to half of the digits."""
        h, eps = jnp.sqrt(self.diagonal()), jnp.finfo(self.H.dtype).eps
        L = jnp.linalg.cholesky(self.H / (h[:, None] * h[None, :]), symmetrize_input=False)
        return every(jnp.square(jnp.diagonal(L)) > 8 * len(h) * eps)

    def restricted(self, free: Bool[Array, " n"]) -> "Dense":
        return Dense(jnp.where(free[:, None] & free[None, :], self.H, 0.0), jnp.where(free, self.gradient, 0.0))

    def spectrum(self, d: Float[Array, " n"]) -> "Spectrum":
        """By the eigendecomposition of D⁻¹HD⁻¹, for H = JᵀJ: half of the digits of that of J."""
        e, V = jnp.linalg.eigh(self.H / (d[:, None] * d[None, :]), symmetrize_input=False)
        s = jnp.sqrt(jnp.where(e > 4 * len(d) * jnp.finfo(e.dtype).eps * jnp.max(e, initial=0.0), e, 0.0))
        return Spectrum(s, V, safe_divide(matmul(V.T, self.gradient / d), s))

    def dense(self) -> "Dense":
        return self

    def damped(self, d: Float[Array, " n"], mu: Scalar) -> Step:
        """Cholesky; NaN where H + μD² is not positive definite."""
        factor = cho_factor(self.H + jnp.diag(mu * d * d))
        solve = lambda h: -cho_solve(factor, h)  # noqa: E731
        return Step(solve(self.gradient), mu, solve)

    def within(self, d: Float[Array, " n"], radius: Scalar) -> Step:
        """The exact step by the eigendecomposition of D⁻¹HD⁻¹."""
        p, mu, _ = exact_step(self.H / (d[:, None] * d[None, :]), self.gradient / d, radius)
        return Step(p / d, mu)


class Small(eqx.Module):
    """`Dense` with each number on its own, so that a batch of problems computes with whole vectors of them."""

    H: tuple[tuple[Scalar, ...], ...]  # the lower triangle
    g: tuple[Scalar, ...]

    @property
    def gradient(self) -> Float[Array, " n"]:
        return jnp.stack(self.g)

    def dense(self) -> Dense:
        n = len(self.g)
        H = jnp.stack([jnp.stack([self.H[max(i, j)][min(i, j)] for j in range(n)]) for i in range(n)])
        return Dense(H, self.gradient)

    def curvature(self, p: Float[Array, " n"]) -> Scalar:
        both = [(1.0 if i == j else 2.0) * p[i] * p[j] * h for i, row in enumerate(self.H) for j, h in enumerate(row)]
        return added(both)

    def diagonal(self) -> Float[Array, " n"]:
        return jnp.stack([row[-1] for row in self.H])

    @property
    def norms(self) -> Float[Array, " n"]:
        return jnp.sqrt(jnp.maximum(self.diagonal(), 0.0))

    def independent(self) -> Bool[Array, ""]:
        """As for `Triangle`, as far as H tells, to half of the digits."""
        L, eps = small_cholesky(self.H), jnp.finfo(self.g[0].dtype).eps
        own = [jnp.square(L[i][i]) > 8 * len(L) * eps * row[-1] for i, row in enumerate(self.H)]
        return every(jnp.stack(own))

    def restricted(self, free: Bool[Array, " n"]) -> "Small":
        H = [[jnp.where(free[i] & free[j], h, 0.0) for j, h in enumerate(row)] for i, row in enumerate(self.H)]
        g = [jnp.where(free[i], g, 0.0) for i, g in enumerate(self.g)]
        return Small(tuple(map(tuple, H)), tuple(g))

    def damped(self, d: Float[Array, " n"], mu: Scalar) -> Step:
        """Cholesky, written out; NaN where H + μD² is not positive definite."""
        L = small_cholesky([[*row[:-1], row[-1] + mu * d[i] * d[i]] for i, row in enumerate(self.H)])
        solve = lambda h: -jnp.stack(small_cholesky_solve(L, list(h)))  # noqa: E731
        return Step(-jnp.stack(small_cholesky_solve(L, self.g)), mu, solve)

    def spectrum(self, d: Float[Array, " n"]) -> Spectrum:
        return self.dense().spectrum(d)

    def within(self, d: Float[Array, " n"], radius: Scalar) -> Step:
        return self.dense().within(d, radius)


class Products(eqx.Module):
    """Products with H only."""

    product: Callable[[Array], Array]
    gradient: Float[Array, " n"]
    free: Bool[Array, " n"] | None = None

    def curvature(self, p: Float[Array, " n"]) -> Scalar:
        return jnp.sum(p * self.times(p))

    def times(self, p: Float[Array, " n"]) -> Float[Array, " n"]:
        """Hp, in the free variables."""
        if self.free is None:
            return self.product(p)
        return jnp.where(self.free, self.product(jnp.where(self.free, p, 0.0)), 0.0)

    def restricted(self, free: Bool[Array, " n"]) -> "Products":
        return Products(self.product, jnp.where(free, self.gradient, 0.0), free)

    def damped(self, d: Float[Array, " n"], mu: Scalar) -> Step:
        """Conjugate gradients on (D⁻¹HD⁻¹ + μ)q = −D⁻¹g, to a hundredth of the gradient."""
        q, _ = jax.scipy.sparse.linalg.cg(
            lambda q: self.times(q / d) / d + mu * q, -self.gradient / d, tol=1e-2, maxiter=self.gradient.shape[0]
        )
        return Step(q / d, mu)


Matrix = Triangle | Dense | Small
Model = Matrix | Products


def _boundary(e: Float[Array, " n"], c: Float[Array, " n"], radius: Scalar) -> tuple[Scalar, Float[Array, " n"], Array]:
    """μ ≥ 0 of the problem with H = diag(e), g = c: the multiplier, the denominators e + μ, and whether it is hard.

    With λ₁ = min(e, 0) put μ = ν − λ₁, so that the denominators (e − λ₁) + ν keep their relative precision however
    near the pole ν is. ‖c/((e − λ₁) + ν)‖ = Δ has one root in ν > 0 unless the norm is within Δ already at ν = 0:
    then the step is the unconstrained one where H is semidefinite, and the hard case where it is not.
    Moré and Sorensen (1983), SIAM J. Sci. Stat. Comput. 4, 553; here in log ν, where Newton's method needs no
    safeguard but the bracket |cᵢ|/Δ − (eᵢ − λ₁) ≤ ν ≤ ‖c‖/Δ.
    """
    tiny = jnp.finfo(e.dtype).tiny
    pole = jnp.minimum(jnp.min(e, initial=jnp.inf), 0.0)
    gap, pull = e - pole, jnp.abs(c) / radius
    high = jnp.linalg.norm(pull)
    low = jnp.max(pull - gap, initial=0.0)
    # Without a component near the pole: below eps² of the smallest gap nothing changes any more.
    least = jnp.min(jnp.where((gap > 0) & (pull > 0), gap, jnp.inf), initial=jnp.inf)
    low = jnp.where(low > 0, low * 0.5, jnp.where(jnp.isfinite(least), least * jnp.finfo(e.dtype).eps ** 2, tiny))
    low = jnp.maximum(low, tiny)

    def excess(log_nu: Array) -> tuple[Array, Array]:
        nu = jnp.exp(log_nu)
        squared = jnp.square(safe_divide(pull, gap + nu))
        total = jnp.sum(squared)
        total = jnp.where(total == 0, tiny, total)
        return 0.5 * jnp.log(total), -jnp.sum(squared * nu / (gap + nu)) / total

    bracket = jnp.log(low), jnp.log(jnp.maximum(high, low) * 2.0)
    outside = excess(bracket[0])[0] > 0
    nu = jnp.exp(secular.find_root(excess, *bracket))
    nu = jnp.where(outside, nu, 0.0)
    return nu - pole, gap + nu, ~outside & (pole < 0)


def exact_step(
    H: Float[Array, "n n"], g: Float[Array, " n"], radius: Scalar
) -> tuple[Float[Array, " n"], Scalar, Bool[Array, ""]]:
    """The global minimiser of gᵀp + ½ pᵀHp over ‖p‖ ≤ radius, its multiplier, and whether it is the hard case.

    Hard is where the gradient has no part, to rounding, along the eigenvectors of the least eigenvalue λ₁ < 0, and
    the rest of the step at the multiplier −λ₁ stays within the radius.
    """
    n = g.shape[0]
    e, V = jnp.linalg.eigh(H, symmetrize_input=False)
    noise = n * jnp.finfo(e.dtype).eps
    c = matmul(V.T, g)
    # What rounding alone makes of a zero eigenvalue, and of a gradient without a part along it.
    null = jnp.abs(e) <= noise * jnp.max(jnp.abs(e), initial=0.0)
    e = jnp.where(null, 0.0, e)
    c = jnp.where(null & (jnp.abs(c) <= noise * jnp.linalg.norm(c)), 0.0, c)
    mu, denominator, inside = _boundary(e, c, radius)
    q = -safe_divide(c, denominator)
    # In the hard case the rest of the way to the boundary is along an eigenvector of the least eigenvalue.
    first = jnp.arange(n) == 0
    rest = jnp.sqrt(jnp.maximum(jnp.square(radius) - jnp.sum(jnp.square(q)), 0.0))
    q = jnp.where(inside & first, jnp.where(c > 0, -1.0, 1.0) * rest, q)
    gap = e - jnp.min(e)
    near = gap <= noise * jnp.max(jnp.abs(e), initial=0.0)
    unseen = jnp.all(jnp.where(near, jnp.abs(c) <= noise * jnp.linalg.norm(c), True))
    others = jnp.linalg.norm(jnp.where(near, 0.0, safe_divide(c, gap)))
    return matmul(V, q), mu, (jnp.min(e) < 0) & unseen & (others <= radius)


def exact(model: Matrix, d: Float[Array, " n"], radius: Scalar) -> Step:
    """The minimiser of the model over ‖Dp‖ ≤ radius, from one decomposition."""
    return model.within(d, radius)


def _to_boundary(p: Array, step: Array, radius: Scalar) -> Scalar:
    """τ ≥ 0 with ‖p + τ·step‖ = radius, for ‖p‖ ≤ radius."""
    a, b, c = jnp.sum(step * step), jnp.sum(p * step), jnp.sum(p * p) - jnp.square(radius)
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0.0))
    # The form without cancellation, by the sign of b.
    return jnp.where(b > 0, safe_divide(-c, b + root), safe_divide(root - b, a))


def dogleg(model: Matrix, d: Float[Array, " n"], radius: Scalar) -> Step:
    """Powell's path: along −g to its minimum, then towards −H⁻¹g, cut off at the radius. H must be definite.

    Powell (1970); Nocedal and Wright (2006), Numerical Optimization, section 4.1. Where H is not definite it is the
    steepest descent step.
    """
    g = model.gradient / d
    newton = model.damped(d, jnp.zeros((), g.dtype)).p * d
    norm, along = jnp.linalg.norm(g), model.curvature(g / d)
    length = jnp.where(along > 0, safe_divide(norm**3, along), radius)
    cauchy = -safe_divide(g, norm) * jnp.minimum(length, radius)
    usable = jnp.all(jnp.isfinite(newton)) & (length < radius) & (along > 0)
    newton = jnp.where(usable, newton, cauchy)
    inside = jnp.linalg.norm(newton) <= radius
    leg = jnp.where(inside, 0.0, newton - cauchy)
    q = jnp.where(inside, newton, cauchy + leg * _to_boundary(cauchy, leg, radius))
    return Step(q / d, jnp.zeros((), g.dtype))


def steihaug(model: Model, d: Float[Array, " n"], radius: Scalar) -> Step:
    """Conjugate gradients on the model until the radius, negative curvature or a residual min(½, √‖g‖)‖g‖ stops them.

    Products with H only. Steihaug (1983), SIAM J. Numer. Anal. 20, 626; Nocedal and Wright (2006), algorithm 7.2.
    """
    g = model.gradient / d
    times = model.times if isinstance(model, Products) else _products_of(model)
    start = jnp.sum(g * g)
    enough = jnp.square(jnp.minimum(0.5, jnp.sqrt(jnp.sqrt(start)))) * start

    def unfinished(state: tuple[Array, ...]) -> Array:
        return ~state[-1]

    def advance(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, q, residual, direction, squared, _ = state
        Hd = times(direction / d) / d
        along = jnp.sum(direction * Hd)
        alpha = safe_divide(squared, along)
        following = q + alpha * direction
        leaves = (along <= 0) | (jnp.linalg.norm(following) >= radius)
        q = jnp.where(leaves, q + direction * _to_boundary(q, direction, radius), following)
        residual = residual + alpha * Hd
        less = jnp.sum(residual * residual)
        direction = -residual + safe_divide(less, squared) * direction
        return count + 1, q, residual, direction, less, leaves | (less <= enough) | (count + 1 >= 2 * g.shape[0])

    zero = jnp.zeros_like(g)
    state = (jnp.zeros((), jnp.int32), zero, g, -g, start, start == 0)
    return Step(jax.lax.while_loop(unfinished, advance, state)[1] / d, jnp.zeros((), g.dtype))


def _products_of(model: Matrix) -> Callable[[Array], Array]:
    """p ↦ Hp of a model that has its matrix."""
    if isinstance(model, Dense | Small):
        model = model.dense()
        return lambda p: matmul(model.H, p)
    return lambda p: matmul(model.R.T, matmul(model.R, p))
