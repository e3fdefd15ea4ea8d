"""Pictures of a ridge path or an inverse problem: a function draws a record on a matplotlib Axes and returns it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxridge import inverse
from jaxridge.core.verbs import verb
from jaxridge.linear.design import column_sd
from jaxridge.linear.fit import Fit
from jaxridge.plot_axis import FONT, finish, log_axis, mark_ends, name_starts
from jaxridge.select.choice import Choice, Path
from jaxridge.select.compare import Comparison

__all__ = ["COLOURS", "STYLE", "dof", "figure", "formats", "images", "l_curve", "path", "picard", "rules", "scores"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), Color Universal Design, without their yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
LABELLED = 10  # more names cannot be read beside one panel
ABREAST = 4  # more targets cannot be read beside each other
RANGE = 30  # the ratio beyond which scores stand on a log axis
MARKS = "osD^vP*"
STYLE = {
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "font.size": 10,
    "legend.frameon": False,
}


@verb()
def path(model: Path, ax: "Axes", *, names: Sequence[str] | None = None, lam: Any = None, target: int = 0) -> "Axes":
    """Coefficients against λ on a log axis, the largest ones by name.

    With ``standardize`` a coefficient is drawn times the standard deviation of its column, since units differ.

    Args:
        model: what `jaxridge.ridge_path` returned; λ = 0 and ∞ are marks at the ends of the axis.
        ax: the matplotlib Axes to draw on; it is returned.
        names: (d,) names of the columns; None numbers them.
        lam: a chosen λ to mark with a vertical line, or None.
        target: which column of y, where there are several.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot
    >>> from matplotlib.figure import Figure
    >>> model = jxr.ridge_path(jnp.eye(3), jnp.arange(3.0), [0.1, 1.0, 10.0])
    >>> ax = plot.path(model, Figure().subplots(), names=["a", "b", "c"], lam=1.0)
    >>> [text.get_text() for text in ax.texts]
    ['c', 'b', 'a']
    """
    _of_kind(model, Fit, "ridge_path")
    _on(ax)
    axis = log_axis(model.lams, target)
    design, every = model.factored.problem, np.asarray(model.coef)
    every = every if every.ndim == 2 else every[:, :, target]
    if design.terms.standardize:
        every = every * column_sd(design)[None, :]
    coef, lams = every[axis.order], axis.lams
    names = [f"column {j}" for j in range(coef.shape[1])] if names is None else names
    size = np.max(np.nan_to_num(np.abs(coef)), axis=0)
    ranked = np.argsort(-size, kind="stable").tolist()
    for j in ranked[LABELLED:]:
        ax.plot(lams, coef[:, j], color="0.82", linewidth=0.8, zorder=1)
    labels = []
    for i, j in enumerate(ranked[:LABELLED]):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
        ax.plot(lams, coef[:, j], color=colour, linestyle=style, linewidth=1.8, zorder=3)
        mark_ends(ax, axis, every[:, j], color=colour)
        start = next((index for index, _, name in axis.ends if name == "0"), axis.order[0])
        labels.append((every[start, j], str(names[j]), colour))
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    finish(ax, axis, lam)
    ax.set_ylabel("coefficient × column sd" if design.terms.standardize else "coefficient")
    name_starts(ax, axis, labels)
    if len(ranked) > LABELLED:
        note = f"the {LABELLED} largest of {len(ranked)} by name"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        place = {"transform": ax.transAxes, "ha": "right", "va": "top", "zorder": 5}
        ax.text(1, 0.99, note, color="0.4", fontsize=FONT, bbox=box, **place)
    return ax


@verb()
def scores(
    choice: Choice,
    ax: "Axes",
    *,
    label: str = "score",
    target: int | None = None,
    root: bool = False,
    **line: Any,
) -> "Axes":
    """A rule's score against λ on a log axis, with a dot at the least and a band of one standard error.

    Args:
        choice: what `jaxridge.ridge_cv` returned. ax: the matplotlib Axes to draw on; it is returned.
        label: the name of the rule, for a legend.
        target: which column of y; None is the mean over all of them, which has no band.
        root: draw square roots, which for a mean of squared errors is an RMSE in the units of y.
        line: anything that ``Axes.plot`` takes, such as ``color``.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot
    >>> from matplotlib.figure import Figure
    >>> choice = jxr.ridge_cv(jnp.eye(3), jnp.arange(3.0), [0.1, 1.0, 10.0])
    >>> plot.scores(choice, Figure().subplots(), root=True).get_ylabel()
    'RMSE'
    """
    axis = log_axis(choice.lams, target or 0)
    order, lams = axis.order, axis.lams

    def column(values: Any) -> np.ndarray:
        values = np.asarray(values)
        return values if values.ndim == 1 else values.mean(axis=1) if target is None else values[:, target]

    def shown(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(values, 0)) if root else values

    every = column(choice.scores)
    mean = every[order]
    (curve,) = ax.plot(lams, shown(mean), **{"linewidth": 1.8, "label": label, "zorder": 3, **line})
    if choice.spread is not None and (choice.spread.ndim == 1 or target is not None):
        spread, colour = column(choice.spread)[order], curve.get_color()
        ax.fill_between(lams, shown(mean - spread), shown(mean + spread), color=colour, alpha=0.12, linewidth=0)
    mark_ends(ax, axis, shown(every), color=curve.get_color())
    if not np.isnan(every).all():
        least = int(np.nanargmin(every))
        at = axis.place(
            np.asarray(choice.lams).reshape(len(every), -1)[least, target or 0 if choice.lams.ndim == 2 else 0]
        )
        dot = {"color": curve.get_color(), "markersize": 6, "markeredgecolor": "white", "zorder": 4}
        ax.plot(at, shown(every)[least], "o", **dot)
    finish(ax, axis)
    ax.set_ylabel("RMSE" if root else "score")
    return ax


@verb()
def rules(comparison: Comparison, ax: "Axes", *, target: int = 0) -> "Axes":
    """The scores of several rules against λ, each from 0 at its least to 1 at its largest λ, and what each one takes.

    Rules have units of their own, so that only the places and the breadths of their valleys can be compared.

    Args: comparison: what `jaxridge.ridge_compare` or a sibling of it returned. ax: the matplotlib Axes to draw on.
    target: which column of y, where there are several.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot
    >>> from matplotlib.figure import Figure
    >>> found = jxr.ridge_compare(jnp.eye(3), jnp.arange(3.0), {"loo": jxr.select.loo}, [0.1, 1.0, 10.0])
    >>> plot.rules(found, Figure().subplots()).get_ylabel()
    'score, from its least to its end'
    """
    if not isinstance(comparison, Comparison):
        raise ValueError(f"the record is a {type(comparison).__name__}; pass what jaxridge.ridge_compare returned.")
    for i, name in enumerate(comparison.names):
        choice = comparison.choices[name]
        axis, colour = log_axis(choice.lams, target), COLOURS[i % len(COLOURS)]
        every = np.asarray(choice.scores)
        every = every if every.ndim == 1 else every[:, target]
        shown, lam = _from_least(every, axis.order), float(np.atleast_1d(np.asarray(choice.lam))[0])
        line = {"color": colour, "linestyle": STYLES[i % len(STYLES)], "linewidth": 1.8, "label": name}
        ax.plot(axis.lams, shown[axis.order], **line)
        mark_ends(ax, axis, shown, color=colour)
        ax.plot(axis.place(lam), -0.06, "v", color=colour, markersize=7, markeredgecolor="white", zorder=5)
        finish(ax, axis)
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set_ylim(-0.1, min(1.6, ax.get_ylim()[1]))
    ax.set_ylabel("score, from its least to its end")
    ax.legend(loc="best")
    return ax


def _from_least(scores: np.ndarray, order: np.ndarray) -> np.ndarray:
    """0 at the least of them, 1 at the largest λ, or at the largest score where the largest λ is the best."""
    finite = np.where(np.isfinite(scores), scores, np.nan)
    least, end = np.nanmin(finite), finite[order[-1]]
    end = end if end > least else np.nanmax(finite)
    return (finite - least) / (end - least if end > least else 1.0)


@verb()
def dof(model: Path, ax: "Axes", *, lam: Any = None, target: int = 0, **line: Any) -> "Axes":
    """Effective degrees of freedom against λ on a log axis: from the rank down to the unpenalised columns.

    Args: as for `path`; ``line`` is anything that ``Axes.plot`` takes.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot
    >>> from matplotlib.figure import Figure
    >>> model = jxr.ridge_path(jnp.eye(3), jnp.arange(3.0), [0.1, 1.0, 10.0])
    >>> plot.dof(model, Figure().subplots()).get_ylabel()
    'effective dof'
    """
    axis = log_axis(model.lams, target)
    every = np.asarray(model.dof)
    every = every if every.ndim == 1 else every[:, target]
    values, lams = every[axis.order], axis.lams
    (curve,) = ax.plot(lams, values, **{"color": "0.25", "linewidth": 1.8, "zorder": 3, **line})
    mark_ends(ax, axis, every, color=curve.get_color())
    ax.set_ylim(0, 1.15 * np.nanmax(every, initial=1.0))
    finish(ax, axis, lam)
    if lam is not None and lams[0] <= lam <= lams[-1]:
        at = float(np.interp(np.log(float(lam)), np.log(lams), values))
        ax.plot(float(lam), at, "o", color="0.25", markersize=6, markeredgecolor="white", zorder=4)
        ax.annotate(f"{at:.1f}", (float(lam), at), (6, 5), textcoords="offset points", color="0.25", fontsize=FONT)
    ax.set_ylabel("effective dof")
    return ax


@verb()
def picard(record: inverse.Picard, ax: "Axes", *, target: int = 0) -> "Axes":
    """The Picard condition: singular values, coefficients of b and their ratios, by number, on a log axis.

    Where the coefficients no longer fall with the singular values, a solution without a filter is noise.

    Args:
        record: what `jaxridge.inverse.picard` returned. ax: the matplotlib Axes to draw on; it is returned.
        target: which right-hand side, where there are several.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse, plot
    >>> from matplotlib.figure import Figure
    >>> ax = plot.picard(inverse.picard(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([4.0, 3.0])), Figure().subplots())
    >>> ax.get_yscale()
    'log'
    """
    _of_kind(record, inverse.Picard, "inverse.picard")
    _on(ax)
    coefficients, ratios = (
        values if values.ndim == 1 else values[:, target]
        for values in (np.asarray(record.coefficients), np.asarray(record.ratios))
    )
    curves = (
        (np.asarray(record.singular_values), "-", "singular values $s_i$"),
        (coefficients, "o", "$|u_i^T b|$"),
        (ratios, "^", "$|u_i^T b| / s_i$"),
    )
    for (values, style, label), colour in zip(curves, COLOURS, strict=False):
        number = np.arange(1, len(values) + 1)
        shown = np.where(values > 0, values, np.nan)
        ax.plot(number, shown, style, color=colour, linewidth=1.8, markersize=4.5, label=label)
    ax.set_yscale("log")
    ax.set_xlabel("number i")
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    # All three start high, at the left.
    ax.legend(loc="lower left")
    return ax


@verb()
def l_curve(
    path: Path,
    ax: "Axes",
    *,
    choices: "Choice | inverse.TikhonovFit | Mapping[str, Any] | None" = None,
    target: int = 0,
) -> "Axes":
    """The L-curve: ‖L(x − x₀)‖ against ‖Ax − b‖ on log axes, one point for each λ.

    λ that were not solved are hollow. Choices that share a λ share a mark.

    Args:
        path: what `jaxridge.inverse.tikhonov_path` returned, or ``choice.path``.
        ax: the matplotlib Axes to draw on; it is returned.
        choices: solutions to mark: a `Choice` or `TikhonovFit`, or several by name (such as
            ``comparison.choices``), which stand in the legend.
        target: which right-hand side, where there are several.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse, plot, select
    >>> from matplotlib.figure import Figure
    >>> A, b = jnp.diag(jnp.array([1.0, 0.1])), jnp.array([1.0, 0.2])
    >>> choice = inverse.tikhonov_cv(A, b, [1e-3, 1e-2, 0.1], rule=select.discrepancy(1e-3), refine=False)
    >>> ax = plot.l_curve(choice.path, Figure().subplots(), choices={"discrepancy": choice})
    >>> [text.get_text().split(",")[0] for text in ax.get_legend().get_texts()]
    ['discrepancy']
    """
    _of_kind(path, inverse.TikhonovFit, "inverse.tikhonov_path")
    _on(ax)
    order = np.argsort(np.asarray(path.lams), kind="stable")

    def column(values: Any) -> np.ndarray:
        values = np.asarray(values)
        return (values if values.ndim == 1 else values[:, target])[order]

    across, up, steps = np.sqrt(column(path.rss)), column(path.norm), column(path.steps)
    drawn = (across > 0) & (up > 0)
    ax.plot(across[drawn], up[drawn], color="0.6", linewidth=1.4, zorder=1)
    for solved, face in ((steps >= 0, "0.6"), (steps < 0, "white")):
        dots = {"markersize": 4, "color": "0.6", "markerfacecolor": face}
        ax.plot(across[drawn & solved], up[drawn & solved], "o", **dots, zorder=2)
    ax.set(xscale="log", yscale="log", xlabel="size of the residual ‖Ax − b‖", ylabel="size of the solution ‖Lx‖")
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    for i, (names, fit) in enumerate(_marked(choices, target)):
        label = f"{names}, λ = {fit[2]:.2g}" if names else f"λ = {fit[2]:.2g}"
        style = {"markersize": 9, "markeredgecolor": "white", "zorder": 3}
        ax.plot(*fit[:2], MARKS[i % len(MARKS)], color=COLOURS[i % len(COLOURS)], label=label, **style)
    if choices is not None:
        ax.legend()
    return ax


@verb()
def images(pictures: Mapping[str, Any], axes: Sequence["Axes"], *, limits: tuple[float, float] | None = None) -> Any:
    """Images side by side by name, all in the same grey scale.

    Args:
        pictures: (n, m) arrays by name. axes: as many matplotlib Axes, such as of ``subplots(1, 4)``; returned.
        limits: what is black and what is white; None takes the range of the first picture.

    >>> import jax.numpy as jnp
    >>> from jaxridge import plot
    >>> from matplotlib.figure import Figure
    >>> axes = plot.images({"true": jnp.eye(3), "blurred": jnp.ones((3, 3)) / 3}, Figure().subplots(1, 2))
    >>> [ax.get_title() for ax in axes]
    ['true', 'blurred']
    """
    if not isinstance(pictures, Mapping):
        raise ValueError("pictures is no dict; pass arrays by name, such as {'blurred': b, 'sharp': fit.x}.")
    shown = {name: np.asarray(image) for name, image in pictures.items()}
    flat = list(np.ravel(np.asarray(axes, object)))
    if not shown or any(image.ndim != 2 for image in shown.values()):
        raise ValueError(f"pictures have shapes {[image.shape for image in shown.values()]}; give (n, m) each.")
    if len(flat) != len(shown):
        raise ValueError(f"axes are {len(flat)} for {len(shown)} pictures; give one for each.")
    first = next(iter(shown.values()))
    low, high = (first.min(), first.max()) if limits is None else limits
    for (name, image), ax in zip(shown.items(), flat, strict=True):
        ax.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        ax.set_title(name, fontsize=10)
        ax.set_axis_off()
    return axes


def figure(
    model: Path,
    choices: Mapping[str, Choice],
    rule: str,
    *,
    names: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
) -> "Figure":
    """Coefficients, scores and degrees of freedom above each other on one λ axis; a column for each target.

    Args:
        model: the whole path. choices: by the name of their rule, with scores that are mean squared errors; they
            are drawn as RMSE. rule: the name of the choice that was followed, whose λ is marked.
        names: (d,) names of the columns of X. targets: (t,) those of y; the first four are drawn.

    Raises ImportError without matplotlib.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> from jaxridge import plot
    >>> problem = jnp.eye(3), jnp.arange(3.0), [0.1, 1.0, 10.0]
    >>> model, choice = jxr.ridge_path(*problem), jxr.ridge_cv(*problem)
    >>> len(plot.figure(model, {"leave-one-out": choice}, "leave-one-out", names=["a", "b", "c"]).axes)
    3
    """
    matplotlib = _matplotlib()
    chosen = choices[rule]
    count = 1 if model.coef.ndim == 2 else model.coef.shape[2]
    targets = [f"target {j}" for j in range(count)] if targets is None else targets
    across = min(count, ABREAST)
    with matplotlib.rc_context(STYLE):
        size = (8.0 if across == 1 else 5.4 * across, 9.0)
        picture = matplotlib.figure.Figure(figsize=size, dpi=160, layout="constrained")
        panels = picture.subplots(3, across, sharex="col", squeeze=False, height_ratios=[5, 3, 2])
        for j, (top, middle, bottom) in enumerate(panels.T):
            lam = float(np.broadcast_to(np.asarray(chosen.lam), (count,))[j])
            path(model, top, names=names, lam=lam, target=j)
            of = "" if count == 1 else f"{targets[j]}: "
            top.set_title(f"{of}λ = {lam:.4g} by {rule}")
            for i, (name, choice) in enumerate(choices.items()):
                single = choice.scores.ndim == 1
                line = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}
                # Bands of several rules would cover each other.
                shown = choice if name == rule else dataclasses.replace(choice, spread=None)
                scores(shown, middle, label=name, target=None if single else j, root=True, **line)
            heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in middle.lines])
            if np.nanmax(heights, initial=0.0) > RANGE * np.nanmin(heights, initial=np.inf) > 0:
                middle.set_yscale("log")
            finish(middle, log_axis(chosen.lams, j), lam)
            middle.legend(loc="best")
            dof(model, bottom, lam=lam, target=j)
            for panel in (top, middle):
                panel.set_xlabel("")
        if count > across:
            picture.suptitle(f"the first {across} of {count} targets")
        picture.align_ylabels()
    return picture


def formats() -> list[str]:
    """The usual endings of file names that a figure can be saved under; ImportError without matplotlib."""
    supported = _matplotlib().figure.Figure().canvas.get_supported_filetypes()
    return [f".{kind}" for kind in ("png", "pdf", "svg", "jpg", "webp") if kind in supported]


def _matplotlib() -> Any:
    """The package, imported when a figure is made and not before."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise ImportError('Pictures need matplotlib: pip install "jaxridge[plot]".') from None
    return matplotlib


def _of_kind(record: Any, kind: type, verb: str) -> None:
    if not isinstance(record.fits if isinstance(record, Path) else record, kind):
        raise ValueError(f"the record is a {type(record).__name__}; pass what jaxridge.{verb} returned.")


def _on(ax: Any) -> None:
    if not hasattr(ax, "plot"):
        raise ValueError(f"ax is {ax!r}; pass Axes of matplotlib, such as plt.subplots()[1], and save their figure.")


def _marked(choices: Any, target: int) -> list[tuple[str, tuple[float, float, float]]]:
    """Names, and where the solution lies: residual, norm, λ; those of one λ together."""
    if choices is None:
        return []
    together: dict[tuple[float, float, float], list[str]] = {}
    for name, chosen in (choices if isinstance(choices, Mapping) else {"": choices}).items():
        fit = chosen.fit if isinstance(chosen, Choice) else chosen
        _of_kind(fit, inverse.TikhonovFit, "inverse.tikhonov_cv")
        rss, norm = (float(np.atleast_1d(np.asarray(x))[target]) for x in (fit.rss, fit.norm))
        lam = np.atleast_1d(np.asarray(fit.lam))
        together.setdefault((rss**0.5, norm, float(lam[target if len(lam) > 1 else 0])), []).append(name)
    return [(", ".join(names), place) for place, names in together.items()]
