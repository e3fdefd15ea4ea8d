"""Pictures of shapes: the sphere beside the diamond, losses beside each other, margins between two classes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxridge.kernel_methods import Machine
from jaxridge.linear import lasso_ball, ridge, ridge_ball
from jaxridge.plot import COLOURS

__all__ = ["boundaries", "constraints", "losses"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", "-.", ":")
PLATE = {"frameon": True, "framealpha": 0.9, "edgecolor": "none", "fontsize": 9}  # names above lines


def constraints(X: Any, y: Any, radius: Any, ax: "Axes") -> "Axes":
    """The contours of two coefficients' loss, and where they touch a sphere and a diamond of one radius.

    The legend has the multiplier of each constraint, and names a coefficient that vanishes.

    Args:
        X: (n, 2) features. y: (n,) targets. radius: of both, ‖w‖ and ‖w‖₁, below those of least squares.
        ax: the matplotlib Axes to draw on; it is returned.

    >>> import jax.numpy as jnp
    >>> from jaxridge import plot_shapes
    >>> from matplotlib.figure import Figure
    >>> X, y = jnp.array([[1.0, 0.2], [0.0, 1.0], [-1.0, 0.5]]), jnp.array([2.0, 1.0, -1.0])
    >>> ax = plot_shapes.constraints(X, y, 0.5, Figure().subplots())
    >>> [text.get_text() for text in ax.get_legend().get_texts()][2]
    'diamond, λ = 4, column 1 is 0'
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    if X.ndim != 2 or X.shape[1] != 2:
        raise ValueError(f"X has shape {X.shape}; a picture of two coefficients needs (n, 2).")
    free, sphere, diamond = ridge(X, y, 0.0), ridge_ball(X, y, radius), lasso_ball(X, y, radius)
    best, radius = np.asarray(free.coef, float), float(radius)
    corners = np.array([[radius, 0], [0, radius], [-radius, 0], [0, -radius], [radius, 0]])
    angle = np.linspace(0.0, 2.0 * np.pi, 181)
    circle = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    centred = X - X.mean(axis=0)
    low = np.minimum(corners.min(axis=0), best) - 0.4 * radius
    high = np.maximum(corners.max(axis=0), best) + 0.4 * radius
    first, second = (np.linspace(low[j], high[j], 200) for j in range(2))
    away = np.stack(np.meshgrid(first, second), axis=-1) - best
    loss = np.sum(np.square(away @ centred.T), axis=-1)
    touched = [float(np.sum(np.square((np.asarray(fit.coef) - best) @ centred.T))) for fit in (sphere, diamond)]
    near, far = (max(float(np.quantile(loss, part)), 1e-12) for part in (0.05, 0.9))
    levels = np.unique(np.concatenate([touched, np.geomspace(near, far, 5)]))
    ax.contour(first, second, loss, levels=levels, colors="0.75", linewidths=0.8)
    ax.plot(*best, "k+", markersize=9, label="least squares")
    for (name, shape), fit, colour in zip(
        {"sphere": circle, "diamond": corners}.items(), (sphere, diamond), COLOURS, strict=False
    ):
        w = np.asarray(fit.coef, float)
        zero = [f"column {j} is 0" for j in range(2) if w[j] == 0.0]
        ax.plot(*shape.T, color=colour, linewidth=1.6)
        ax.plot(*w, "o", color=colour, label=", ".join([f"{name}, λ = {float(fit.lam):.3g}", *zero]))
    ax.axhline(0.0, color="0.85", linewidth=0.8, zorder=0)
    ax.axvline(0.0, color="0.85", linewidth=0.8, zorder=0)
    ax.set(xlabel="coefficient of column 0", ylabel="coefficient of column 1", aspect="equal")
    ax.legend(loc="lower right", **PLATE)
    return ax


def losses(ax: "Axes") -> "Axes":
    """Hinge, squared hinge and squared loss of a label against y f: which of them a far point moves.

    >>> from jaxridge import plot_shapes
    >>> from matplotlib.figure import Figure
    >>> len(plot_shapes.losses(Figure().subplots()).lines)
    4
    """
    yf = np.linspace(-2.0, 3.0, 301)
    short = np.maximum(1.0 - yf, 0.0)
    shapes = {"hinge": short, "squared hinge": short**2, "squared": (1.0 - yf) ** 2, "error": 1.0 * (yf < 0)}
    for (name, values), colour, style in zip(shapes.items(), (*COLOURS[:3], "0.6"), STYLES, strict=True):
        ax.plot(yf, values, color=colour, linestyle=style, linewidth=1.8, label=name)
    ax.set(xlabel="y f", ylabel="loss", ylim=(-0.1, 5.0))
    ax.legend()
    return ax


def boundaries(models: Mapping[str, Any], X: Any, y: Any, ax: "Axes") -> "Axes":
    """Where models of two features change their mind, f = 0, with f = ±1 in pale lines and the support of machines.

    Args:
        models: by name, what `jaxridge.svm` or `jaxridge.ridge` returned. X: (n, 2). y: (n,) labels of ±1.
        ax: the matplotlib Axes to draw on; it is returned.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot_shapes
    >>> from matplotlib.figure import Figure
    >>> X, y = jnp.array([[0.0, 0.0], [1.0, 0.2], [0.2, 1.0], [2.0, 2.0]]), jnp.array([-1.0, 1.0, -1.0, 1.0])
    >>> ax = plot_shapes.boundaries({"hinge": jxr.svm(X, y, 0.1)}, X, y, Figure().subplots())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['hinge']
    """
    from matplotlib.lines import Line2D

    X, y = np.asarray(X, float), np.asarray(y, float)
    if X.ndim != 2 or X.shape[1] != 2:
        raise ValueError(f"X has shape {X.shape}; a picture of two features needs (n, 2).")
    span = np.ptp(X, axis=0)
    low, high = X.min(axis=0) - 0.1 * span, X.max(axis=0) + 0.1 * span
    first, second = (np.linspace(low[j], high[j], 150) for j in range(2))
    points = np.stack(np.meshgrid(first, second), axis=-1)
    for label, marker, colour in ((-1.0, "s", "0.75"), (1.0, "o", "0.35")):
        ax.plot(*X[y == label].T, marker, color=colour, markersize=4, zorder=1)
    handles = []
    for i, (name, model) in enumerate(models.items()):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]
        value = model.decision_function if isinstance(model, Machine) else model.predict
        f = np.asarray(value(points.reshape(-1, 2))).reshape(points.shape[:2])
        ax.contour(first, second, f, levels=[0.0], colors=colour, linestyles=style, linewidths=1.8)
        ax.contour(first, second, f, levels=[-1.0, 1.0], colors=colour, linestyles=style, linewidths=0.8, alpha=0.6)
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.8, label=name))
        if isinstance(model, Machine):
            on = np.asarray(model.support)
            ring = {"markersize": 8 + 3 * i, "markerfacecolor": "none", "markeredgecolor": colour}
            ax.plot(*X[on].T, "o", markeredgewidth=0.8, zorder=2, **ring)
    ax.set(xlabel="feature 0", ylabel="feature 1")
    ax.legend(handles=handles, **PLATE)
    return ax
