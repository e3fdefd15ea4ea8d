"""The command line: load a table, evaluate every λ, print the table, draw the picture, write the file."""

import importlib.metadata
import io
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import plot, select
from jaxridge.core.plan import MEMORY
from jaxridge.core.results import RESULTS
from jaxridge.linear.design import make_design
from jaxridge.linear.ridge import Choice, _fit
from jaxridge.linear.ridge import Path as RidgePath
from jaxridge.linear.spectrum import Spectrum, from_design

try:
    import rich.box
    import rich.console
    import rich.table
    import typer

    from jaxridge.cli import files
    from jaxridge.cli.files import BadInput, quoted
except ModuleNotFoundError as error:
    print(f'error: The command line needs {error.name}: pip install "jaxridge[cli]".', file=sys.stderr)
    raise SystemExit(2) from None

LOO = "leave-one-out"
ROWS, COEFFICIENTS, TARGETS = 17, 30, 8  # lines and columns of tables without --full
MOST = 10_000  # more λ are taken for a mistake

app = typer.Typer(
    help="Ridge regression: every λ from one factorisation, the one to take, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Rule(StrEnum):
    """How λ is chosen."""

    loo = "loo"
    gcv = "gcv"
    kfold = "kfold"


class Precision(StrEnum):
    """The dtype of the computation."""

    float32 = "float32"
    float64 = "float64"


class Problem(NamedTuple):
    """A table with its roles given out."""

    X: np.ndarray
    y: np.ndarray  # (n, t)
    weights: np.ndarray | None
    features: list[str]
    targets: list[str]
    booleans: list[str]
    source: str


class Sweep(NamedTuple):
    """Every model of a grid, and the λ that each rule takes, by its name; one rule is followed."""

    path: RidgePath
    choices: dict[str, Choice]
    rule: str

    @property
    def chosen(self) -> Choice:
        """The choice of the rule that is followed."""
        return self.choices[self.rule]


@eqx.filter_jit
def factorise(X: Any, y: Any, weights: Any, **terms: bool) -> tuple[Spectrum, Any]:
    """The one factorisation, and the grid of λ that it resolves."""
    spectrum = from_design(make_design(X, y, weights=weights, **terms))
    return spectrum, select.grid(spectrum)


@eqx.filter_jit
def evaluate(spectrum: Spectrum, lams: Any, rules: Sequence[Any], per_target: bool) -> tuple[RidgePath, list[Choice]]:
    """What table, picture and file need: the model at every λ, and what each rule makes of them."""
    fits = jax.vmap(partial(_fit, spectrum))(lams)

    def choice(rule: Any) -> Choice:
        scores, spread = select.evaluate(select.bind(rule, spectrum), spectrum, lams, MEMORY)
        share = None if per_target else select.share_of(scores)
        index, lam, at_edge = select.choose(select.lowest, lams, scores, spread, share)
        fit = _fit(spectrum, lam) if per_target else jax.tree.map(lambda x: x[index], fits)
        return Choice(lam, lams, scores, spread, index, at_edge, fit)

    path = RidgePath(lams, fits.coef, fits.intercept, fits.dof, fits.rss, fits.result, spectrum.without_rows())
    return path, [choice(rule) for rule in rules]


@app.command()
def sweep(
    data: Annotated[
        Path | None,
        typer.Argument(help="A .csv, .tsv, .parquet or .npz table; left out: the embedded diabetes data."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Column to predict; repeat it for several.", rich_help_panel="Data")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Column of row weights ≥ 0.", rich_help_panel="Data", metavar="COLUMN")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; repeatable.", rich_help_panel="Data")
    ] = None,
    lams: Annotated[
        str | None,
        typer.Option(
            help="The grid: low:high:count, log-spaced, or a list such as 0,0.1,10. Without it, 100 λ over what the "
            "data can resolve.",
            rich_help_panel="Model",
            metavar="SPEC",
        ),
    ] = None,
    rule: Annotated[
        Rule, typer.Option(help="Leave-one-out, generalised cross-validation or k-fold.", rich_help_panel="Model")
    ] = Rule.loo,
    folds: Annotated[
        int, typer.Option(help="For --rule kfold: blocks of consecutive rows.", rich_help_panel="Model", min=2)
    ] = 5,
    seed: Annotated[
        int | None, typer.Option(help="For --rule kfold: shuffle the rows first.", rich_help_panel="Model")
    ] = None,
    per_target: Annotated[
        bool,
        typer.Option(
            "--per-target",
            help="A λ for each target, not one for all by the mean score, which targets of large scale dominate.",
            rich_help_panel="Model",
        ),
    ] = False,
    standardize: Annotated[
        bool,
        typer.Option(
            help="Penalise columns as if each had unit standard deviation, so that units do not matter. "
            "Coefficients stay in the units of the data.",
            rich_help_panel="Model",
        ),
    ] = True,
    intercept: Annotated[bool, typer.Option(help="Fit an unpenalised constant.", rich_help_panel="Model")] = True,
    dtype: Annotated[Precision, typer.Option(help="Precision.", rich_help_panel="Model")] = Precision.float64,
    plot_path: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw coefficients, scores and dof (.png, .pdf, .svg).", rich_help_panel="Output"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the fit at λ* for `predict` (.npz, .json).", rich_help_panel="Output")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print every row.", rich_help_panel="Output")] = False,
) -> None:
    """Fit a whole grid of λ, choose one, and show why.

    The objective is ‖y − Xw − b‖² + λ‖w‖², without 1/n or ½. Every column that
    is not a target, the weights or dropped is a feature. An NPZ file holds
    arrays X and y, and may hold weights, feature_names and target_names.
    """
    with one_sentence():
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        grid = None if lams is None else parse_lams(lams, dtype)
        check_outputs(data, plot_path, out, grid)
        table = files.diabetes() if data is None else files.load(data)
        problem = assign(table, target or [], weights, drop or [], dtype)
        if rule is Rule.kfold and folds > len(problem.X):
            raise BadInput(f"--folds {folds} is more than the {len(problem.X)} rows of the data.")
        called = {Rule.loo: LOO, Rule.gcv: "GCV", Rule.kfold: f"{folds}-fold"}
        rules = {LOO: select.loo, "GCV": select.gcv}
        if rule is Rule.kfold:
            key = None if seed is None else jax.random.key(seed)
            rules[called[rule]] = select.kfold(folds, key=key)
        terms = {"standardize": standardize, "intercept": intercept}
        spectrum, resolved = factorise(problem.X, problem.y, problem.weights, **terms)
        path, choices = evaluate(spectrum, resolved if grid is None else grid, list(rules.values()), per_target)
        found = Sweep(path, dict(zip(rules, choices, strict=True)), called[rule])
        check_usable(found, problem)
        show(found, problem, full)
        say("note", [*table.notes, *notes_on(problem, rule, folds, seed)])
        say("warning", warnings_on(found, problem, grid is None))
        if plot_path:
            names = {"names": problem.features, "targets": problem.targets}
            picture = plot.figure(found.path, found.choices, found.rule, **names)
            with files.replacing(plot_path) as temporary:
                picture.savefig(temporary)
        if out:
            save(out, found, problem, rule)
        say("wrote", [str(path) for path in (plot_path, out) if path])


@app.command()
def predict(
    fit: Annotated[Path, typer.Argument(help="A fit that `sweep --out` wrote.")],
    data: Annotated[Path, typer.Argument(help="A table with the columns of the fit, in any order.")],
    out: Annotated[Path | None, typer.Option(help="File to write (.csv, .parquet, .npz); else CSV is printed.")] = None,
) -> None:
    """Predict the targets of new rows with a saved fit."""
    with one_sentence():
        if out:
            files.check_writable(out, (".csv", ".parquet", ".npz"), (fit, data))
        saved, table = files.load_fit(fit), files.load(data)
        table, notes = files.matched(table, saved.features)
        values = saved.predict(files.numbers(table, saved.features, saved.dtype))
        say("note", [*table.notes, *notes])
        if out is None:
            typer.echo(files.predictions_csv(saved.targets, values), nl=False)
        else:
            files.save_predictions(out, saved.targets, values)
            say("wrote", [str(out)])


@app.command()
def info() -> None:
    """Versions, devices, precision and which extras are installed."""
    dtype, matmul = jnp.zeros(()).dtype, jax.config.jax_default_matmul_precision  # pyright: ignore
    facts = {
        **{name: _version(name) or "not installed" for name in ("jaxridge", "jax", "jaxlib", "numpy")},
        "python": f"{platform.python_version()} on {platform.platform()}",
        "devices": ", ".join(f"{device} ({device.device_kind})" for device in jax.devices()),
        "default dtype": f"{dtype} (x64 {'on' if dtype == 'float64' else 'off'}); sweep computes in float64",
        "matmul precision": f"{matmul or 'default'}; jaxridge asks for the highest by itself",
        **{f"extra {extra}": state for extra, state in extras().items()},
    }
    width = max(map(len, facts))
    for name, fact in facts.items():
        typer.echo(f"{name:<{width}}  {fact}")


def extras() -> dict[str, str]:
    """What the package metadata names for each extra, with the versions installed."""
    pattern = re.compile(r"""([\w.-]+)[^;]*;\s*extra\s*==\s*['"]([\w-]+)['"]""")
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("jaxridge") or [] if _version("jaxridge") else []:
        match = pattern.match(line)
        if match and match[1] != "jaxridge":
            version = _version(match[1])
            found.setdefault(match[2], []).append(f"{match[1]} {version}" if version else f"{match[1]} missing")
    return {extra: ", ".join(parts) for extra, parts in found.items()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def one_sentence() -> Iterator[None]:
    """Bad input ends the program with its sentence on stderr and exit code 2."""
    try:
        with np.errstate(all="ignore"):  # numbers that are not finite are looked for, and said
            yield
    except BadInput as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


def say(kind: str, sentences: Sequence[str]) -> None:
    """One line each on stderr, so that stdout holds results alone."""
    for sentence in sentences:
        typer.secho(f"{kind}: {sentence}", fg="yellow" if kind == "warning" else None, err=True)


def parse_lams(spec: str, dtype: str) -> np.ndarray:
    """The grid that low:high:count or a comma-separated list stands for.

    >>> parse_lams("1:100:3", "float32").tolist(), parse_lams("3,0,3", "float64").tolist()
    ([1.0, 10.0, 100.0], [3.0, 0.0, 3.0])
    """
    parts, is_range = re.split("[:,]", spec), ":" in spec
    try:
        ends = [float(part) for part in (parts[:2] if is_range else parts)]
        count = int(parts[2]) if is_range else len(ends)
        if is_range and ("," in spec or len(parts) != 3):
            raise ValueError
    except (ValueError, IndexError):
        form = "write low:high:count, such as 1e-3:1e3:50, or a list such as 0,0.1,10"
        raise BadInput(f"--lams {spec!r} is not a grid; {form}.") from None
    wrong = [x for x in ends if not 0 <= x < np.inf]
    if wrong:
        raise BadInput(f"--lams {spec!r} holds {wrong[0]:g}; every λ must be a finite number ≥ 0.")
    if is_range and (min(ends) == 0 or ends[0] == ends[1] or not count >= 2):
        raise BadInput(f"--lams {spec!r} is not a range; it needs 0 < low < high and a count of at least 2.")
    if count > MOST:
        raise BadInput(f"--lams {spec!r} asks for {count} λ; {MOST} is the most.")
    exact = np.geomspace(ends[0], ends[1], count) if is_range else np.array(ends)
    grid = exact.astype(dtype)
    if not np.isfinite(grid).all() or ((grid == 0) & (exact > 0)).any():
        raise BadInput(f"--lams {spec!r} leaves the range of {dtype}; use --dtype float64.")
    return grid


def check_outputs(data: Path | None, picture: Path | None, out: Path | None, grid: np.ndarray | None) -> None:
    """Refuse outputs that could not be written, before any work."""
    if picture:
        try:
            formats = plot.formats()
        except ImportError as error:
            raise BadInput(str(error)) from None
        files.check_writable(picture, formats, (data,))
        if grid is not None and len(np.unique(grid[grid > 0])) < 2:
            raise BadInput("--plot needs at least two different positive λ; give more in --lams.")
    if out:
        files.check_writable(out, (".npz", ".json"), (data, picture))


def assign(table: files.Table, targets: list[str], weights: str | None, drop: list[str], dtype: str) -> Problem:
    """Give the columns their roles: targets, weights, dropped ones, and features for the rest."""
    targets = targets or [name for name in table.targets if name not in drop]
    weights = table.weights if weights is None and table.weights not in drop else weights
    if not targets:
        how = "add an array y, or name it" if table.source.lower().endswith(".npz") else "name it"
        raise BadInput(f"{table.source} does not say what to predict; {how} with --target: {quoted(table.columns)}.")
    for names, option in ((targets, "--target"), ([weights] if weights else [], "--weights"), (drop, "--drop")):
        files.check_known(table, names, option)
    roles = [*dict.fromkeys(targets), *([weights] if weights else []), *dict.fromkeys(drop)]
    repeated = sorted({name for name in roles if roles.count(name) > 1})
    if repeated:
        raise BadInput(f"Column {repeated[0]!r} has two roles; it can be a target, the weights or dropped.")
    # The targets that an NPZ file names are no features, even if only some of them are asked for.
    features = [name for name in table.columns if name not in {*roles, *table.targets, table.weights}]
    if not features:
        raise BadInput(f"{table.source} has no column left as a feature beside {quoted(roles)}.")
    targets = list(dict.fromkeys(targets))
    used = [*features, *targets, *([weights] if weights else [])]
    values = files.numbers(table, used, dtype)
    d, t = len(features), len(targets)
    X, y, w = values[:, :d], values[:, d : d + t], values[:, d + t] if weights else None
    if w is not None and (w < 0).any():
        raise BadInput(f"Weights {weights!r} are negative in data {files.row_list(w < 0)}; they must be ≥ 0.")
    if w is not None and not w.any():
        raise BadInput(f"Weights {weights!r} are all zero; at least two rows need a positive weight.")
    if len(X) < 2 or (w is not None and np.count_nonzero(w) < 2):
        raise BadInput(f"{table.source} has 1 row{' of positive weight' * (len(X) > 1)}; at least 2 are needed.")
    return Problem(X, y, w, features, targets, files.booleans(table, used), table.source)


def check_usable(found: Sweep, problem: Problem) -> None:
    """Refuse a sweep without any answer: what was computed is not finite, or lost its scale."""
    path, chosen, dtype = found.path, found.chosen, problem.X.dtype
    if not np.isfinite(path.lams).all() or not np.isfinite(chosen.fit.coef).all():
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


def notes_on(problem: Problem, rule: Rule, folds: int, seed: int | None) -> list[str]:
    """What was done to the input without being asked for, and options that did nothing."""
    notes = [f"column {name!r} of true and false is read as 1 and 0" for name in problem.booleans]
    if rule is not Rule.kfold and (folds != 5 or seed is not None):
        notes.append(f"--folds and --seed have no part in --rule {rule}")
    return notes


def warnings_on(found: Sweep, problem: Problem, default_grid: bool) -> list[str]:
    """What a careful reader of the result should know."""
    chosen, design, targets = found.chosen, found.path.spectrum.design, np.array(problem.targets)
    rows = problem.X if problem.weights is None else problem.X[problem.weights > 0]
    y = problem.y if problem.weights is None else problem.y[problem.weights > 0]
    (n, d), q, rank = rows.shape, design.Z.shape[1], int(found.path.spectrum.factor.rank)
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
        said.append(f"the {d} columns have numerical rank {rank}: some are linear combinations of others")
    for message, lams in failures(found).items():
        place = f"at {len(lams)} of {len(found.path)} λ (from {lams.min():.3g} to {lams.max():.3g})"
        hit = np.isin(np.asarray(chosen.lam), lams).any()
        said.append(f"{place}{', the chosen one among them' * bool(hit)}: {message}")
    return said


def edge_warnings(found: Sweep, targets: np.ndarray, default_grid: bool) -> list[str]:
    """A λ at an edge of the grid, and what it means where the grid already spans all that matters."""
    chosen = found.chosen
    lams, lam = np.asarray(found.path.lams), np.atleast_1d(chosen.lam)
    indifferent = (np.ptp(chosen.scores, axis=0) == 0).all()
    if lams.min() == lams.max() or indifferent or not np.any(chosen.at_edge):
        return []
    if not default_grid:
        return [chosen.message()]
    meanings = {
        lams.min(): "smallest λ that matters here: no penalty does as well",
        lams.max(): "largest λ that matters here: leaving all columns out does as well",
    }
    names = {edge: f" for {quoted(targets[lam == edge])}" if len(lam) > 1 else "" for edge in meanings}
    return [f"λ*{names[edge]} is the {what}" for edge, what in meanings.items() if (lam == edge).any()]


def show(found: Sweep, problem: Problem, full: bool) -> None:
    """Print the grid, the choice and the coefficients."""
    # Wide enough for every table, so that none is cut on a narrow terminal, or without one.
    console = rich.console.Console(width=10_000, soft_wrap=True, markup=False, highlight=False, emoji=False)
    terms = found.path.spectrum.design.terms
    facts = [
        f"{len(problem.X)} rows",
        f"{len(problem.features)} columns",
        "standardized" if terms.standardize else "not standardized",
        *(["weighted"] if problem.weights is not None else []),
        *([] if terms.intercept else ["no intercept"]),
        str(problem.X.dtype),
    ]
    console.print(f"{problem.source} → {listed(problem.targets)}", style="bold")
    console.print(", ".join(facts))
    show_grid(console, found, problem, full)
    show_choice(console, found, problem, full)
    show_coefficients(console, found, problem, full)


def show_grid(console: rich.console.Console, found: Sweep, problem: Problem, full: bool) -> None:
    """The λ in ascending order, evenly thinned but never without the ones that a rule takes."""
    path, chosen = found.path, found.chosen
    per_target, order = chosen.lam.ndim == 1 and len(problem.targets) > 1, np.argsort(path.lams, kind="stable")
    marks = marks_of(found, problem)
    kept = np.linspace(0, len(order) - 1, len(order) if full else min(ROWS, len(order))).round().astype(int)
    shown = [i for at, i in enumerate(order) if at in kept or i in marks]
    total = len(problem.y) if problem.weights is None else problem.weights.sum()
    columns = {"training": np.asarray(path.rss) / total, **{name: c.scores for name, c in found.choices.items()}}
    if per_target:
        scores, names = np.asarray(chosen.scores), problem.targets[:TARGETS]
        columns = {name: scores[:, [j]] for j, name in enumerate(names)}
    rmse = {name: np.sqrt(np.mean(np.asarray(x), axis=1)) for name, x in columns.items()}
    grid = new_grid("λ", "dof", *(f"{name}\nRMSE" for name in rmse), "")
    for i in shown:
        cells = (short(x[i]) for x in rmse.values())
        style = "bold" if "λ*" in marks.get(i, "") else None
        grid.add_row(f"{path.lams[i]:.3e}", f"{path.dof[i]:.2f}", *cells, marks.get(i, ""), style=style)
    console.print(grid)
    if len(shown) < len(order):
        console.print(f"{len(shown)} of {len(order)} λ; --full prints all", style="dim")


def marks_of(found: Sweep, problem: Problem) -> dict[int, str]:
    """What to write beside the rows that a rule takes, by their place in the grid."""
    marks: dict[int, list[str]] = {}
    for name in sorted(found.choices, key=lambda name: name != found.rule):
        index = np.asarray(found.choices[name].index)
        if index.size == 1:
            marks.setdefault(int(index.item()), []).append(f"{'λ* by' if name == found.rule else 'least'} {name}")
        elif name == found.rule:
            for i in np.unique(index).tolist():
                marks[i] = [f"λ* of {listed([problem.targets[j] for j in np.flatnonzero(index == i)])}"]
    return {i: f"← {', '.join(parts)}" for i, parts in marks.items()}


def show_choice(console: rich.console.Console, found: Sweep, problem: Problem, full: bool) -> None:
    """The λ taken, by which rule, and how well it predicts rows that it has not seen."""
    chosen, t = found.chosen, len(problem.targets)
    lam, dof = (np.broadcast_to(np.asarray(x), (t,)) for x in (chosen.lam, chosen.fit.dof))
    index = np.broadcast_to(np.asarray(chosen.index), (t,))
    error = np.asarray(found.choices[LOO].scores)[index, np.arange(t)]
    mean = np.average(problem.y, axis=0, weights=problem.weights)
    explained = 1 - error / np.average(np.square(problem.y - mean), axis=0, weights=problem.weights)
    if len(set(lam.tolist())) == 1:
        quality = f", R² {ratio(explained[0])}" if t == 1 else " over all targets"
        console.print(
            f"λ* = {lam[0]:.6g} by {found.rule}: {dof[0]:.2f} effective degrees of freedom, "
            f"{LOO} RMSE {short(np.sqrt(error.mean()))}{quality}"
        )
    if t > 1:
        grid = new_grid("target", "λ*", "dof", f"{LOO}\nRMSE", "R²")
        for j in range(t if full else min(t, COEFFICIENTS)):
            numbers = (f"{lam[j]:.6g}", f"{dof[j]:.2f}", short(np.sqrt(error[j])), ratio(explained[j]))
            grid.add_row(problem.targets[j], *numbers)
        console.print(grid)


def show_coefficients(console: rich.console.Console, found: Sweep, problem: Problem, full: bool) -> None:
    """The coefficients at the λ taken, in the units of the data, and where columns are scaled per deviation."""
    fit, t = found.chosen.fit, len(problem.targets)
    coef, sd = np.asarray(fit.coef), plot.column_sd(found.path.spectrum.design)[:, None]
    size = np.max(np.abs(coef * sd), axis=1)
    shown = np.arange(len(coef)) if full else np.sort(np.argsort(-size, kind="stable")[:COEFFICIENTS])
    across = t if full else min(t, TARGETS)
    heads = ["coefficient", "× column sd"] if t == 1 else problem.targets[:across]
    columns = np.concatenate([coef, coef * sd], axis=1) if t == 1 else coef
    grid = new_grid("column", *heads)
    for j in shown:
        grid.add_row(problem.features[j], *map(short, columns[j, : len(heads)]))
    if found.path.spectrum.design.terms.intercept:
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
    return f"{x:.3f}" if np.isfinite(x) else "undefined"


def listed(names: Sequence[str]) -> str:
    """Names with commas, a few at most."""
    return ", ".join(names[:TARGETS]) + (f" and {len(names) - TARGETS} more" if len(names) > TARGETS else "")


def save(out: Path, found: Sweep, problem: Problem, rule: Rule) -> None:
    """Write the fit at the λ taken, with the scores that it was taken by."""
    chosen = found.chosen
    fields = {
        "feature_names": problem.features,
        "target_names": problem.targets,
        "coef": np.asarray(chosen.fit.coef),
        "intercept": np.asarray(chosen.fit.intercept),
        "lam": np.asarray(chosen.lam),
        "dtype": str(problem.X.dtype),
        "rule": str(rule),
        "standardize": found.path.spectrum.design.terms.standardize,
        "lams": np.asarray(found.path.lams),
        "scores": np.asarray(chosen.scores),
        "dof": np.asarray(found.path.dof),
    }
    files.save_fit(out, fields)


def main() -> None:
    """The console entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="jaxridge")


if __name__ == "__main__":
    main()
