"""Margins: the losses of support vector machines, and a whole grid of λ solved for one of them.

    min over w, b of  Σᵢ ωᵢ L(yᵢ, xᵢ·w + b) + λ Σⱼ pⱼ wⱼ²

A loss is 0 on a side of each row and grows beyond: max(0, v), or its square, with v = m − z(x·w + b) for a sign z and a
level m, on one side of the row or on two.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from jaxridge.core.checks import as_floats
from jaxridge.core.numbers import exponent, matmul, power_of_two, safe_divide
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.linalg.box_qp import BoxQP
from jaxridge.linalg.box_qp import solve as solve_box

__all__ = ["EpsilonInsensitive", "Hinge", "SquaredHinge", "one_vs_rest"]


# How far towards the centre the interior-point method starts from the solution of the λ before (measured).
NEAR = 0.03


class Hinge(eqx.Module):
    """max(0, 1 − y f) for labels y = ±1."""

    squared: ClassVar[bool] = False
    labels: ClassVar[bool] = True

    def sides(self, y: Float[Array, " n"]) -> tuple[Float[Array, "s n"], Float[Array, "s n"]]:
        """z and m of each side of each row."""
        return y[None, :], jnp.ones_like(y)[None, :]


class SquaredHinge(eqx.Module):
    """max(0, 1 − y f)² for labels y = ±1: ridge on the rows within the margin."""

    squared: ClassVar[bool] = True
    labels: ClassVar[bool] = True

    def sides(self, y: Float[Array, " n"]) -> tuple[Float[Array, "s n"], Float[Array, "s n"]]:
        """z and m of each side of each row."""
        return y[None, :], jnp.ones_like(y)[None, :]


class EpsilonInsensitive(eqx.Module):
    """max(0, |y − f| − ε) for real targets y, ε >= 0 in their units."""

    epsilon: Any = 0.1

    squared: ClassVar[bool] = False
    labels: ClassVar[bool] = False

    def sides(self, y: Float[Array, " n"]) -> tuple[Float[Array, "s n"], Float[Array, "s n"]]:
        """z and m of each side of each row."""
        z = jnp.stack([jnp.ones_like(y), -jnp.ones_like(y)])
        return z, z * y[None, :] - jnp.asarray(self.epsilon, y.dtype)


def one_vs_rest(labels: Any) -> tuple[Array, Any]:
    """Targets of ±1 (n, c), a column for each class against the others, and the c classes, sorted.

    The class of a new row is ``classes[argmax]`` of the decision function over the columns.

    >>> from jaxridge import margins
    >>> Y, classes = margins.one_vs_rest(["a", "b", "c", "a"])
    >>> print(Y[:, 0], classes)
    [ 1. -1. -1.  1.] ['a' 'b' 'c']
    """
    import numpy as np

    classes, index = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels has one class only, {classes.tolist()}; pass rows of two classes or more.")
    signs = np.where(index.ravel()[:, None] == np.arange(len(classes))[None, :], 1.0, -1.0)
    return as_floats("y", signs, (2,)), classes


class Rows(eqx.Module):
    """Features in which the penalty is λ‖w‖² and all is of size 1, with the way back: w = unit y_unit ŵ and so on."""

    A: Float[Array, "n d"]  # (X − mean) unit
    mean: Float[Array, " d"]
    unit: Float[Array, " d"]  # 1/(scale √p)
    scale: Scalar

    @classmethod
    def of(
        cls, X: Float[Array, "n d"], weights: Float[Array, " n"], penalty: Float[Array, " d"], intercept: bool
    ) -> "Rows":
        """Centred by weighted means where an intercept takes them up."""
        X, weights, penalty = jax.lax.stop_gradient((X, weights, penalty))
        root = jnp.sqrt(penalty)
        column = power_of_two(-exponent(jnp.max(jnp.abs(X), axis=0, initial=0.0)), X.dtype)
        share = weights / jnp.sum(weights)
        mean = matmul(share, X * column[None, :])
        # What a first mean leaves mends the rounding of a long sum.
        centred = X * column[None, :] - mean[None, :]
        mean = (mean + matmul(share, centred)) / column
        mean = mean if intercept else jnp.zeros_like(mean)
        A = X - mean[None, :]
        scale = power_of_two(exponent(jnp.max(jnp.abs(A) / root[None, :], initial=0.0)), X.dtype)
        unit = 1.0 / (scale * root)
        return cls(A * unit[None, :], mean, unit, scale)


class Units(eqx.Module):
    """Units of targets and weights, and λ in them: w = unit y ŵ, b = y b̂ − mean·w, α = u α̂, of a square u y α̂."""

    y: Scalar
    u: Scalar
    lam: Float[Array, "*k"]

    @classmethod
    def of(
        cls, rows: Rows, m: Float[Array, "s n"], u: Float[Array, " n"], lams: Float[Array, "*k"], squared: bool
    ) -> "Units":
        """Powers of two; λ is NaN where it is not positive and finite."""
        m, u, lams = jax.lax.stop_gradient((m, u, lams))
        y_unit = power_of_two(exponent(jnp.max(jnp.abs(m), initial=0.0)), m.dtype)
        u_unit = power_of_two(exponent(jnp.max(u, initial=0.0)), m.dtype)
        lams = jnp.where((lams > 0) & jnp.isfinite(lams), lams, jnp.nan)
        lams = lams / rows.scale / rows.scale / u_unit
        return cls(y_unit, u_unit, lams if squared else lams * y_unit)

    def raised(self, rows: Rows, w: Float[Array, " d"], b: Scalar) -> tuple[Array, Array]:
        """w and b in the units of the user."""
        w = rows.unit * w * self.y
        return w, self.y * b - jnp.sum(rows.mean * w)

    def lowered(self, rows: Rows, of_w: Float[Array, " d"], of_b: Scalar) -> tuple[Array, Array]:
        """Right-hand sides of the equations for w and for b, in these units."""
        return rows.unit * (of_w - rows.mean * of_b) / self.u, of_b / self.u


class Scaled(eqx.Module):
    """One machine's data in units of 1, for every λ."""

    A: Float[Array, "n d"]
    z: Float[Array, "s n"]
    m: Float[Array, "s n"]
    u: Float[Array, " n"]
    lams: Float[Array, " k"]
    intercept: bool = eqx.field(static=True)
    squared: bool = eqx.field(static=True)


class Solved(eqx.Module):
    """What every λ gives, in those units; ``upper`` are the rows at the wall of the box, or within a squared margin."""

    w: Float[Array, "*k d"]
    b: Float[Array, "*k"]
    alpha: Float[Array, "*k s n"]
    gap: Float[Array, "*k"]  # relative to the objective
    upper: Bool[Array, "*k s n"]
    free: Bool[Array, "*k s n"]
    exact: Bool[Array, "*k"]  # whether it is the solution of the equations that these say
    steps: Int[Array, "*k"]


def newton(
    A: Float[Array, "n d"],
    z: Float[Array, "s n"],
    m: Float[Array, "s n"],
    u: Float[Array, " n"],
    lam: Scalar,
    intercept: bool,
    near: tuple[Array, Array],
    max_steps: int,
) -> tuple[Array, Array, Array, Array]:
    """w, b, the rows within the margin and the number of steps of λ‖w‖² + Σ u max(0, v)².

    Newton's method: each step is ridge regression on the rows within the margin, and ends when these stay the same
    (Keerthi and DeCoste 2005, J. Mach. Learn. Res. 6, 341). A step that gains too little is cut short where the
    objective is least along it.
    """

    def shortfall(w: Array, b: Array) -> Float[Array, "s n"]:
        return m - z * (matmul(A, w) + b)[None, :]

    def objective(w: Array, v: Array) -> Scalar:
        return lam * jnp.sum(jnp.square(w)) + jnp.sum(u[None, :] * jnp.square(jnp.maximum(v, 0.0)))

    def slope(w: Array, v: Array, on: Array) -> tuple[Array, Array]:
        g = jnp.sum(jnp.where(on, z * u[None, :] * v, 0.0), axis=0)
        return lam * w - matmul(A.T, g), -jnp.sum(g) if intercept else jnp.zeros_like(lam)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        w, b, _, step, _ = state
        v = shortfall(w, b)
        on = (v > 0) & (u[None, :] > 0)
        solve = ridge_solver(A, jnp.sum(jnp.where(on, u[None, :], 0.0), axis=0), lam, intercept)
        gw, gb = slope(w, v, on)
        dw, db = jax.tree.map(jnp.negative, solve(gw, gb))
        Ad = matmul(A, dw) + db

        def along(t: Array) -> Array:
            r = jnp.maximum(v - t * z * Ad[None, :], 0.0)
            return lam * jnp.sum((w + t * dw) * dw) - jnp.sum(u * jnp.sum(r * z, axis=0) * Ad)

        full = objective(w + dw, v - z * Ad[None, :]) <= objective(w, v) + 2e-4 * (jnp.sum(gw * dw) + gb * db)

        def halve(ends: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            low, high, i = ends
            middle = 0.5 * (low + high)
            falls = along(middle) < 0
            return jnp.where(falls, middle, low), jnp.where(falls, high, middle), i + 1

        ends = (jnp.zeros_like(b), jnp.ones_like(b), jnp.zeros((), int))
        low, high, _ = jax.lax.while_loop(lambda ends: ~full & (ends[2] < 30), halve, ends)
        t = jnp.where(full, 1.0, 0.5 * (low + high))
        w, b = w + t * dw, b + t * db
        v = shortfall(w, b)
        same = full & jnp.all(((v > 0) & (u[None, :] > 0)) == on)
        # The same matrix once more, for what rounding left.
        ew, eb = solve(*slope(w, v, on))
        w, b = jnp.where(same, w - ew, w), jnp.where(same, b - eb, b)
        return w, b, on, step + 1, same

    # A λ that is no number has no steps.
    start = (*near, jnp.zeros(z.shape, bool), jnp.zeros((), int), jnp.isnan(lam))
    w, b, _, step, _ = jax.lax.while_loop(lambda s: ~s[4] & (s[3] < max_steps), advance, start)
    w = w * jnp.where(jnp.isnan(lam), lam, 1.0)
    return w, b, (shortfall(w, b) > 0) & (u[None, :] > 0), step


def ridge_solver(A: Float[Array, "n d"], rows: Float[Array, " n"], lam: Scalar, intercept: bool) -> Any:
    """(r, s) ↦ (w, b) with λw + AᵀR(Aw + b) = r, 1ᵀR(Aw + b) = s by one Cholesky factor; b = s without an intercept."""
    d = A.shape[1]
    AtR = (A * rows[:, None]).T
    border = jnp.sum(AtR, axis=1) if intercept else jnp.zeros(d, A.dtype)
    total = jnp.sum(rows)
    # A margin with nobody within it says nothing of b.
    last = jnp.where(total > 0, total, 1.0) if intercept else jnp.ones_like(total)
    H = matmul(AtR, A) + lam * jnp.eye(d, dtype=A.dtype)
    H = jnp.concatenate([jnp.concatenate([H, border[:, None]], axis=1), jnp.concatenate([border, last[None]])[None, :]])
    factor = cho_factor(H, lower=True)

    def solve(r: Float[Array, " d"], s: Scalar) -> tuple[Array, Array]:
        x = cho_solve(factor, jnp.concatenate([r, s[None]]))
        return x[:-1], x[-1]

    return solve


def solve_grid(data: Scaled, tol: Any, max_steps: int, size: int) -> Solved:
    """Every λ, the largest first, each from the one before: a scan, so that work is as much as each needs.

    A λ that cannot be solved, for data that are not finite say, leaves the others as they are.
    """
    A, z, m, u = data.A, data.z, data.m, data.u
    order = jnp.argsort(-data.lams)

    def one(near: tuple[Array, ...], lam: Array) -> tuple[Any, Solved]:
        w, b, alpha, share = near
        if data.squared:
            w, b, on, steps = newton(A, z, m, u, lam, data.intercept, (w, b), max_steps)
            v = m - z * (matmul(A, w) + b)[None, :]
            alpha = 2.0 * u[None, :] * jnp.where(on, v, 0.0)
            beta = jnp.sum(z * alpha, axis=0)
            gap = lam * jnp.sum(jnp.square(w - matmul(A.T, beta) / (2.0 * lam)))
            gap = gap + jnp.abs(jnp.sum(beta) * b) if data.intercept else gap
            primal = lam * jnp.sum(jnp.square(w)) + jnp.sum(0.5 * alpha * v)
            found = Solved(w, b, alpha, safe_divide(gap, primal), on, jnp.zeros_like(on), jnp.array(True), steps)
        else:
            qp = BoxQP(A, z, m, u, lam, data.intercept)
            s = solve_box(qp, tol, max_steps, size, (alpha, b, share))
            found = Solved(qp.w(s.alpha), s.b, s.alpha, s.gap, s.upper, s.free, s.exact, s.steps)
        usable = jnp.isfinite(found.gap)
        new = (found.w, found.b, found.alpha, jnp.full_like(share, NEAR))
        following = jax.tree.map(lambda new, old: jnp.where(usable, new, old), new, near)
        return following, found

    centre = BoxQP(A, z, m, u, jnp.ones((), A.dtype), data.intercept).centre()
    start = (jnp.zeros(A.shape[1], A.dtype), jnp.zeros((), A.dtype), centre, jnp.ones((), A.dtype))
    found = jax.lax.scan(one, start, data.lams[order])[1]
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: x[back], found)
