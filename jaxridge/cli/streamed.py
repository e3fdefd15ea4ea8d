"""Tables beyond the memory allowed, folders and patterns: one pass over their rows, and the sweep from its sums."""

import math
import re
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as arrow_parquet
import rich.console
import rich.progress

from jaxridge import distributed, select, stream
from jaxridge.cli.files import BadInput, quoted
from jaxridge.cli.found import LOO, Facts, Rule, Sweep
from jaxridge.linear.stream import by_sums
from jaxridge.select.choice import Choice
from jaxridge.select.choice import Path as RidgePath

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
COPIES = 16  # of the table in float64 that a sweep in memory takes, measured at 1e5 × 50


class Wanted(NamedTuple):
    """What a sweep asks of the rows."""

    targets: Sequence[str]
    weights: str | None
    drop: Sequence[str]
    rule: Rule
    folds: int
    per_target: bool
    standardize: bool
    intercept: bool


def as_bytes(text: str) -> int:
    """The size that a text such as 4GiB, 500MB or 1e9 stands for.

    >>> as_bytes("4GiB"), as_bytes("500 MB")
    (4294967296, 524288000)
    """
    match = re.fullmatch(r"\s*([0-9.e+]+)\s*([kmgt]?)i?b?\s*", text.lower())
    try:
        if match and float(match[1]) > 0:
            return int(float(match[1]) * UNITS[match[2]])
    except ValueError:
        pass
    raise BadInput(f"--memory {text!r} is no size; write one such as 4GiB or 500MiB.")


def is_for(data: Path | None, memory: int) -> bool:
    """Whether that table is read a batch at a time: a folder, a pattern, or a file too large for the memory allowed."""
    if data is None or data.suffix.lower() == ".npz":
        return False
    if not data.is_file():
        return data.is_dir() or any(mark in str(data) for mark in "*?[")
    return COPIES * _size(data) > memory


def _size(file: Path) -> int:
    """Bytes of a table in float64, of a CSV file as many as its text."""
    if file.suffix.lower() not in (".parquet", ".pq"):
        return file.stat().st_size
    try:
        footer = arrow_parquet.read_metadata(file)
    except (OSError, ValueError):
        return 0
    return 8 * footer.num_rows * footer.num_columns


def sweep(data: Path, wanted: Wanted, lams: Any, resume: Path | None, skip_bad: bool) -> tuple[Sweep, Facts, list[str]]:
    """The same sweep as in memory, facts of the rows, and notes on what was left out."""
    if not wanted.targets:
        raise BadInput(f"{data} does not say what to predict; name it with --target.")
    try:
        source = distributed.table(data, wanted.targets, weights=wanted.weights, drop=wanted.drop)
        with bar(source, "rows") as progress:
            folds = wanted.folds if wanted.rule is Rule.kfold else 0
            terms = {"intercept": wanted.intercept, "folds": folds, "skip_bad": skip_bad}
            rows, notes = distributed.gather(source, checkpoint=resume, progress=progress, **terms)
        found = evaluate(source, rows, wanted, lams)
    except distributed.Unreadable as error:
        raise BadInput(str(error).replace("on request (skip_bad)", "with --skip-bad")) from None
    return found, facts(data, source, rows, found, wanted), list(notes)


def evaluate(source: Any, rows: Any, wanted: Wanted, lams: Any) -> Sweep:
    """Every λ, and what each rule takes of them; leave-one-out goes over the rows once more."""
    names = {"GCV": select.gcv}
    rows = stream.on_device(rows)
    spectrum, grid = _finish(rows, wanted.standardize)
    grid = grid if lams is None else jnp.asarray(lams, grid.dtype)
    if wanted.rule is Rule.kfold:
        names[f"{wanted.folds}-fold"] = by_sums(select.kfold(wanted.folds), rows, spectrum)
    if wanted.rule is Rule.loo:
        names[LOO] = Scored(distributed.leave_one_out(source, spectrum, grid))
    path, choices = _choose(spectrum, grid, list(names.values()), wanted.per_target)
    return Sweep(path, dict(zip(names, choices, strict=True)), list(names)[-1])


class Scored(eqx.Module):
    """A rule whose scores are known."""

    y: Any  # the scores (k, t)

    def __call__(self, problem: Any, factored: Any, lam: Any) -> Any:
        raise NotImplementedError

    def on_grid(self, factored: Any, lams: Any) -> Any:
        return self.y, None


@eqx.filter_jit
def _finish(rows: Any, standardize: bool) -> Any:
    spectrum = stream.finish(rows, standardize=standardize)
    return spectrum, spectrum.default_grid()


@eqx.filter_jit
def _choose(spectrum: Any, lams: Any, rules: Sequence[Any], per_target: bool) -> Any:
    fits = spectrum.fits(lams)

    def choice(rule: Any) -> Choice:
        found = select.search(rule, spectrum, lams, per_target=per_target)
        return Choice(*found, spectrum.fit(found.lam) if per_target else fits.taken(found.index))

    return RidgePath(lams, fits, spectrum), [choice(rule) for rule in rules]


def facts(data: Path, source: Any, rows: Any, found: Sweep, wanted: Wanted) -> Facts:
    """What a report says of rows that are gone: their number, and the spread of every column from their sums."""
    total, moments = stream.moments(rows)
    d, count = source.features, int(np.sum(rows.rows))
    dtype = str(found.path.coef.dtype)
    named = list(source.names), list(source.target_names)
    return Facts(f"{data}", *named, count, dtype, wanted.weights is not None, total, moments[d:], np.sqrt(moments[:d]))


def check_usable(found: Sweep, facts: Facts) -> None:
    """Refuse a sweep without any answer."""
    if not np.isfinite(found.chosen.fit.coef).all():
        raise BadInput(f"The fit leaves the range of {facts.dtype}; bring the columns nearer to 1.")


def warnings_on(found: Sweep, facts: Facts) -> list[str]:
    """What a careful reader should know that codes and edges do not say."""
    constant = [name for name, sd in zip(facts.features, facts.sd, strict=True) if sd == 0]
    d, rank = len(facts.features), int(found.path.factored.factor.rank)
    said = [f"without variation, so that the coefficient is 0: {quoted(constant)}"] if constant else []
    if rank < min(facts.rows, d - len(constant)):
        said.append(f"the {d} columns have rank {rank} to the precision of {facts.dtype}")
    return said


@contextmanager
def bar(source: Any, what: str) -> Any:
    """A bar with rows per second and the time left, where someone looks at it."""
    console = rich.console.Console(stderr=True)
    columns = [
        rich.progress.TextColumn("{task.completed:,.0f} " + what),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[speed]}"),
        rich.progress.TimeRemainingColumn(),
    ]
    if not sys.stderr.isatty():
        yield _nothing
        return
    with rich.progress.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=source.total, speed="")

        def seen(rows: int, total: int | None) -> None:
            speed = progress.tasks[task].speed
            shown = f"{speed:,.0f} {what}/s" if speed and math.isfinite(speed) else ""
            progress.update(task, completed=rows, speed=shown)

        yield seen


def _nothing(rows: int, total: int | None) -> None:
    pass
