"""Cross-validation of kernel ridge: the kernel matrix of each fold's training points, tridiagonalised once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge._folds import Partition, mean_losses, take_rows
from jaxridge._implicit import one_by_one
from jaxridge._kernel import KernelSpectrum, from_kernel_tridiagonal
from jaxridge._kernel_factor import Factor
from jaxridge._kernel_form import KernelDesign, KernelForm
from jaxridge._numerics import matmul
from jaxridge._types import Array, Float, Int, Lam


class KernelFolds(eqx.Module):
    """For each fold the frozen factor of its training points."""

    partition: Partition
    form: KernelForm
    factor: Factor


def _training(design: KernelDesign, partition: Partition, rows: Int[Array, " p"]) -> KernelDesign:
    """The live problem of some rows; where folds differ in length, what fills them up has weight 0."""
    K = take_rows(take_rows(design.K, rows).T, rows)
    weights = design.weights
    if partition.ragged and weights is None:
        weights = jnp.ones(design.K.shape[0], design.K.dtype)
    return KernelDesign(
        K, take_rows(design.y, rows), None if weights is None else take_rows(weights, rows), design.terms
    )


def kernel_fold_factors(spectrum: KernelSpectrum, partition: Partition) -> KernelFolds:
    """Factor every fold, for all λ."""
    still = jax.lax.stop_gradient(spectrum.design)

    def one(rows: Array) -> tuple[KernelForm, Factor]:
        part = _training(still, partition, rows)
        made = from_kernel_tridiagonal(part.K, part.y, weights=part.weights, intercept=part.terms.intercept)
        return made.form, made.factor

    return KernelFolds(partition, *jax.lax.map(one, partition.train))


def kernel_held_out(
    folds: KernelFolds, design: KernelDesign, lam: Lam, loss: Callable[[Array], Array]
) -> Float[Array, "f t"]:
    """Mean held-out loss of each fold at λ."""
    weights = jnp.ones(design.K.shape[0], design.K.dtype) if design.weights is None else design.weights

    def one(fold: Any) -> Array:
        train, test, form, factor = fold
        spectrum = KernelSpectrum(_training(design, folds.partition, train), form, factor)
        across = take_rows(take_rows(design.K, test).T, train).T
        predicted = matmul(across, spectrum.dual_coef(lam)) + spectrum.intercept(lam)[None, :]
        return mean_losses(take_rows(design.y, test) - predicted, take_rows(weights, test), loss)

    return one_by_one(one, (folds.partition.train, folds.partition.test, folds.form, folds.factor))
