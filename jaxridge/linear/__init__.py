"""Ridge regression on a matrix of features: the verbs, the factorisations behind them, and rows that stream."""

from jaxridge.linear import design, filters, margins, risk, searches, spectrum, stream
from jaxridge.linear.banded import BandedFit, ridge_banded, ridge_banded_cv
from jaxridge.linear.bayes import RidgePosterior, ridge_posterior
from jaxridge.linear.fit import Fit
from jaxridge.linear.inference import Inference, ridge_inference
from jaxridge.linear.positive import ridge_positive
from jaxridge.linear.ridge import ridge, ridge_ball, ridge_compare, ridge_cv, ridge_fraction, ridge_path, ridge_score
from jaxridge.linear.risk import RidgeRisk, ridge_risk
from jaxridge.linear.shards import OnMesh
from jaxridge.linear.sparse import lasso, lasso_ball, lasso_cv, lasso_path
from jaxridge.linear.spectrum import Spectrum

__all__ = [
    "BandedFit",
    "Fit",
    "Inference",
    "OnMesh",
    "RidgePosterior",
    "RidgeRisk",
    "Spectrum",
    "design",
    "filters",
    "lasso",
    "lasso_ball",
    "lasso_cv",
    "lasso_path",
    "margins",
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
    "risk",
    "searches",
    "spectrum",
    "stream",
]
