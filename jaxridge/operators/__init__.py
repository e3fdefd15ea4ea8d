"""Linear operators of inverse problems: blur, differences, Radon transform, travel times, sampling, on lineax.

An operator maps one real array to another, images stay images, and knows its exact adjoint:

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> A = operators.subsample((4, 4), (slice(0, 4, 2), 0)) @ operators.gaussian_blur((4, 4), 1.0)
    >>> A.mv(jnp.ones((4, 4))).shape, A.T.mv(jnp.ones(2)).shape
    ((2,), (4, 4))

Each is a `lineax.AbstractLinearOperator`, so that sums, products, multiples and ``lineax.linear_solve`` work. Numbers
that a model is fitted with (the width of a blur, the entries of its kernel) are leaves: products are differentiable
in them and in the vector, to every order. An operator computes in the dtype of the vector that it is given.
"""

from jaxridge.operators.base import Operator, Transpose, check_adjoint
from jaxridge.operators.blur import (
    Blur,
    Diagonalised,
    GaussianBlur,
    Separable,
    blur,
    diagonalised,
    gaussian_blur,
    separated,
)
from jaxridge.operators.difference import Difference, difference
from jaxridge.operators.rays import Radon, Rays, line_integrals, radon, travel_time
from jaxridge.operators.sample import Subsample, function, subsample
from jaxridge.operators.sparse import Sparse, is_sparse, sparse

__all__ = [
    "Blur",
    "Diagonalised",
    "Difference",
    "GaussianBlur",
    "Operator",
    "Radon",
    "Rays",
    "Separable",
    "Sparse",
    "Subsample",
    "Transpose",
    "blur",
    "check_adjoint",
    "diagonalised",
    "difference",
    "function",
    "gaussian_blur",
    "is_sparse",
    "line_integrals",
    "radon",
    "separated",
    "sparse",
    "subsample",
    "travel_time",
]
