"""Inverse problems: Tikhonov regularisation in general form, by matrices, transforms or products alone."""

from jaxridge.inverse import testproblems
from jaxridge.inverse.analysis import (
    Picard,
    TruncatedPath,
    covariance,
    filter_factors,
    picard,
    resolution,
    tsvd,
)
from jaxridge.inverse.compare import Comparison, compare
from jaxridge.inverse.diagonal import DiagonalSpectrum, from_diagonal
from jaxridge.inverse.fit import TikhonovFit
from jaxridge.inverse.problem import Options
from jaxridge.inverse.products import ByProducts
from jaxridge.inverse.solvers import Diagonal, Direct, GolubKahan, PerLam
from jaxridge.inverse.tikhonov import tikhonov, tikhonov_ball, tikhonov_cv, tikhonov_path, tikhonov_residual

__all__ = [
    "ByProducts",
    "Comparison",
    "Diagonal",
    "DiagonalSpectrum",
    "Direct",
    "GolubKahan",
    "Options",
    "PerLam",
    "Picard",
    "TikhonovFit",
    "TruncatedPath",
    "compare",
    "covariance",
    "filter_factors",
    "from_diagonal",
    "picard",
    "resolution",
    "testproblems",
    "tikhonov",
    "tikhonov_ball",
    "tikhonov_cv",
    "tikhonov_path",
    "tikhonov_residual",
    "tsvd",
]
