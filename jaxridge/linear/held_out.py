"""Cross-validation folds of streamed rows: each fold is predicted by the sums of all others, from one pass.

Of a fold the triangle R of √ω [1 X−m Y−m] is known, and with it the loss of any coefficients on its rows,
Σω(y − b − x·w)² = ‖R v‖² for v = [m_Y − b − m·w, −w, 1].
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float, Lam
from jaxridge.linear.accumulator import Rows, complements, finish, parts, triangle
from jaxridge.linear.spectrum import Spectrum

__all__ = ["HeldOut", "held_out"]


class HeldOut(eqx.Module):
    """Mean squared error of each fold's rows under the fit to all others; a rule, see `held_out`."""

    fits: Spectrum  # of all folds but one, with an axis of folds in front
    triangles: Float[Array, "f a p"]
    beyond: Float[Array, "f t"]
    shift: Float[Array, "f b"]
    total: Float[Array, " f"]  # Σω

    leverages: ClassVar[bool] = False

    def __call__(self, problem: Any, factored: Any, lam: Lam) -> Float[Array, " t"]:
        return self.with_spread(problem, factored, lam)[0]

    def with_spread(self, problem: Any, factored: Any, lam: Lam) -> tuple[Array, Array]:
        """The mean over folds, and its standard error."""
        losses = self.losses(lam)
        return jnp.mean(losses, axis=0), jnp.std(losses, axis=0, ddof=1) / jnp.sqrt(losses.shape[0])

    def losses(self, lam: Lam) -> Float[Array, "f t"]:
        """Weighted mean squared error of each fold."""
        single = self.fits.problem.terms.single

        def one(fit: Spectrum, R: Array, beyond: Array, shift: Array, total: Array) -> Array:
            coef, intercept = fit.problem.split(fit.coef(lam))
            coef, intercept = (coef[:, None], intercept[None]) if single else (coef, intercept)
            d = coef.shape[0]
            mean = shift[d:] - intercept - matmul(shift[:d], coef)
            r = R[:, 1 + d :] + matmul(R[:, :1], mean[None, :]) - matmul(R[:, 1 : 1 + d], coef)
            return (jnp.sum(jnp.square(r), axis=0) + beyond) / total

        return jax.vmap(one)(self.fits, self.triangles, self.beyond, self.shift, self.total)


def held_out(rows: Rows, penalty: Array | None = None, **terms: Any) -> HeldOut:
    """k-fold cross-validation of streamed rows, as a rule for any search over λ; from no more than their sums.

    Args are those of `stream.finish`; ``penalty`` holds for every fold, with the variances of all rows in it where
    columns are standardised.
    Equals ``select.kfold(labels=arange(n) % folds)`` on all rows at once.
    """
    each = parts(rows)
    fits = jax.vmap(lambda rows: finish(rows, penalty, **terms))(complements(rows))
    R, beyond = jax.vmap(triangle)(each)
    total = jnp.square(R[:, 0, 0])
    return HeldOut(fits, R, beyond, each.shift.astype(R.dtype), total)
