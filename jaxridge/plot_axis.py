"""The log axis of λ that pictures share, with places for 0 and infinity, and names beside the starts of curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

__all__ = ["LogAxis", "apart", "finish", "log_axis", "mark_ends", "name_starts"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT, LEADER = 9.5, 16  # of names beside curves and the lines to them, in points
LETTERS = 20  # of a long name


class LogAxis(NamedTuple):
    """Where the λ of a grid stand on a log axis: a line of finite ones, and a mark for 0 and infinity at its ends."""

    order: np.ndarray
    lams: np.ndarray
    ends: list[tuple[int, float, str]]  # the number in the grid, the place on the axis, the name

    def place(self, lam: Any) -> float:
        """Of a chosen λ; NaN where the axis has no place for it."""
        name = {0.0: "0", np.inf: "∞"}.get(float(lam))
        return next((place for _, place, of in self.ends if of == name), np.nan) if name else float(lam)


def log_axis(lams: Any, target: int) -> LogAxis:
    """Positive λ by size; 0 and infinity a twentieth of the axis beyond them."""
    lams = np.asarray(lams)
    lams = lams if lams.ndim == 1 else lams[:, target]
    order = np.argsort(lams, kind="stable")
    order = order[(lams[order] > 0) & np.isfinite(lams[order])]
    if len(order) == 0:
        raise ValueError("lams holds no positive number, and the axis of λ is logarithmic; pass at least one.")
    low, high = lams[order[0]].astype(float), lams[order[-1]].astype(float)
    beyond = max((high / low) ** 0.05, 2.0)
    ends = [(0.0, low / beyond, "0"), (np.inf, high * beyond, "∞")]
    marks = [(int(np.flatnonzero(lams == lam)[0]), place, name) for lam, place, name in ends if (lams == lam).any()]
    return LogAxis(order, lams[order], marks)


def mark_ends(ax: "Axes", axis: LogAxis, values: np.ndarray, **style: Any) -> None:
    """What a curve comes to at λ = 0 and infinity."""
    for index, place, _ in axis.ends:
        if np.isfinite(values[index]):
            ax.plot(place, values[index], **{"marker": "D", "markersize": 4, "linestyle": "none", "zorder": 3, **style})


def finish(ax: "Axes", axis: LogAxis, lam: Any = None) -> None:
    """What all panels share: the log axis with its ends, light horizontal lines, the chosen λ."""
    ax.set_xscale("log")
    ax.set_xlabel("λ (log scale)")
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    named = {text.get_text() for text in ax.texts}
    for place, name in ((place, name) for _, place, name in axis.ends if name not in named):
        where = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
        ax.annotate(name, (place, 0), (0, 4), ha="center", color="0.35", fontsize=FONT, **where)
    if lam is not None and np.isfinite(axis.place(lam)):
        ax.axvline(axis.place(lam), color="0.35", linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)


def name_starts(ax: "Axes", axis: LogAxis, labels: list[tuple[float, str, str]]) -> None:
    """A name to the left of the start of each curve, moved apart where names would overlap."""
    labels = sorted((label for label in labels if np.isfinite(label[0])), key=lambda label: label[0])
    if not labels:
        return
    inches = ax.bbox.transformed(ax.figure.dpi_scale_trans.inverted())
    # Room for the longest name: 0.6 em a letter, and the leader.
    letters = min(max(len(name) for _, name, _ in labels), LETTERS)
    room = min((0.6 * FONT * letters + LEADER + 6) / (72 * inches.width), 0.5)
    reach = [axis.lams[0], axis.lams[-1], *(place for _, place, _ in axis.ends)]
    low, high = np.log(min(reach)), np.log(max(reach))
    margin = 0.02
    span = max(high - low, 1.0) / (1 - room - margin)
    ax.set_xlim(np.exp(high + margin * span - span), np.exp(high + margin * span))
    bottom, top = ax.get_ylim()
    gap = 1.2 * FONT / (72 * inches.height) * (top - bottom)
    places = apart([y for y, _, _ in labels], gap)
    ax.set_ylim(min(bottom, places[0] - gap), max(top, places[-1] + gap))
    line = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0, "relpos": (1, 0.5)}
    for (y, name, colour), place in reversed(list(zip(labels, places, strict=True))):
        name = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
        ax.annotate(
            name.replace("$", r"\$"),
            (min(reach), y),
            (-LEADER, place),
            textcoords=("offset points", "data"),
            ha="right",
            va="center",
            color=colour,
            fontsize=FONT,
            arrowprops={**line, "color": colour},
        )


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """The places nearest to ``wanted`` (ascending) in the sense of least squares that are a gap apart.

    With pᵢ = qᵢ + i·gap the condition is that q ascends: isotonic regression of wantedᵢ − i·gap, by pooling
    adjacent violators. Ayer, Brunk, Ewing, Reid and Silverman (1955), Ann. Math. Statist. 26, 641.

    >>> from jaxridge.plot_axis import apart
    >>> apart([0.0, 0.0, 5.0], 1.0)
    [-0.5, 0.5, 5.0]
    """
    pools: list[tuple[float, int]] = []
    for i, y in enumerate(wanted):
        mean, count = y - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, size = pools.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [q + i * gap for i, q in enumerate(flat)]
