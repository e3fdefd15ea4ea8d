"""L2-regularised least squares in JAX: every lambda from one factorisation, differentiable."""

from jaxridge import inverse, kernels, operators, select
from jaxridge.core import plan
from jaxridge.core.results import RESULTS
from jaxridge.inverse import (
    Diagonal,
    Direct,
    GolubKahan,
    PerLam,
    testproblems,
    tikhonov,
    tikhonov_ball,
    tikhonov_cv,
    tikhonov_path,
    tikhonov_residual,
    tsvd,
)
from jaxridge.kernel_methods.kernel_ridge import (
    KernelFit,
    KernelPath,
    Posterior,
    kernel_posterior,
    kernel_ridge,
    kernel_ridge_cv,
    kernel_ridge_path,
    kernel_ridge_score,
)
from jaxridge.kernel_methods.large import Iterative, Nystroem
from jaxridge.kernels import features
from jaxridge.linalg import conjugate_gradients as krylov
from jaxridge.linalg import golub_kahan
from jaxridge.linear import design, spectrum, stream
from jaxridge.linear.ridge import Choice, Fit, Path, ridge, ridge_ball, ridge_cv, ridge_fraction, ridge_path
from jaxridge.linear.spectrum import Spectrum
from jaxridge.optimize import least_squares as nonlinear
from jaxridge.optimize import losses
from jaxridge.optimize.batch import least_squares_batch
from jaxridge.optimize.least_squares import (
    LevenbergMarquardt,
    Solution,
    TrustRegion,
    least_squares,
    least_squares_path,
    minimize,
)
from jaxridge.optimize.trust_region import Subproblem, trust_region_subproblem

__all__ = [
    "RESULTS",
    "Choice",
    "Diagonal",
    "Direct",
    "Fit",
    "GolubKahan",
    "Iterative",
    "KernelFit",
    "KernelPath",
    "LevenbergMarquardt",
    "Nystroem",
    "Path",
    "PerLam",
    "Posterior",
    "Solution",
    "Spectrum",
    "Subproblem",
    "TrustRegion",
    "design",
    "features",
    "golub_kahan",
    "inverse",
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
    "testproblems",
    "tikhonov",
    "tikhonov_ball",
    "tikhonov_cv",
    "tikhonov_path",
    "tikhonov_residual",
    "trust_region_subproblem",
    "tsvd",
]
