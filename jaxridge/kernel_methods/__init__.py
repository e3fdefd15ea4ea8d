"""Kernel ridge regression: the verbs, the factors of a kernel matrix, and what does without one."""

from jaxridge.kernel_methods.banded import BandedKernelFit, kernel_ridge_banded, kernel_ridge_banded_cv
from jaxridge.kernel_methods.fit import KernelFit
from jaxridge.kernel_methods.inference import KernelInference, kernel_ridge_inference
from jaxridge.kernel_methods.iterative import Iterative
from jaxridge.kernel_methods.kernel_ridge import (
    kernel_ridge,
    kernel_ridge_ball,
    kernel_ridge_compare,
    kernel_ridge_cv,
    kernel_ridge_path,
    kernel_ridge_score,
)
from jaxridge.kernel_methods.machine import Machine
from jaxridge.kernel_methods.nystroem import Nystroem
from jaxridge.kernel_methods.posterior import Posterior, kernel_posterior
from jaxridge.kernel_methods.spectrum import Cholesky, Eigen, KernelSpectrum, Mixed, Tridiagonal, from_kernel
from jaxridge.kernel_methods.svm import svm, svm_cv, svm_path

__all__ = [
    "BandedKernelFit",
    "Cholesky",
    "Eigen",
    "Iterative",
    "KernelFit",
    "KernelInference",
    "KernelSpectrum",
    "Machine",
    "Mixed",
    "Nystroem",
    "Posterior",
    "Tridiagonal",
    "from_kernel",
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
    "svm",
    "svm_cv",
    "svm_path",
]
