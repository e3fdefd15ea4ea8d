"""Early stopping as a filter: what k steps of gradient descent keep of each singular direction."""

from typing import Any

import jax.numpy as jnp

from jaxridge.core.types import Array, Float

__all__ = ["lam_of_stopping", "stopping_filter"]


def stopping_filter(s: Any, learning_rate: Any, steps: Any, scale: Any) -> Float[Array, "..."]:
    """f = 1 − (1 − 2κη s²)ᵏ: after k steps from w = 0 the coefficients are V (f/s) Uᵀy.

    Args:
        s: singular values of X. learning_rate: η. steps: k, any number ≥ 0.
        scale: κ in the loss κ‖Xw − y‖², such as 1/(2n) for ½ mean; see `lam_of`.

    Returns f in the shape of the arguments. It is Tikhonov's s²/(s² + λ) at λ = `lam_of_stopping` to first order in
    s², never the same: for small η s² the two are at most 0.2037 apart, at 2κηk s² = 2.51, where Tikhonov keeps less.
    NaN where 2κη s² ≥ 2, past stability. Yao, Rosasco and Caponnetto (2007), Constr. Approx. 26, 289.

    >>> from jaxridge.training import stopping_filter
    >>> print(f"{stopping_filter(2.0, 0.05, 10, 0.5):.3f} {stopping_filter(1.0, 0.05, 10, 0.5):.3f}")
    0.893 0.401
    """
    x = 2 * jnp.asarray(scale) * learning_rate * jnp.square(s)
    small = (x >= 0) & (x < 0.5)
    # log1p and expm1 keep the digits of a filter near 0; past a half the power itself does, whatever its sign.
    near = -jnp.expm1(steps * jnp.log1p(-jnp.where(small, x, 0.0)))
    far = 1 - jnp.where(small, 0.5, 1 - x) ** steps
    return jnp.where(small, near, jnp.where((x >= 0) & (x < 2), far, jnp.nan))


def lam_of_stopping(learning_rate: Any, steps: Any, scale: Any) -> Any:
    """λ = 1/(2κηk), the ridge whose filter begins like that of k steps; see `stopping_filter`.

    >>> from jaxridge.training import lam_of_stopping
    >>> print(f"{lam_of_stopping(0.05, 10, 0.5):.1f}")
    2.0
    """
    return 1 / (2 * scale * learning_rate * steps)
