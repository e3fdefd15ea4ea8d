"""L2-regularised least squares in JAX: every lambda from one factorisation, differentiable."""

from jaxridge import design, features, kernels, krylov, losses, nonlinear, operators, plan, select, spectrum, stream
from jaxridge._batch import least_squares_batch
from jaxridge._large import Iterative, Nystroem
from jaxridge._result import RESULTS
from jaxridge.kernel_ridge import (
    KernelFit,
    KernelPath,
    Posterior,
    kernel_posterior,
    kernel_ridge,
    kernel_ridge_cv,
    kernel_ridge_path,
    kernel_ridge_score,
)
from jaxridge.nonlinear import LevenbergMarquardt, Solution, TrustRegion, least_squares, least_squares_path, minimize
from jaxridge.ridge import Choice, Fit, Path, ridge, ridge_ball, ridge_cv, ridge_fraction, ridge_path
from jaxridge.spectrum import Spectrum
from jaxridge.trust_region import Subproblem, trust_region_subproblem

__all__ = [
    "RESULTS",
    "Choice",
    "Fit",
    "Iterative",
    "KernelFit",
    "KernelPath",
    "LevenbergMarquardt",
    "Nystroem",
    "Path",
    "Posterior",
    "Solution",
    "Spectrum",
    "Subproblem",
    "TrustRegion",
    "design",
    "features",
    "kernel_posterior",
    "kernel_ridge",
    "kernel_ridge_cv",
    "kernel_ridge_path",
    "kernel_ridge_score",
    "kernels",
    "krylov",
    "least_squares",
    "least_squares_batch",
    "least_squares_path",
    "losses",
    "minimize",
    "nonlinear",
    "operators",
    "plan",
    "ridge",
    "ridge_ball",
    "ridge_cv",
    "ridge_fraction",
    "ridge_path",
    "select",
    "spectrum",
    "stream",
    "trust_region_subproblem",
]
