"""What is known of ridge coefficients: standard errors, intervals, bias, and the figures of a regression table.

The estimator is linear in y, ŵ = C √ωy with C = T diag(g), g = s/(s² + λ'β) (letters of `spectrum`), so for errors of
variance σ²/ωᵢ

    Cov ŵ = σ² C Cᵀ          E ŵ − w = −λ (XᵀωX + λP)⁻¹ P w          σ̂² = rss/(n − dof).

Intervals are those of E ŵ, the shrunken coefficients: ridge trades bias for variance, and no interval of this kind
covers w itself unless λ = 0. ``bias`` is what the formula gives with ŵ in the place of w.
"""

import dataclasses
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core.checks import as_lam, names_of
from jaxridge.core.factored import Solver, as_solver
from jaxridge.core.implicit import without_derivatives
from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.report import Record, table
from jaxridge.core.results import messages
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.core.verbs import verb
from jaxridge.linear.carrier import complement, damping_of
from jaxridge.linear.design import Data, Design, Options, Terms, checked, design_of
from jaxridge.linear.fit import in_order, predict
from jaxridge.linear.spectrum import Spectrum, from_design
from jaxridge.optimize.uncertainty import student
from jaxridge.select.information import rows_of_figures

__all__ = ["Inference", "ridge_inference"]


NO_DERIVATIVES = (
    "ridge_inference has no derivatives: use jaxridge.ridge for those of coefficients, jaxridge.ridge_score for "
    "those of a criterion."
)


class Inference(Record):
    """Coefficients (d,) or (d, t) with their errors, and the figures of the fit, () or (t,).

    ``standard_error`` and ``bias`` as ``coef``; ``sigma`` σ̂, ``dof``, ``residual_dof`` n − dof, ``r2``, ``rmse``,
    ``adjusted_r2``, ``aic``, ``bic``, ``result``. Printing it gives the table.
    """

    coef: Float[Array, "d *t"]
    standard_error: Float[Array, "d *t"]
    bias: Float[Array, "d *t"]
    intercept: Float[Array, "*t"]
    intercept_error: Float[Array, "*t"]
    lam: Scalar
    sigma: Float[Array, "*t"]
    dof: Scalar
    residual_dof: Scalar
    r2: Float[Array, "*t"]
    adjusted_r2: Float[Array, "*t"]
    rmse: Float[Array, "*t"]
    aic: Float[Array, "*t"]
    bic: Float[Array, "*t"]
    result: Any
    root: Float[Array, "a m"] = eqx.field(repr=False)  # C, the intercept in its last row
    names: tuple[str, ...] | None = eqx.field(static=True, repr=False, default=None)

    def covariance(self) -> Float[Array, "*t d d"]:
        """σ̂² C Cᵀ of the coefficients, (d, d) or (t, d, d)."""
        C = self.root[:-1]
        return jnp.multiply.outer(jnp.square(self.sigma), matmul(C, C.T))

    def interval(self, level: float = 0.95) -> tuple[Float[Array, "d *t"], Float[Array, "d *t"]]:
        """Ends of the interval of each E ŵⱼ, by Student's t with n − dof degrees of freedom."""
        half = student(level, self.residual_dof) * self.standard_error
        return self.coef - half, self.coef + half

    def confidence(self, X: Any, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Predictions for new rows, and the band of their mean: (n,) or (n, t) each."""
        return self._band(X, level, 0.0)

    def prediction(self, X: Any, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Predictions for new rows, and the band of a new measurement of weight 1 there."""
        return self._band(X, level, 1.0)

    def _band(self, X: Any, level: float, more: float) -> tuple[Array, Array, Array]:
        X = in_order("X", X, self.names)
        centre = predict("X", X, self.coef, self.intercept)
        rows = matmul(X.astype(self.root.dtype), self.root[:-1]) + self.root[-1:]
        spread = jnp.sqrt(jnp.sum(jnp.square(rows), axis=1) + more)
        half = student(level, self.residual_dof) * jnp.multiply.outer(spread, self.sigma)
        return centre, centre - half, centre + half

    def summary(self, level: float = 0.95) -> str:
        """The table of one target: a line for each coefficient, and the figures of the fit below."""
        if self.coef.ndim > 1:
            raise ValueError("summary prints one target; call ridge_inference on one column of y.")
        names = self.names or tuple(f"x{j}" for j in range(self.coef.shape[0]))
        t = student(level, self.residual_dof)
        rows: list[tuple[Any, ...]] = [("intercept", self.intercept, self.intercept_error, None)]
        rows += list(zip(names, self.coef, self.standard_error, self.bias, strict=True))
        head = ("", "coef", "std err", f"[{(1 - level) / 2:.3g}", f"{(1 + level) / 2:.3g}]", "bias")
        lines = [(name, w, error, w - t * error, w + t * error, bias) for name, w, error, bias in rows]
        figures = [("lam", self.lam), *rows_of_figures(self)]
        return "\n".join([table(head, lines), "", table(("", ""), figures), *messages(self.result)])

    def __str__(self) -> str:
        return self.summary() if self.coef.ndim == 1 else repr(self)


@verb(checked)
def ridge_inference(X: Any, y: Any, lam: Any, *, solver: Solver = from_design, **problem: Unpack[Options]) -> Inference:
    """Ridge regression at one λ with standard errors, intervals and the figures of a regression table.

    Args: those of `jaxridge.ridge`, with one λ for all targets; ``solver`` is ``spectrum.from_design`` or
    ``spectrum.from_gram``. Weights are precisions: the variance of row i is σ²/ωᵢ.

    Returns an `Inference`, whose ``summary()`` is the table. Columns of a data frame give their names to it.
    At λ = 0 it equals ``statsmodels.OLS``/``WLS``: ``params bse conf_int() rsquared aic bic``. λ is taken as given: one
    that was chosen on the same data makes intervals shorter than they say. Derivatives raise ValueError.
    Hoerl and Kennard (1970), section 3.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.arange(6.0)[:, None]
    >>> found = jxr.ridge_inference(x, jnp.array([1.0, 2.9, 5.2, 7.1, 8.8, 11.0]), 1.0)
    >>> print(found.coef.round(3), found.standard_error.round(3))
    [1.881] [0.062]
    """
    data, terms = checked(X, y, **problem)
    lam = as_lam(lam, data.y, terms.single)
    if lam.ndim:
        raise ValueError("lam has one number for each target; call ridge_inference for one target at a time.")
    found = _inference(data, lam, terms, as_solver(solver, Design, "spectrum.from_design or spectrum.from_gram"))
    return dataclasses.replace(found, names=names_of(X))


@partial(jax.jit, static_argnames="terms")
def _inference(data: Data, lam: Scalar, terms: Terms, solver: Solver) -> Inference:
    data, lam = without_derivatives((data, lam), NO_DERIVATIVES)
    problem = design_of(data, terms)
    factored = solver.factor(problem)
    if not isinstance(factored, Spectrum):
        raise ValueError("solver has no spectrum for standard errors; pass spectrum.from_design or spectrum.from_gram.")
    factor = factored.factor
    damping = damping_of(factor, lam[None])
    gain = safe_divide(factor.s[:, None], jnp.square(factor.s)[:, None] + damping)
    C = factor.T * gain.T
    # By w = T(gz): what the fit takes off each direction of itself.
    bias = -factor.times(complement(factor, damping) * gain * factor.z) * factor.y_scale[None, :]
    in_order = dataclasses.replace(problem, terms=problem.terms._replace(single=False))
    root = jnp.concatenate([part if part.ndim == 2 else part[None] for part in in_order.split(C)])
    fit, figures = factored.fit(lam), select.figures(factored, lam)
    errors = jnp.multiply.outer(jnp.sqrt(jnp.sum(jnp.square(root), axis=1)), figures["sigma"])
    return Inference(
        coef=fit.coef,
        standard_error=errors[:-1],
        bias=problem.split(bias)[0],
        intercept=fit.intercept,
        intercept_error=errors[-1] if terms.intercept else jnp.zeros_like(errors[-1]),
        lam=lam,
        result=fit.result,
        root=root,
        **figures,
    )
