"""Cross-validation of kernel ridge: the kernel matrix of each fold's training points, factored once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.implicit import derived, map_with_rules
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float, Int, Lam
from jaxridge.kernel_methods.factor import Factor, factor_of
from jaxridge.kernel_methods.form import KernelDesign, KernelForm
from jaxridge.kernel_methods.tridiagonal import tridiagonal
from jaxridge.select.partition import Partition, mean_losses, take_rows


class KernelFolds(eqx.Module):
    """For each fold the frozen factor of its training points, with their targets in its coordinates."""

    partition: Partition
    form: KernelForm
    factor: Factor
    z: Float[Array, "f p t"]
    rows: Float[Array, "f m p"] | None  # see `_rows`

    def losses(self, factored: Any, lam: Lam, loss: Callable[[Array], Array], frozen: bool) -> Float[Array, "f t"]:
        """Mean held-out loss of each fold at λ; ``frozen`` leaves derivatives in the data out."""
        design = jax.lax.stop_gradient(factored.design) if frozen else factored.design
        weights = jnp.ones(design.K.shape[0], design.K.dtype) if design.weights is None else design.weights

        def one(each: Any) -> Array:
            fold, form, factor, z, rows = each
            part = factored.of_part(_training(design, self.partition, fold[0]), form, factor, z)
            predict = _by_coefficients if rows is None else _predicted
            predicted = predict(part, _across(design, fold), rows, lam)
            return mean_losses(take_rows(design.y, fold[1]) - predicted, take_rows(weights, fold[1]), loss)

        fold = self.partition.train, self.partition.test
        return map_with_rules(one, (fold, self.form, self.factor, self.z, self.rows))


def _training(design: KernelDesign, partition: Partition, rows: Int[Array, " p"]) -> KernelDesign:
    """The live problem of some rows; where folds differ in length, what fills them up has weight 0."""
    K = take_rows(take_rows(design.K, rows).T, rows)
    weights = design.weights
    if partition.ragged and weights is None:
        weights = jnp.ones(design.K.shape[0], design.K.dtype)
    weights = None if weights is None else take_rows(weights, rows)
    return KernelDesign(K=K, y=take_rows(design.y, rows), weights=weights, terms=design.terms)


def kernel_fold_factors(factored: Any, partition: Partition) -> KernelFolds:
    """Factor every fold, for all λ."""
    still = jax.lax.stop_gradient(factored.design)
    # Heuristic: with 16 λ and more, so many targets cost more on their way back than the rows held out do.
    many = 16 * still.y.shape[1] > partition.test.shape[1]

    def one(fold: tuple[Array, Array]) -> tuple[KernelForm, Factor, Array, Array | None]:
        part = _training(still, partition, fold[0])
        form, factor, z = factor_of(tridiagonal, part)
        rows = _rows(factored.of_part(part, form, factor, z), _across(still, fold)) if many else None
        return form, factor, z, rows

    return KernelFolds(partition, *jax.lax.map(one, (partition.train, partition.test)))


def _across(design: KernelDesign, fold: tuple[Array, Array]) -> Float[Array, "v p"]:
    """The kernel between the points held out and the others."""
    train, test = fold
    return take_rows(take_rows(design.K, test).T, train).T


def _rows(factored: Any, across: Float[Array, "v n"]) -> Float[Array, "m p"]:
    """What takes (T + μ)⁻¹z to Kα at the points held out, and in a last row to Σω(Kα)/Σω if there is an intercept."""
    form, factor = factored.form, factored.factor
    rows = across * (form.root / form.scale)[None, :]
    if factored.problem.intercept:
        rows = jnp.concatenate([rows, (form.across / jnp.linalg.norm(form.root))[None, :]])
    return factor.coordinates(form, rows.T).T


def _by_rows(factored: Any, across: Array, rows: Float[Array, "m p"], lam: Lam) -> Float[Array, "v t"]:
    form, problem = factored.form, factored.problem
    seen = matmul(rows, factored.factor.within(form.mu(lam), factored.z))
    if not problem.intercept:
        return seen
    used = jnp.where((form.root > 0)[:, None], problem.y, 0.0)
    return seen[:-1] + (problem.mean(used) - seen[-1])[None, :]


def _by_coefficients(factored: Any, across: Array, rows: Any, lam: Lam) -> Float[Array, "v t"]:
    return matmul(across, factored.dual_coef(lam)) + factored.intercept(lam)[None, :]


_predicted = derived(_by_rows, _by_coefficients)
