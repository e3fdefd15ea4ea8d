"""L2-regularised least squares in JAX: every lambda from one factorisation, differentiable."""

import importlib as _importlib
from typing import Any as _Any

from jaxridge import inverse, kernel_methods, kernels, linalg, linear, operators, optimize, select, training
from jaxridge.core import plan
from jaxridge.core.archive import load, save
from jaxridge.core.archive import register as _register
from jaxridge.core.results import RESULTS
from jaxridge.core.words import NAMES as _NAMES
from jaxridge.inverse import (
    Diagonal,
    Direct,
    GolubKahan,
    PerLam,
    TikhonovFit,
    testproblems,
    tikhonov,
    tikhonov_ball,
    tikhonov_cv,
    tikhonov_path,
    tikhonov_residual,
    tsvd,
)
from jaxridge.kernel_methods import (
    BandedKernelFit,
    Iterative,
    KernelFit,
    KernelInference,
    Machine,
    Nystroem,
    Posterior,
    kernel_posterior,
    kernel_ridge,
    kernel_ridge_ball,
    kernel_ridge_banded,
    kernel_ridge_banded_cv,
    kernel_ridge_compare,
    kernel_ridge_cv,
    kernel_ridge_inference,
    kernel_ridge_path,
    kernel_ridge_score,
    svm,
    svm_cv,
    svm_path,
)
from jaxridge.kernels import features
from jaxridge.linear import (
    BandedFit,
    Fit,
    Inference,
    RidgePosterior,
    RidgeRisk,
    Spectrum,
    design,
    filters,
    lasso,
    lasso_ball,
    lasso_cv,
    lasso_path,
    margins,
    ridge,
    ridge_ball,
    ridge_banded,
    ridge_banded_cv,
    ridge_compare,
    ridge_cv,
    ridge_fraction,
    ridge_inference,
    ridge_path,
    ridge_positive,
    ridge_posterior,
    ridge_risk,
    ridge_score,
    risk,
    searches,
    spectrum,
    stream,
)
from jaxridge.optimize import (
    LevenbergMarquardt,
    Solution,
    Subproblem,
    TrustRegion,
    Tuned,
    least_squares,
    least_squares_batch,
    least_squares_path,
    losses,
    minimize,
    trust_region_subproblem,
    tune,
)
from jaxridge.select import Choice, Path

# Verbs and records. The namespaces beside them are the packages and modules imported above, by their own names.
__all__ = [
    "RESULTS",
    "BandedFit",
    "BandedKernelFit",
    "Choice",
    "Diagonal",
    "Direct",
    "Fit",
    "GolubKahan",
    "Inference",
    "Iterative",
    "KernelFit",
    "KernelInference",
    "LevenbergMarquardt",
    "Machine",
    "Nystroem",
    "Path",
    "PerLam",
    "Posterior",
    "RidgePosterior",
    "RidgeRisk",
    "Solution",
    "Spectrum",
    "Subproblem",
    "TikhonovFit",
    "TrustRegion",
    "Tuned",
    "kernel_posterior",
    "kernel_ridge",
    "kernel_ridge_ball",
    "kernel_ridge_banded",
    "kernel_ridge_banded_cv",
    "kernel_ridge_compare",
    "kernel_ridge_cv",
    "kernel_ridge_inference",
    "kernel_ridge_path",
    "kernel_ridge_score",
    "lasso",
    "lasso_ball",
    "lasso_cv",
    "lasso_path",
    "least_squares",
    "least_squares_batch",
    "least_squares_path",
    "load",
    "minimize",
    "ridge",
    "ridge_ball",
    "ridge_banded",
    "ridge_banded_cv",
    "ridge_compare",
    "ridge_cv",
    "ridge_fraction",
    "ridge_inference",
    "ridge_path",
    "ridge_positive",
    "ridge_posterior",
    "ridge_risk",
    "ridge_score",
    "save",
    "svm",
    "svm_cv",
    "svm_path",
    "tikhonov",
    "tikhonov_ball",
    "tikhonov_cv",
    "tikhonov_path",
    "tikhonov_residual",
    "trust_region_subproblem",
    "tsvd",
    "tune",
]

_register()


def __getattr__(name: str) -> _Any:
    """`jaxridge.plot`, which is imported when it is asked for; of another library's name what to write instead."""
    if name in ("plot", "distributed"):
        return _importlib.import_module(f"jaxridge.{name}")
    cure = f": write {_NAMES[name]}." if name in _NAMES else ""
    raise AttributeError(f"jaxridge has no {name!r}{cure}")
