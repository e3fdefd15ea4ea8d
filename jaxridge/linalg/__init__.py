"""Algorithms that know no problem: conjugate gradients, bidiagonalisation, pivoted Cholesky, triangles on a mesh."""

from jaxridge.linalg import conjugate_gradients, golub_kahan, mesh
from jaxridge.linalg.pivoted_cholesky import LowRank, Pivots, pivoted_cholesky

__all__ = ["LowRank", "Pivots", "conjugate_gradients", "golub_kahan", "mesh", "pivoted_cholesky"]
