"""Cross-validation folds of a factored problem: triangles merged, then one small SVD for each fold.

In the directions of the full factor the problem is ‖ŷ − Bω‖² + λ'‖βω‖² with B = U diag(s), and a fold leaves
out some rows of B. Of many rows each fold's become one triangle; prefixes and suffixes of those are merged, so that the
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

    shared: "Complements"
    base: Float[Array, "f v t"]
    z: Float[Array, "f r t"]
    scale: Float[Array, ""]
    y_scale: Float[Array, " t"]

    @property
    def partition(self) -> Partition:
        """Which rows are held out."""
        return self.shared.partition

    def of_targets(self, factored: LinearFactored) -> "Folds":
        """The same folds with other targets, those of ``factored``."""
        return self.shared.of_targets(factored.factor)  # pyright: ignore[reportAttributeAccessIssue]

    def losses(
        self, factored: LinearFactored, lam: Lam, loss: Callable[[Array], Array], frozen: bool
    ) -> Float[Array, "f t"]:
        """Mean held-out loss of each fold at λ.

        The derivative is that of the fits to each fold's own rows, factored for it; ``frozen`` leaves it out, for
        searches over λ alone.
        """
        value, live = _held_out(loss)
        return value(self, factored.problem, lam) if frozen else live(self, factored.problem, lam)


class Direct(eqx.Module):
    """Q of each fold's own rows."""

    Q: Float[Array, "f p m"]

    def turned(self, W: Float[Array, "f k r"]) -> "Direct":
        """The same with the last directions along the columns of W."""
        return Direct(_turned(self.Q, W))

    def rotated(self, y: Float[Array, "n t"], partition: Partition) -> Float[Array, "f m t"]:
        """Qᵀy of every fold's complement, the unpenalised directions first."""
        return jax.lax.map(lambda of: matmul(of[0].T, take_rows(y, of[1])), (self.Q, partition.train))


class Merged(eqx.Module):
    """The Q of each fold's rows, of every merge of those before it and after it, and of these two."""

    rows: Float[Array, "f v m"]
    before: Float[Array, "f p m"]
    after: Float[Array, "f p m"]
    both: Float[Array, "f p m"]

    def turned(self, W: Float[Array, "f k r"]) -> "Merged":
        """As that of `Direct`."""
        return Merged(self.rows, self.before, self.after, _turned(self.both, W))

    def rotated(self, y: Float[Array, "n t"], partition: Partition) -> Float[Array, "f m t"]:
        """As that of `Direct`."""
        own = jax.lax.map(lambda of: matmul(of[0].T, take_rows(y, of[1])), (self.rows, partition.test))

        def step(c: Array, of: tuple[Array, Array]) -> tuple[Array, Array]:
            Q, more = of
            return matmul(Q.T, jnp.concatenate([c, more])), c

        nothing = jnp.zeros_like(own[0])
        _, before = jax.lax.scan(step, nothing, (self.before, own))
        _, after = jax.lax.scan(step, nothing, (self.after, own), reverse=True)
        return jax.lax.map(lambda of: matmul(of[0].T, jnp.concatenate(of[1:])), (self.both, before, after))


class United(eqx.Module):
    """The Q of each block of rows, and of every union of some of them."""

    rows: Float[Array, "b v m"]
    kept: Bool[Array, "f b"]
    whole: Float[Array, "f p m"]

    def turned(self, W: Float[Array, "f k r"]) -> "United":
        """As that of `Direct`."""
        return United(self.rows, self.kept, _turned(self.whole, W))

    def rotated(self, y: Float[Array, "n t"], partition: Partition) -> Float[Array, "f m t"]:
        """As that of `Direct`."""
        own = jax.lax.map(lambda of: matmul(of[0].T, take_rows(y, of[1])), (self.rows, partition.blocks))
        return jax.lax.map(lambda of: matmul(of[0].T, _stacked(own, of[1])), (self.whole, self.kept))


def _stacked(blocks: Float[Array, "b m c"], keep: Bool[Array, " b"]) -> Float[Array, "p c"]:
    """Some of the blocks below each other, zeros in the place of the others."""
    return jnp.where(keep[:, None, None], blocks, 0.0).reshape(-1, blocks.shape[-1])


def _turned(Q: Float[Array, "f p m"], W: Float[Array, "f k r"]) -> Float[Array, "f p c"]:
    """Q diag(I, W)."""
    q = Q.shape[2] - W.shape[1]
    last = jax.lax.map(lambda of: matmul(*of), (Q[:, :, q:], W))
    return jnp.concatenate([Q[:, :, :q], last], axis=2)


class Complements(eqx.Module):
    """The rows that each fold leaves, factored: all that does not depend on targets."""

    partition: Partition
    rotation: Direct | Merged | United
    corner: Float[Array, "f q q"]
    s: Float[Array, "f r"]
    E: Float[Array, "f v r"]
    free: Float[Array, "f v q"]  # held-out rows of the unpenalised directions
    root_weights: Float[Array, "f v"]  # 0 for no row

    def of_targets(self, factor: Factor) -> Folds:
        """With the targets of the full factor."""
        q = self.corner.shape[1]
        y = factor.y_perp + matmul(factor.U, factor.z)
        c = self.rotation.rotated(y, self.partition)

        def one(of: tuple[Array, ...]) -> Array:
            corner, held, c, rows = of
            free = jax.scipy.linalg.solve_triangular(corner, c)
            return take_rows(y, rows) - matmul(held, free)

        base = jax.lax.map(one, (self.corner, self.free, c[:, :q], self.partition.test))
        return Folds(self, base, c[:, q:], factor.scale, factor.y_scale)


def _triangle(A: Float[Array, "p m"], least: int) -> tuple[Float[Array, "p k"], Float[Array, "k m"]]:
    """Q and R of A, with ``least`` rows of R at least."""
    Q, R = jnp.linalg.qr(A)
    missing = max(least - R.shape[0], 0)
    return jnp.pad(Q, ((0, 0), (0, missing))), jnp.pad(R, ((0, missing), (0, 0)))


def _merged(B: Float[Array, "n m"], partition: Partition) -> tuple[Merged, Float[Array, "f m m"]]:
    """The triangle of all folds but one, for each one, from prefixes and suffixes."""
    m = B.shape[1]
    Q, blocks = jax.lax.map(lambda rows: _triangle(take_rows(B, rows), m), partition.test)

    def step(R: Array, block: Array) -> tuple[Array, tuple[Array, Array]]:
        Q, merged = _triangle(jnp.concatenate([R, block]), m)
        return merged, (Q, R)

    nothing = jnp.zeros_like(blocks[0])
    _, (before, of_before) = jax.lax.scan(step, nothing, blocks)
    _, (after, of_after) = jax.lax.scan(step, nothing, blocks, reverse=True)
    both, R = jax.lax.map(lambda pair: _triangle(jnp.concatenate(pair), m), (of_before, of_after))
    return Merged(Q, before, after, both), R


def _united(B: Float[Array, "n m"], partition: Partition, kept: Bool[Array, "f b"]) -> tuple[United, Array]:
    """The triangle of some blocks together, for each row of ``kept``."""
    Q, blocks = jax.lax.map(lambda rows: _triangle(take_rows(B, rows), B.shape[1]), partition.blocks)
    whole, R = jax.lax.map(lambda keep: _triangle(_stacked(blocks, keep), B.shape[1]), kept)
    return United(Q, kept, whole), R


def fold_factors(problem: Design, factor: Factor, folds: Partition) -> Folds:
    """Factor the complement of every fold from the rows of the full factor."""
    q, (n, m) = problem.free, factor.U.shape
    # Unpenalised directions first, so that the triangle eliminates them before the penalised ones.
    B = jnp.roll(factor.U * factor.s[None, :], q, axis=1)
    root = filled(B.shape[:1], 1.0, B.dtype) if factor.root_weights is None else factor.root_weights
    # The merges of a fold take as many operations as a triangle of five m rows.
    if folds.kept is not None:
        rotation, R = _united(B, folds, folds.kept)
    elif folds.disjoint and n > 5 * m:
        rotation, R = _merged(B, folds)
    else:
        Q, R = jax.lax.map(lambda rows: _triangle(take_rows(B, rows), q), folds.train)
        rotation = Direct(Q)

    def one(R: Array, rows: Array) -> tuple[Array, ...]:
        W, s, Vt = jnp.linalg.svd(R[q:, q:], full_matrices=False)
        s = jnp.where(s > cutoff(s, (n, m)), s, jnp.where(jnp.isnan(s), s, 0.0))
        held = take_rows(B, rows)
        across = jax.scipy.linalg.solve_triangular(R[:q, :q], R[:q, q:])
        E = matmul(held[:, q:] - matmul(held[:, :q], across), Vt.T)
        return W, R[:q, :q], s, E, held[:, :q]

    W, corner, s, E, free = jax.lax.map(lambda args: one(*args), (R, folds.test))
    shared = Complements(folds, rotation.turned(W), corner, s, E, free, take_rows(root, folds.test))
    return shared.of_targets(factor)


@lru_cache
def _held_out(loss: Callable[[Array], Array]) -> tuple[Callable[..., Array], Callable[..., Array]]:
    def value(folds: Folds, design: Design, lam: Lam) -> Array:
        lam = jnp.atleast_1d(lam)
        damping = poison(lam, lam >= 0)[None, :] * folds.scale * folds.scale

        def one(of: tuple[Array, ...]) -> Array:
            base, E, s, z, root = of
            damped = safe_divide(s[:, None], jnp.square(s)[:, None] + damping)
            # One λ for all targets damps the few rows of E, not the many targets.
            fitted = matmul(E * damped[None, :, 0], z) if lam.shape[0] == 1 else matmul(E, damped * z)
            return safe_divide(base - fitted, jnp.broadcast_to(root[:, None], base.shape)) * folds.y_scale[None, :]

        shared = folds.shared
        e = jax.lax.map(one, (folds.base, shared.E, shared.s, folds.z, shared.root_weights))
        return jax.vmap(lambda e, root: mean_losses(e, jnp.square(root), loss))(e, shared.root_weights)

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
