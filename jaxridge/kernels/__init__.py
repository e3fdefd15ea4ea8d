"""Kernels, the features that stand for them, and products with the kernel matrix of many points."""

from jaxridge.kernels.base import (
    RBF,
    ArcCosine,
    Cosine,
    Kernel,
    Laplace,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Pairwise,
    Periodic,
    Polynomial,
    Precomputed,
    RationalQuadratic,
)

__all__ = [
    "RBF",
    "ArcCosine",
    "Cosine",
    "Kernel",
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
]
