"""The command line: load a table, evaluate every λ, print the table, draw the picture, write the file."""

import importlib.metadata
import io
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import plot, select

try:
    import typer

    from jaxridge.cli import files, streamed
    from jaxridge.cli.files import BadInput, quoted
    from jaxridge.cli.found import LOO, Facts, Precision, Roles, Rule, Sweep, evaluate, factorise, facts_of
    from jaxridge.cli.report import check_usable, edge_warnings, failure_warnings, notes_on, show, warnings_on
except ModuleNotFoundError as error:
    print(f'error: The command line needs {error.name}: pip install "jaxridge[cli]".', file=sys.stderr)
    raise SystemExit(2) from None

MOST = 10_000  # more λ are taken for a mistake

app = typer.Typer(
    help="Ridge regression: every λ from one factorisation, the one to take, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def sweep(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="A .csv, .tsv, .parquet, .arrow or .npz table, a folder of such tables, or a pattern in quotes; left "
            "out: the embedded diabetes data."
        ),
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
        Rule | None,
        typer.Option(
            help="Leave-one-out, generalised cross-validation or k-fold; left out: loo in memory, gcv for rows "
            "that are read a batch at a time, which loo would go over twice.",
            rich_help_panel="Model",
        ),
    ] = None,
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
    memory: Annotated[
        str,
        typer.Option(
            help="A table whose sweep would take more is read a batch at a time; so are folders and patterns.",
            rich_help_panel="Large data",
            metavar="SIZE",
        ),
    ] = "4GiB",
    resume: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint of the pass over the rows, written on the way; a pass that was cut off goes on from it.",
            rich_help_panel="Large data",
            metavar="FILE",
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out rows that are not finite and files that cannot be read, each with a note.",
            rich_help_panel="Large data",
        ),
    ] = False,
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
        if data is not None and (resume is not None or skip_bad or streamed.is_for(data, streamed.as_bytes(memory))):
            rule = Rule.gcv if rule is None else rule
            of = streamed.Wanted(target or [], weights, drop or [], rule, folds, per_target, standardize, intercept)
            found, facts, notes = streamed.sweep(data, of, grid, resume, skip_bad)
            streamed.check_usable(found, facts)
            show(found, facts, full)
            say("note", notes)
            edges = edge_warnings(found, np.array(facts.targets), grid is None)
            say("warning", [*edges, *streamed.warnings_on(found, facts), *failure_warnings(found)])
            finish(found, facts, rule, plot_path, out)
            return
        rule = Rule.loo if rule is None else rule
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
        facts = facts_of(problem, found.path.factored.problem)
        show(found, facts, full)
        say("note", [*table.notes, *notes_on(problem, rule, folds, seed)])
        say("warning", warnings_on(found, problem, grid is None))
        finish(found, facts, rule, plot_path, out)


def finish(found: Sweep, facts: Facts, rule: Rule, plot_path: Path | None, out: Path | None) -> None:
    """Write what was asked for."""
    if plot_path:
        names = {"names": facts.features, "targets": facts.targets}
        picture = plot.figure(found.path, found.choices, found.rule, **names)
        with files.replacing(plot_path) as temporary:
            picture.savefig(temporary)
    if out:
        save(out, found, facts, rule)
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


def assign(table: files.Table, targets: list[str], weights: str | None, drop: list[str], dtype: str) -> Roles:
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
    return Roles(X, y, w, features, targets, files.booleans(table, used), table.source)


def save(out: Path, found: Sweep, facts: Facts, rule: Rule) -> None:
    """Write the fit at the λ taken, with the scores that it was taken by."""
    chosen = found.chosen
    fields = {
        "feature_names": facts.features,
        "target_names": facts.targets,
        "coef": np.asarray(chosen.fit.coef),
        "intercept": np.asarray(chosen.fit.intercept),
        "lam": np.asarray(chosen.lam),
        "dtype": facts.dtype,
        "rule": str(rule),
        "standardize": found.path.factored.problem.terms.standardize,
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
