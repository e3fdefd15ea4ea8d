"""Kernels, the features that stand for them, and products with the kernel matrix of many points."""

from jaxridge.kernels import features
from jaxridge.kernels.base import Kernel, Pairwise, Precomputed
from jaxridge.kernels.dot_product import ArcCosine, Cosine, Linear, Polynomial
from jaxridge.kernels.product import KernelProduct
from jaxridge.kernels.stationary import RBF, Laplace, Matern12, Matern32, Matern52, Periodic, RationalQuadratic

__all__ = [
    "RBF",
    "ArcCosine",
    "Cosine",
    "Kernel",
    "KernelProduct",
    "Laplace",
    "Linear",
    "Matern12",
    "Matern32",
    "Matern52",
    "Pairwise",
    "Periodic",
    "Polynomial",
    "Precomputed",
    "RationalQuadratic",
    "features",
]
