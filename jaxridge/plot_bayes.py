"""Pictures of what is known and what is not: the risk along a path, a posterior's band, the weight of bands."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxridge.linear import BandedFit, RidgePosterior, RidgeRisk
from jaxridge.plot import COLOURS

__all__ = ["bands", "credible", "risk"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def risk(model: RidgeRisk, ax: "Axes", *, simulated: Any = None, of: str = "coefficients") -> "Axes":
    """Bias², variance and their sum against λ, with the λ of the least sum, and what a simulation measured.

    Args:
        model: what `jaxridge.ridge_risk` returned, for one target.
        ax: the matplotlib Axes to draw on; it is returned.
        simulated: what ``risk.simulated_risk`` returned for the same λs, drawn as a band of two standard errors.
        of: ``"coefficients"`` or ``"predictions"``.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot_bayes
    >>> from matplotlib.figure import Figure
    >>> model = jxr.ridge_risk(jnp.eye(3), jnp.ones(3), 1.0, jnp.logspace(-1, 2, 9), intercept=False)
    >>> ax = plot_bayes.risk(model, Figure().subplots())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['bias²', 'variance', 'risk', 'least at λ = 1']
    """
    if not isinstance(model, RidgeRisk) or model.bias2.ndim != 1:
        raise ValueError("model must be what ridge_risk returned for one column of coefficients.")
    rows = {
        "coefficients": ("", "mse", "coef_lam"),
        "predictions": ("prediction_", "prediction_risk", "prediction_lam"),
    }
    if of not in rows:
        raise ValueError(f"of is {of!r}; pass 'coefficients' or 'predictions'.")
    prefix, total, best = rows[of]
    lams = np.asarray(model.lams)
    shown = (lams > 0) & np.isfinite(lams)
    order = np.argsort(lams[shown])
    take = lambda x: np.asarray(x)[shown][order]  # noqa: E731
    curves = {"bias²": f"{prefix}bias2", "variance": f"{prefix}variance", "risk": total}
    for (name, field), colour in zip(curves.items(), COLOURS, strict=False):
        width = 2.2 if name == "risk" else 1.4
        ax.plot(take(lams), take(getattr(model, field)), color=colour, linewidth=width, label=name)
    if simulated is not None:
        mean, error = (simulated.mse, simulated.mse_error) if of == "coefficients" else simulated[2:]
        low, high = take(mean - 2 * error), take(mean + 2 * error)
        ax.fill_between(take(lams), low, high, color=COLOURS[2], alpha=0.3, linewidth=0, label="measured, ± 2 errors")
    lam = float(getattr(model, best))
    if 0 < lam < np.inf:
        ax.axvline(lam, color="0.4", linestyle=":", linewidth=1.2, label=f"least at λ = {lam:.3g}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("λ")
    ax.set_ylabel(f"expected squared error of {of}")
    ax.legend()
    return ax


def credible(
    posterior: RidgePosterior, features: Any, x: Any, ax: "Axes", *, level: float = 0.9, samples: Any = None
) -> "Axes":
    """The mean of a function of one variable, where it lies and where new measurements lie, and draws of it.

    Args:
        posterior: what `jaxridge.ridge_posterior` returned, for one target.
        features: (m, d) rows at the points x (m,).
        ax: the matplotlib Axes to draw on; it is returned.
        level: of both bands. samples: (count, m) draws, ``posterior.sample_predictions(features, key, count)``.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot_bayes
    >>> from matplotlib.figure import Figure
    >>> x = jnp.linspace(0.0, 1.0, 8)
    >>> posterior = jxr.ridge_posterior(x[:, None], jnp.sin(6 * x))
    >>> ax = plot_bayes.credible(posterior, x[:, None], x, Figure().subplots())
    >>> len(ax.collections), len(ax.lines)
    (2, 1)
    """
    if not isinstance(posterior, RidgePosterior) or posterior.coef.ndim != 1:
        raise ValueError("posterior must be what ridge_posterior returned for one column of y.")
    x = np.asarray(x)
    order = np.argsort(x)
    mean, low, high = (np.asarray(part)[order] for part in posterior.credible(features, level))
    _, below, above = (np.asarray(part)[order] for part in posterior.prediction(features, level))
    ax.fill_between(
        x[order], below, above, color=COLOURS[0], alpha=0.12, linewidth=0, label=f"a measurement, {level:.0%}"
    )
    ax.fill_between(x[order], low, high, color=COLOURS[0], alpha=0.3, linewidth=0, label=f"the function, {level:.0%}")
    for draw in () if samples is None else np.asarray(samples):
        ax.plot(x[order], draw[order], color="0.35", linewidth=0.6, alpha=0.6)
    ax.plot(x[order], mean, color=COLOURS[0], linewidth=2.0, label="mean")
    ax.legend()
    return ax


def bands(fit: BandedFit, X: Any, y: Any, ax: "Axes", *, names: Any = None) -> "Axes":
    """What each band adds to R², a bar for each target in parts: bands that are off add nothing.

    Args:
        fit: what `jaxridge.ridge_banded_cv` returned. X, y: rows to score, such as held-out ones.
        ax: the matplotlib Axes to draw on; it is returned. names: of the bands; None takes their labels.

    >>> import jax, jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot_bayes
    >>> from matplotlib.figure import Figure
    >>> X = jax.random.normal(jax.random.key(0), (30, 4))
    >>> fit = jxr.ridge_banded(X, X[:, 0], [0.1, 1.0], groups=["a", "a", "b", "b"])
    >>> ax = plot_bayes.bands(fit, X, X[:, 0], Figure().subplots())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['a', 'b']
    """
    if not isinstance(fit, BandedFit):
        raise ValueError("fit must be what ridge_banded or ridge_banded_cv returned.")
    parts = np.asarray(fit.score_bands(X, y))
    parts = parts.reshape(parts.shape[0], -1)
    names = fit.bands.labels if names is None else names
    above, below, place = np.zeros(parts.shape[1]), np.zeros(parts.shape[1]), np.arange(parts.shape[1])
    for g, (name, part) in enumerate(zip(names, parts, strict=True)):
        start = np.where(part >= 0, above, below)
        ax.bar(place, part, bottom=start, width=0.8, color=COLOURS[g % len(COLOURS)], label=str(name))
        above, below = above + np.maximum(part, 0.0), below + np.minimum(part, 0.0)
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.set_xlabel("target")
    ax.set_ylabel("R² by band")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(names), 4))
    return ax
