"""Choosing λ: rules that score it, the search over a grid, and the λ at which something has a given size."""

from jaxridge.select.assess import Assessment, assess
from jaxridge.select.choice import Choice, Path
from jaxridge.select.compare import Comparison, as_rules, comparison
from jaxridge.select.information import aic, aicc, bic, cp, figures
from jaxridge.select.noise import discrepancy, l_curve, predictive_risk, quasi_optimality
from jaxridge.select.partition import Partition, partition
from jaxridge.select.rules import (
    evidence,
    exact,
    gcv,
    holdout,
    kfold,
    leave_one_out,
    loo,
    marginal_likelihood,
    misclassification,
)
from jaxridge.select.search import (
    bind,
    choose,
    evaluate,
    lowest,
    needs_leverages,
    one_standard_error,
    search,
    with_code,
)

__all__ = [
    "Assessment",
    "Choice",
    "Comparison",
    "Partition",
    "Path",
    "aic",
    "aicc",
    "as_rules",
    "assess",
    "bic",
    "bind",
    "choose",
    "comparison",
    "cp",
    "discrepancy",
    "evaluate",
    "evidence",
    "exact",
    "figures",
    "gcv",
    "holdout",
    "kfold",
    "l_curve",
    "leave_one_out",
    "loo",
    "lowest",
    "marginal_likelihood",
    "misclassification",
    "needs_leverages",
    "one_standard_error",
    "partition",
    "predictive_risk",
    "quasi_optimality",
    "search",
    "with_code",
]
