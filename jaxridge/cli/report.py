"""What the command line prints of a sweep: tables, the choice, and what a reader should know."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import rich.box
import rich.console
import rich.table

from jaxridge.cli.files import BadInput, quoted
from jaxridge.cli.found import LOO, Facts, Roles, Rule, Sweep
from jaxridge.core.results import RESULTS

ROWS, COEFFICIENTS, TARGETS = 17, 30, 8  # lines and columns of tables without --full


def check_usable(found: Sweep, problem: Roles) -> None:
    """Refuse a sweep without any answer: what was computed is not finite, or lost its scale."""
    path, chosen, dtype = found.path, found.chosen, problem.X.dtype
    if np.isnan(path.lams).any() or not np.isfinite(chosen.fit.coef).all():
        raise BadInput(f"The fit leaves the range of {dtype}; bring the columns nearer to 1, or use --dtype float64.")
    for name, y, scores in zip(problem.targets, problem.y.T, np.asarray(chosen.scores).T, strict=True):
        if np.isnan(scores).all() and problem.weights is not None:
            raise BadInput(f"No λ has a {found.rule} score for {name!r}: a fold holds no row of positive weight.")
        if not np.isfinite(scores).any() or ((y != y[0]).any() and not scores.any()):
            raise BadInput(f"The squared errors of {name!r} leave the range of {dtype}; bring it nearer to 1.")


def failures(found: Sweep) -> dict[str, np.ndarray]:
    """The λ at which a fit was not simply solved, by the message that says why."""
    path, reasons = found.path, {}
    solved = np.asarray(path.result == RESULTS.successful)
    for i in np.flatnonzero(~solved.all(axis=1)):
        item = jax.tree.map(lambda x, i=i: x[i, np.argmin(solved[i])], path.result)
        reasons.setdefault(RESULTS[item], []).append(float(path.lams[i]))
    return {message: np.array(lams) for message, lams in reasons.items()}


def notes_on(problem: Roles, rule: Rule, folds: int, seed: int | None) -> list[str]:
    """What was done to the input without being asked for, and options that did nothing."""
    notes = [f"column {name!r} of true and false is read as 1 and 0" for name in problem.booleans]
    if rule is not Rule.kfold and (folds != 5 or seed is not None):
        notes.append(f"--folds and --seed have no part in --rule {rule}")
    return notes


def warnings_on(found: Sweep, problem: Roles, default_grid: bool) -> list[str]:
    """What a careful reader of the result should know."""
    design, targets = found.path.factored.problem, np.array(problem.targets)
    rows = problem.X if problem.weights is None else problem.X[problem.weights > 0]
    y = problem.y if problem.weights is None else problem.y[problem.weights > 0]
    (n, d), q, rank = rows.shape, design.Z.shape[1], int(found.path.factored.factor.rank)
    constant = (rows == (rows[0] if q else 0)).all(axis=0)
    said = edge_warnings(found, targets, default_grid)
    if constant.any():
        names = quoted([name for name, flat in zip(problem.features, constant, strict=True) if flat])
        said.append(f"without variation in {problem.X.dtype}, so that the coefficient is 0: {names}")
    if (y == y[0]).all(axis=0).any():
        said.append(f"constant target: {quoted(targets[(y == y[0]).all(axis=0)])}; there is nothing to explain")
    if n <= d:
        said.append(f"{n} rows for {d} columns: only the penalty makes the coefficients unique")
    if rank < min(n - q, d - np.count_nonzero(constant)):
        said.append(f"the {d} columns have rank {rank} to the precision of {problem.X.dtype}")
    return [*said, *failure_warnings(found)]


def failure_warnings(found: Sweep) -> list[str]:
    """Where a fit was not simply solved, and why."""
    said, chosen = [], found.chosen
    for message, lams in failures(found).items():
        place = f"at {len(lams)} of {len(found.path)} λ (from {lams.min():.3g} to {lams.max():.3g})"
        hit = np.isin(np.asarray(chosen.lam), lams).any()
        said.append(f"{place}{', the chosen one among them' * bool(hit)}: {message}")
    return said


def edge_warnings(found: Sweep, targets: np.ndarray, default_grid: bool) -> list[str]:
    """A λ at an end of the grid, and what it means where the grid holds least squares and the model without columns."""
    chosen = found.chosen
    lam = np.atleast_1d(chosen.lam)
    if (np.ptp(np.asarray(chosen.scores)[np.isfinite(np.asarray(chosen.lams))], axis=0) == 0).all():
        return []
    if not default_grid or np.any(chosen.at_edge):
        return [message for message in [chosen.message()] if message]
    meanings = {0.0: "0: no penalty does as well", np.inf: "infinite: leaving all columns out does as well"}
    names = {end: f" for {quoted(targets[lam == end])}" if len(lam) > 1 else "" for end in meanings}
    return [f"λ*{names[end]} is {what}" for end, what in meanings.items() if (lam == end).any()]


LAMS_BY_NAME = {0.0: "0", np.inf: "∞"}


def show(found: Sweep, data: Facts, full: bool) -> None:
    """Print the grid, the choice and the coefficients."""
    # Wide enough for every table, so that none is cut on a narrow terminal, or without one.
    console = rich.console.Console(width=10_000, soft_wrap=True, markup=False, highlight=False, emoji=False)
    terms = found.path.factored.problem.terms
    facts = [
        f"{data.rows} rows",
        f"{len(data.features)} columns",
        "standardized" if terms.standardize else "not standardized",
        *(["weighted"] if data.weighted else []),
        *([] if terms.intercept else ["no intercept"]),
        data.dtype,
    ]
    console.print(f"{data.source} → {listed(data.targets)}", style="bold")
    console.print(", ".join(facts))
    show_grid(console, found, data, full)
    show_choice(console, found, data, full)
    show_coefficients(console, found, data, full)


def show_grid(console: rich.console.Console, found: Sweep, data: Facts, full: bool) -> None:
    """The λ in ascending order, evenly thinned but never without the ones that a rule takes."""
    path, chosen = found.path, found.chosen
    per_target, order = chosen.lam.ndim == 1 and len(data.targets) > 1, np.argsort(path.lams, kind="stable")
    marks = marks_of(found, data)
    kept = np.linspace(0, len(order) - 1, len(order) if full else min(ROWS, len(order))).round().astype(int)
    shown = [i for at, i in enumerate(order) if at in kept or i in marks]
    columns = {"training": np.asarray(path.rss) / data.total, **{name: c.scores for name, c in found.choices.items()}}
    if per_target:
        scores, names = np.asarray(chosen.scores), data.targets[:TARGETS]
        columns = {name: scores[:, [j]] for j, name in enumerate(names)}
    rmse = {name: np.sqrt(np.mean(np.asarray(x), axis=1)) for name, x in columns.items()}
    grid = new_grid("λ", "dof", *(f"{name}\nRMSE" for name in rmse), "")
    for i in shown:
        cells = (short(x[i]) for x in rmse.values())
        style = "bold" if "λ*" in marks.get(i, "") else None
        grid.add_row(
            LAMS_BY_NAME.get(float(path.lams[i]), f"{path.lams[i]:.3e}"),
            f"{path.dof[i]:.2f}",
            *cells,
            marks.get(i, ""),
            style=style,
        )
    console.print(grid)
    if len(shown) < len(order):
        console.print(f"{len(shown)} of {len(order)} λ; --full prints all", style="dim")


def marks_of(found: Sweep, data: Facts) -> dict[int, str]:
    """What to write beside the rows that a rule takes, by their place in the grid."""
    marks: dict[int, list[str]] = {}
    for name in sorted(found.choices, key=lambda name: name != found.rule):
        index = np.asarray(found.choices[name].index)
        if index.size == 1:
            marks.setdefault(int(index.item()), []).append(f"{'λ* by' if name == found.rule else 'least'} {name}")
        elif name == found.rule:
            for i in np.unique(index).tolist():
                marks[i] = [f"λ* of {listed([data.targets[j] for j in np.flatnonzero(index == i)])}"]
    return {i: f"← {', '.join(parts)}" for i, parts in marks.items()}


def show_choice(console: rich.console.Console, found: Sweep, data: Facts, full: bool) -> None:
    """The λ taken, by which rule, and how well it predicts rows that it has not seen."""
    chosen, t = found.chosen, len(data.targets)
    lam, dof = (np.broadcast_to(np.asarray(x), (t,)) for x in (chosen.lam, chosen.fit.dof))
    index = np.broadcast_to(np.asarray(chosen.index), (t,))
    by = LOO if LOO in found.choices else found.rule
    error = np.asarray(found.choices[by].scores)[index, np.arange(t)]
    explained = 1 - error / data.variance
    if len(set(lam.tolist())) == 1:
        quality = f", R² {ratio(explained[0])}" if t == 1 else " over all targets"
        console.print(
            f"λ* = {lam[0]:.6g} by {found.rule}: {dof[0]:.2f} effective degrees of freedom, "
            f"{by} RMSE {short(np.sqrt(error.mean()))}{quality}"
        )
    if t > 1:
        grid = new_grid("target", "λ*", "dof", f"{by}\nRMSE", "R²")
        for j in range(t if full else min(t, COEFFICIENTS)):
            numbers = (f"{lam[j]:.6g}", f"{dof[j]:.2f}", short(np.sqrt(error[j])), ratio(explained[j]))
            grid.add_row(data.targets[j], *numbers)
        console.print(grid)


def show_coefficients(console: rich.console.Console, found: Sweep, data: Facts, full: bool) -> None:
    """The coefficients at the λ taken, in the units of the data, and where columns are scaled per deviation."""
    fit, t = found.chosen.fit, len(data.targets)
    coef, sd = np.asarray(fit.coef), data.sd[:, None]
    size = np.max(np.abs(coef * sd), axis=1)
    shown = np.arange(len(coef)) if full else np.sort(np.argsort(-size, kind="stable")[:COEFFICIENTS])
    across = t if full else min(t, TARGETS)
    heads = ["coefficient", "× column sd"] if t == 1 else data.targets[:across]
    columns = np.concatenate([coef, coef * sd], axis=1) if t == 1 else coef
    grid = new_grid("column", *heads)
    for j in shown:
        grid.add_row(data.features[j], *map(short, columns[j, : len(heads)]))
    if found.path.factored.problem.terms.intercept:
        grid.add_row("(intercept)", *map(short, np.asarray(fit.intercept)[:across]))
    console.print(grid)
    if len(shown) < len(coef) or across < t:
        parts = [f"the {len(shown)} largest of {len(coef)} coefficients"] * (len(shown) < len(coef))
        parts += [f"{across} of {t} targets"] * (across < t)
        console.print(f"{' and '.join(parts)}; --full prints all", style="dim")


def new_grid(*heads: str) -> rich.table.Table:
    """A table whose first column is text or λ, and the others numbers."""
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(heads):
        left = (place == 0 and head != "λ") or head == ""
        grid.add_column(head, justify="left" if left else "right", vertical="bottom", no_wrap=True)
    return grid


def short(x: Any) -> str:
    """Five significant digits that line up."""
    return f"{float(x):#.5g}".rstrip(".") if np.isfinite(x) else "-"


def ratio(x: float) -> str:
    """Three decimals, or that there is none."""
    return f"{x:.3f}" if np.isfinite(x) else "undefined"


def listed(names: Sequence[str]) -> str:
    """Names with commas, a few at most."""
    return ", ".join(names[:TARGETS]) + (f" and {len(names) - TARGETS} more" if len(names) > TARGETS else "")
