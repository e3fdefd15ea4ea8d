"""Cross-validation folds of a factored problem: triangles merged, then one small SVD for each fold.

In the directions of the full factor the problem is ‖ŷ − Bω‖² + λ'‖βω‖² with B = U diag(s), and a fold leaves
out some rows of B. Each fold's rows become one triangle; prefixes and suffixes of those are merged, so that the
complement of every fold costs two small QR and no row is read twice. (Downdating a triangle would cancel.)
"""

from collections.abc import Callable
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import derived
from jaxridge.core.numbers import cutoff, filled, matmul, poison, safe_divide
from jaxridge.core.types import Array, Bool, Float, Lam
from jaxridge.linear import carrier
from jaxridge.linear.design import Design
from jaxridge.linear.fit import LinearFactored
from jaxridge.linear.standard_form import standard_form
from jaxridge.linear.svd import Factor, svd
from jaxridge.select.partition import Partition, mean_losses, take_rows


class Folds(eqx.Module):
    """For each fold, what predicts its held-out rows at any λ: base − E (σ/(σ²+λ') z)."""

    partition: Partition
    base: Float[Array, "f v t"]
    E: Float[Array, "f v r"]
    s: Float[Array, "f r"]
    z: Float[Array, "f r t"]
    root_weights: Float[Array, "f v"]  # 0 for no row
    scale: Float[Array, ""]
    y_scale: Float[Array, " t"]

    def losses(
        self, factored: LinearFactored, lam: Lam, loss: Callable[[Array], Array], frozen: bool
    ) -> Float[Array, "f t"]:
        """Mean held-out loss of each fold at λ.

        The derivative is that of the fits to each fold's own rows, factored for it; ``frozen`` leaves it out, for
        searches over λ alone.
        """
        value, live = _held_out(loss)
        return value(self, factored.problem, lam) if frozen else live(self, factored.problem, lam)


def _triangle(A: Float[Array, "p m"], y: Float[Array, "p t"]) -> tuple[Float[Array, "m m"], Float[Array, "m t"]]:
    """R and Qᵀy of A = QR, square whatever the number of rows."""
    Q, R = jnp.linalg.qr(A)
    missing = max(A.shape[1] - A.shape[0], 0)
    return jnp.pad(R, ((0, missing), (0, 0))), jnp.pad(matmul(Q.T, y), ((0, missing), (0, 0)))


def _merge(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """The triangle of two triangles' rows together."""
    return _triangle(jnp.concatenate([one[0], other[0]]), jnp.concatenate([one[1], other[1]]))


def _complements(blocks: tuple[Array, Array]) -> tuple[Array, Array]:
    """The triangle of all folds but one, for each one, from prefixes and suffixes."""

    def step(state: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return _merge(state, block), state

    nothing = jax.tree.map(lambda x: jnp.zeros_like(x[0]), blocks)
    _, before = jax.lax.scan(step, nothing, blocks)
    _, after = jax.lax.scan(step, nothing, blocks, reverse=True)
    return jax.lax.map(lambda pair: _merge(*pair), (before, after))


def _unions(blocks: tuple[Array, Array], kept: Bool[Array, "f b"]) -> tuple[Array, Array]:
    """The triangle of some of the folds together, for each row of ``kept``."""

    def one(keep: Array) -> tuple[Array, Array]:
        R, c = (jnp.where(keep[:, None, None], x, 0.0).reshape(-1, x.shape[-1]) for x in blocks)
        return _triangle(R, c)

    return jax.lax.map(one, kept)


def fold_factors(problem: Design, factor: Factor, folds: Partition) -> Folds:
    """Factor the complement of every fold from the rows of the full factor."""
    q, m = problem.free, factor.s.shape[0]
    # Unpenalised directions first, so that the triangle eliminates them before the penalised ones.
    B = jnp.roll(factor.U * factor.s[None, :], q, axis=1)
    y = factor.y_perp + matmul(factor.U, factor.z)
    root = filled(B.shape[:1], 1.0, B.dtype) if factor.root_weights is None else factor.root_weights

    def of_rows(rows: Array) -> tuple[Array, Array]:
        return _triangle(take_rows(B, rows), take_rows(y, rows))

    if folds.kept is not None:
        R, c = _unions(jax.lax.map(of_rows, folds.blocks), folds.kept)
    else:
        R, c = _complements(jax.lax.map(of_rows, folds.test)) if folds.disjoint else jax.lax.map(of_rows, folds.train)

    def one(R: Array, c: Array, rows: Array) -> tuple[Array, ...]:
        W, s, Vt = jnp.linalg.svd(R[q:, q:], full_matrices=False)
        s = jnp.where(s > cutoff(s, (B.shape[0], m)), s, jnp.where(jnp.isnan(s), s, 0.0))
        free = jax.scipy.linalg.solve_triangular(R[:q, :q], jnp.concatenate([R[:q, q:], c[:q]], axis=1))
        held, held_y = take_rows(B, rows), take_rows(y, rows)
        E = matmul(held[:, q:] - matmul(held[:, :q], free[:, : m - q]), Vt.T)
        return held_y - matmul(held[:, :q], free[:, m - q :]), E, s, matmul(W.T, c[q:])

    base, E, s, z = jax.lax.map(lambda args: one(*args), (R, c, folds.test))
    return Folds(folds, base, E, s, z, take_rows(root, folds.test), factor.scale, factor.y_scale)


@lru_cache
def _held_out(loss: Callable[[Array], Array]) -> tuple[Callable[..., Array], Callable[..., Array]]:
    def value(folds: Folds, design: Design, lam: Lam) -> Array:
        lam = jnp.atleast_1d(lam)
        damping = poison(lam, lam >= 0)[None, :] * folds.scale * folds.scale

        def one(base: Array, E: Array, s: Array, z: Array, root: Array) -> Array:
            s = s[:, None]
            scaled = base - matmul(E, safe_divide(s * z, jnp.square(s) + damping))
            e = safe_divide(scaled, jnp.broadcast_to(root[:, None], scaled.shape)) * folds.y_scale[None, :]
            return mean_losses(e, jnp.square(root), loss)

        return jax.vmap(one)(folds.base, folds.E, folds.s, folds.z, folds.root_weights)

    def live(folds: Folds, design: Design, lam: Lam) -> Array:
        weights = filled(design.X.shape[:1], 1.0, design.X.dtype) if design.weights is None else design.weights
        plain = design.weights is None and not folds.partition.ragged

        def one(rows: tuple[Array, Array]) -> Array:
            train, test = rows
            part = Design(
                X=take_rows(design.X, train),
                Z=take_rows(design.Z, train),
                y=take_rows(design.y, train),
                weights=None if plain else take_rows(weights, train),
                penalty=design.penalty,
                terms=design.terms,
            )
            _, w = carrier.solution(part, jax.lax.stop_gradient(svd(standard_form(part))), lam)
            d = design.X.shape[1]
            predicted = matmul(take_rows(design.X, test), w[:d]) + matmul(take_rows(design.Z, test), w[d:])
            return take_rows(design.y, test) - predicted

        # The loss is the user's, and may have a rule of its own, which a loop would lose (see `map_with_rules`).
        e = jax.lax.map(one, (folds.partition.train, folds.partition.test))
        return jax.vmap(lambda e, test: mean_losses(e, take_rows(weights, test), loss))(e, folds.partition.test)

    return value, derived(value, live)
