"""Nonlinear least squares and smooth minimisation, and the parts that their solvers are made of."""

from jaxridge.optimize import losses
from jaxridge.optimize.batch import least_squares_batch
from jaxridge.optimize.least_squares import (
    LevenbergMarquardt,
    Solution,
    TrustRegion,
    cholesky,
    dogleg,
    exact,
    full_hessian,
    gauss_newton,
    least_squares,
    least_squares_path,
    minimize,
    products,
    qr,
    steihaug,
)
from jaxridge.optimize.linearised import Linearised, linearised
from jaxridge.optimize.trust_region import Subproblem, trust_region_subproblem
from jaxridge.optimize.tune import Tuned, tune
from jaxridge.optimize.uncertainty import Uncertainty, uncertainty

__all__ = [
    "LevenbergMarquardt",
    "Linearised",
    "Solution",
    "Subproblem",
    "TrustRegion",
    "Tuned",
    "Uncertainty",
    "cholesky",
    "dogleg",
    "exact",
    "full_hessian",
    "gauss_newton",
    "least_squares",
    "least_squares_batch",
    "least_squares_path",
    "linearised",
    "losses",
    "minimize",
    "products",
    "qr",
    "steihaug",
    "trust_region_subproblem",
    "tune",
    "uncertainty",
]
