"""Cross-validation of kernel ridge: the kernel matrix of each fold's training points, factored once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core import plan
from jaxridge.core.implicit import attach, one_by_one
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float, Int, Lam
from jaxridge.kernel_methods.factor import Factor
from jaxridge.kernel_methods.form import KernelDesign, KernelForm
from jaxridge.kernel_methods.spectrum import KernelSpectrum, from_kernel, from_kernel_tridiagonal
from jaxridge.linear.folds import Partition, mean_losses, take_rows


class KernelFolds(eqx.Module):
    """For each fold the frozen factor of its training points, with their targets in its coordinates."""

    partition: Partition
    form: KernelForm
    factor: Factor
    z: Float[Array, "f p t"]
    rows: Float[Array, "f m p"] | None  # see `_rows`


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
    # Heuristic: with 16 λ and more, so many targets cost more on their way back than the rows held out do.
    many = 16 * still.y.shape[1] > partition.test.shape[1]
    factor = from_kernel if plan.spectral(jax.default_backend()) == "eigen" else from_kernel_tridiagonal

    def one(fold: tuple[Array, Array]) -> tuple[KernelForm, Factor, Array, Array | None]:
        part = _training(still, partition, fold[0])
        made = factor(part.K, part.y, weights=part.weights, intercept=part.terms.intercept)
        return made.form, made.factor, made.z, _rows(made, _across(still, fold)) if many else None

    return KernelFolds(partition, *jax.lax.map(one, (partition.train, partition.test)))


def _across(design: KernelDesign, fold: tuple[Array, Array]) -> Float[Array, "v p"]:
    """The kernel between the points held out and the others."""
    train, test = fold
    return take_rows(take_rows(design.K, test).T, train).T


def _rows(spectrum: KernelSpectrum, across: Float[Array, "v n"]) -> Float[Array, "m p"]:
    """What takes (T + μ)⁻¹z to Kα at the points held out, and in a last row to Σω(Kα)/Σω if there is an intercept."""
    form, factor = spectrum.form, spectrum.factor
    rows = across * (form.root / form.scale)[None, :]
    if spectrum.design.terms.intercept:
        rows = jnp.concatenate([rows, (form.across / jnp.linalg.norm(form.root))[None, :]])
    return factor.coordinates(form, rows.T).T


def _by_rows(spectrum: KernelSpectrum, across: Array, rows: Float[Array, "m p"], lam: Lam) -> Float[Array, "v t"]:
    form, design = spectrum.form, spectrum.design
    seen = matmul(rows, spectrum.factor.within(form.mu(lam), spectrum.z))
    if not design.terms.intercept:
        return seen
    used = jnp.where((form.root > 0)[:, None], design.y, 0.0)
    return seen[:-1] + (design.mean(used) - seen[-1])[None, :]


def _by_coefficients(spectrum: KernelSpectrum, across: Array, rows: Any, lam: Lam) -> Float[Array, "v t"]:
    return matmul(across, spectrum.dual_coef(lam)) + spectrum.intercept(lam)[None, :]


_predicted = attach(_by_rows, _by_coefficients)


def kernel_held_out(
    folds: KernelFolds, design: KernelDesign, lam: Lam, loss: Callable[[Array], Array]
) -> Float[Array, "f t"]:
    """Mean held-out loss of each fold at λ."""
    weights = jnp.ones(design.K.shape[0], design.K.dtype) if design.weights is None else design.weights

    def one(each: Any) -> Array:
        fold, form, factor, z, rows = each
        spectrum = KernelSpectrum(_training(design, folds.partition, fold[0]), form, factor, z)
        predict = _by_coefficients if rows is None else _predicted
        predicted = predict(spectrum, _across(design, fold), rows, lam)
        return mean_losses(take_rows(design.y, fold[1]) - predicted, take_rows(weights, fold[1]), loss)

    fold = folds.partition.train, folds.partition.test
    return one_by_one(one, (fold, folds.form, folds.factor, folds.z, folds.rows))
