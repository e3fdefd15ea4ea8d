"""Algorithms that know no problem: conjugate gradients, bidiagonalisation, pivoted Cholesky, one root finder."""

from jaxridge.linalg import conjugate_gradients, golub_kahan
from jaxridge.linalg.pivoted_cholesky import LowRank, Pivots, pivoted_cholesky

__all__ = ["LowRank", "Pivots", "conjugate_gradients", "golub_kahan", "pivoted_cholesky"]
