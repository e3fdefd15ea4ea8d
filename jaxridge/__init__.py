"""L2-regularised least squares in JAX: every lambda from one factorisation, differentiable."""

from jaxridge import design, plan, select, spectrum
from jaxridge._result import RESULTS
from jaxridge.ridge import Choice, Fit, Path, ridge, ridge_ball, ridge_cv, ridge_fraction, ridge_path
from jaxridge.spectrum import Spectrum

__all__ = [
    "RESULTS",
    "Choice",
    "Fit",
    "Path",
    "Spectrum",
    "design",
    "plan",
    "ridge",
    "ridge_ball",
    "ridge_cv",
    "ridge_fraction",
    "ridge_path",
    "select",
    "spectrum",
]
