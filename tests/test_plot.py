"""Pictures show the numbers of their record, on a log axis, with names, and nothing on global state."""

import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxridge as jxr
from jaxridge import inverse, plot

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 3)) * [1.0, 30.0, 0.2] + [0.0, 5.0, 0.0]
Y = X @ rng.normal(size=(3, 2)) + rng.normal(size=(20, 2))
LAMS = np.array([1.0, 0.0, 100.0, 0.01])
SORTED = np.array([0.01, 1.0, 100.0])
ORDER = [3, 0, 2]
NAMES = ["a", "$b$", "_c"]


def two_targets() -> jxr.Path:
    return jxr.ridge_path(X, Y, LAMS)


def curves(ax) -> dict[str, np.ndarray]:
    """The data of each drawn line of more than two points, by colour and style."""
    lines = [line for line in ax.lines if len(np.atleast_1d(line.get_xdata())) == len(SORTED)]
    assert all(np.array_equal(line.get_xdata(), SORTED) for line in lines)
    return {f"{line.get_color()}{line.get_linestyle()}": np.asarray(line.get_ydata()) for line in lines}


def marked(ax) -> list[float]:
    """Where vertical lines stand."""
    return [float(line.get_xdata()[0]) for line in ax.lines if list(line.get_ydata()) == [0, 1]]


@pytest.mark.parametrize(("standardize", "weights"), [(False, None), (True, None), (True, np.linspace(0.0, 2.0, 20))])
def test_path_draws_the_coefficients_of_one_target(standardize, weights):
    model = jxr.ridge_path(X, Y, LAMS, standardize=standardize, weights=weights)
    ax = Figure().subplots()
    assert plot.path(model, ax, names=NAMES, lam=1.0, target=1) is ax
    mean = np.average(X, axis=0, weights=weights)
    sd = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights)) if standardize else np.ones(3)
    expected = np.asarray(model.coef)[ORDER, :, 1] * sd
    drawn = np.array(sorted(curves(ax).values(), key=tuple))
    np.testing.assert_allclose(drawn, sorted(expected.T, key=tuple), rtol=1e-12)
    assert ax.get_ylabel() == ("coefficient × column sd" if standardize else "coefficient")
    assert ax.get_xscale() == "log"
    assert sorted(text.get_text() for text in ax.texts) == ["0", r"\$b\$", "_c", "a"]
    assert marked(ax) == [1.0]


def test_names_stand_in_the_order_of_their_curves():
    model = two_targets()
    ax = plot.path(model, Figure().subplots(), names=NAMES)
    heights = {text.get_text().replace("\\", ""): text.xyann[1] for text in ax.texts}
    first = dict(zip(NAMES, np.asarray(model.coef)[np.argmin(LAMS), :, 0], strict=True))
    assert sorted(NAMES, key=heights.get) == sorted(NAMES, key=first.get)


def test_unpenalized_columns_keep_their_place():
    design = jxr.design.make_design(X, Y, standardize=True, unpenalized=(1,))
    np.testing.assert_allclose(jxr.design.column_sd(design), X.std(axis=0), rtol=1e-12)


def with_fits(path, **changes):
    """A path with other numbers in its models."""
    return dataclasses.replace(path, fits=dataclasses.replace(path.fits, **changes))


def test_many_columns_are_named_by_size_and_told_apart():
    coef = jnp.linspace(0.0, 29.0, 30)[None, :] / (1.0 + jnp.array(LAMS))[:, None]
    model = with_fits(two_targets(), coef=coef)
    ax = plot.path(model, Figure(figsize=(8, 6)).subplots())
    named = [text for text in ax.texts if text.get_text().startswith("column")]
    assert {text.get_text() for text in named} == {f"column {j}" for j in range(20, 30)}
    assert len({key for key in curves(ax) if not key.startswith("0.")}) == plot.LABELLED
    assert any("10 largest of 30" in text.get_text() for text in ax.texts)
    heights = np.diff(sorted(text.xyann[1] for text in named))
    inches = ax.bbox.height / ax.figure.dpi
    low, high = ax.get_ylim()
    assert heights.min() / (high - low) * inches * 72 > 0.9 * plot.FONT, "a line of text apart"


def test_scores_draw_roots_least_and_spread():
    choice = jxr.ridge_cv(X, Y[:, 0], LAMS)
    ax = Figure().subplots()
    assert plot.scores(choice, ax, label="loo", root=True, color="#0072B2") is ax
    np.testing.assert_allclose(curves(ax)["#0072B2-"], np.sqrt(np.asarray(choice.scores)[ORDER]), rtol=1e-12)
    best = np.argmin(np.asarray(choice.scores)[ORDER])
    assert [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"] == [SORTED[best]]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(np.sqrt(np.max(np.asarray(choice.scores + choice.spread)[ORDER])))
    assert ax.get_ylabel() == "RMSE"


def test_scores_of_several_targets():
    choice = jxr.ridge_cv(X, Y, LAMS, rule=jxr.select.gcv, per_target=True)
    scores = np.asarray(choice.scores)[ORDER]
    mean = plot.scores(choice, Figure().subplots(), color="C0")
    one = plot.scores(choice, Figure().subplots(), target=1, color="C0")
    np.testing.assert_allclose(curves(mean)["C0-"], scores.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(curves(one)["C0-"], scores[:, 1], rtol=1e-12)


def test_dof_marks_the_chosen_lam():
    model = two_targets()
    ax = plot.dof(model, Figure().subplots(), lam=1.0)
    np.testing.assert_allclose(curves(ax)["0.25-"], np.asarray(model.dof)[ORDER], rtol=1e-12)
    assert [text.get_text() for text in ax.texts] == ["0", f"{float(model.dof[0]):.1f}"]
    assert marked(ax) == [1.0]


@pytest.mark.parametrize("per_target", [True, False])
def test_figure_has_a_column_of_panels_for_each_target(per_target, tmp_path):
    choice = jxr.ridge_cv(X, Y, LAMS, rule=jxr.select.gcv, per_target=True)
    choice = choice if per_target else dataclasses.replace(choice, lam=jnp.array(1.0))
    choices = {"other": dataclasses.replace(choice, scores=2 * choice.scores), "GCV": choice}
    figure = plot.figure(two_targets(), choices, "GCV", names=NAMES, targets=["u", "v"])
    lams = np.broadcast_to(np.asarray(choice.lam), 2)
    assert len(figure.axes) == 6
    for target, ax in enumerate(figure.axes[:2]):
        assert ax.get_title() == f"{'uv'[target]}: λ = {lams[target]:.4g} by GCV"
        assert marked(ax) == ([lams[target]] if lams[target] > 0 else [])
    assert [text.get_text() for text in figure.axes[2].get_legend().get_texts()] == ["other", "GCV"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "", "", "λ (log scale)", "λ (log scale)"]
    figure.savefig(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_figure_draws_four_targets_and_says_so():
    model = two_targets()
    model = with_fits(model, coef=jnp.concatenate([model.coef] * 3, axis=2))
    choice = jxr.ridge_cv(X, Y, LAMS, rule=jxr.select.gcv, per_target=True)
    choice = dataclasses.replace(choice, lam=jnp.array(1.0), scores=jnp.concatenate([choice.scores] * 3, axis=1))
    figure = plot.figure(model, {"GCV": choice}, "GCV")
    assert len(figure.axes) == 12
    assert figure.get_suptitle() == "the first 4 of 6 targets"


A = np.array([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
B = np.array([[4.0, -1.0], [0.0, 3.0], [1.0, 1.0]])


def test_picard_draws_three_curves():
    ax = Figure().subplots()
    assert plot.picard(inverse.picard(A, B[:, 1]), ax) is ax
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in ax.lines}
    assert all(np.array_equal(line.get_xdata(), [1, 2]) for line in ax.lines)
    np.testing.assert_allclose(drawn["singular values $s_i$"], [2.0, 0.5], rtol=1e-12)
    np.testing.assert_allclose(drawn["$|u_i^T b|$"], [1.0, 3.0], rtol=1e-12)
    np.testing.assert_allclose(drawn["$|u_i^T b| / s_i$"], [0.5, 6.0], rtol=1e-12)
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(drawn)


def test_picard_of_one_right_hand_side_leaves_zeros_out():
    ax = plot.picard(inverse.picard(A, B), Figure().subplots(), target=0)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [4.0, np.nan], rtol=1e-12)


def l_path(b: np.ndarray) -> jxr.Path:
    return inverse.tikhonov_path(A, b, [1.0, 100.0, 0.01])


@pytest.mark.parametrize("target", [None, 1])
def test_l_curve_draws_residuals_and_norms_by_lam(target):
    path = l_path(B[:, 0] if target is None else B)
    fits = [np.linalg.solve(A.T @ A + lam * np.eye(2), A.T @ B[:, target or 0]) for lam in SORTED]
    ax = Figure().subplots()
    assert plot.l_curve(path, ax, target=target or 0) is ax
    residuals = [np.linalg.norm(A @ x - B[:, target or 0]) for x in fits]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), residuals, rtol=1e-12)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [np.linalg.norm(x) for x in fits], rtol=1e-12)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_legend() is None


def test_l_curve_marks_choices_and_those_that_agree_once():
    path = l_path(B[:, 0])
    choices = {"first": path[0], "second": path[2], "third": path[0]}
    ax = plot.l_curve(path, Figure().subplots(), choices=choices)
    marks = {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in ax.lines[3:]}
    assert list(marks) == ["first, third, λ = 1", "second, λ = 0.01"]
    for label, i in (("first, third, λ = 1", 0), ("second, λ = 0.01", 2)):
        np.testing.assert_allclose(np.ravel(marks[label]), [path.rss[i] ** 0.5, path.norm[i]], rtol=1e-12)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(marks)
    alone = plot.l_curve(path, Figure().subplots(), choices=path[1])
    assert alone.lines[-1].get_label() == "λ = 1e+02"


def test_l_curve_shows_what_was_not_solved_hollow():
    path = with_fits(l_path(B[:, 0]), steps=jnp.array([3, 2, -1]))
    ax = plot.l_curve(path, Figure().subplots())
    filled, hollow = ax.lines[1:3]
    assert len(filled.get_xdata()) == 2
    np.testing.assert_allclose(hollow.get_ydata(), [path.norm[2]], rtol=1e-12)
    assert hollow.get_markerfacecolor() == "white"


def test_images_share_their_grey_scale():
    pictures = {"true": jnp.arange(6.0).reshape(2, 3), "other": jnp.ones((4, 4))}
    axes = Figure().subplots(1, 2)
    assert plot.images(pictures, axes) is axes
    for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
        assert ax.get_title() == name
        np.testing.assert_array_equal(ax.images[0].get_array(), picture)
        assert ax.images[0].get_clim() == (0.0, 5.0)
    alone = Figure().subplots()
    plot.images({"true": pictures["true"]}, alone, limits=(-1.0, 1.0))
    assert alone.images[0].get_clim() == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda ax: plot.picard(l_path(B[:, 0]), ax), r"is a Path; pass what jaxridge.inverse.picard"),
        (lambda ax: plot.l_curve(two_targets(), ax), r"pass what jaxridge.inverse.tikhonov_path"),
        (lambda ax: plot.l_curve(l_path(B[:, 0]), ax, choices={"a": 1.0}), r"is a float; pass what"),
        (lambda ax: plot.images({"a": jnp.ones(3)}, ax), r"shapes \[\(3,\)\]"),
        (lambda ax: plot.images({}, ax), r"shapes \[\]"),
        (lambda ax: plot.images({"a": jnp.eye(2), "b": jnp.eye(2)}, ax), r"1 for 2 pictures"),
    ],
)
def test_other_records_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(Figure().subplots())


def test_pictures_leave_pyplot_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    choice = jxr.ridge_cv(X, Y, LAMS, rule=jxr.select.gcv, per_target=True)
    plot.figure(two_targets(), {"GCV": choice}, "GCV")
    assert dict(matplotlib.rcParams) == before


def test_a_grid_without_a_positive_lam_is_refused():
    model = dataclasses.replace(two_targets(), lams=jnp.zeros(4))
    with pytest.raises(ValueError, match="no positive number"):
        plot.path(model, Figure().subplots())


def test_curves_with_gaps_and_of_many_scales_are_drawn():
    choice = jxr.ridge_cv(X, Y[:, 0], LAMS)
    wide = dataclasses.replace(choice, scores=choice.lams + 1e-9)
    model = with_fits(two_targets(), coef=two_targets().coef[:, :, 0])
    figure = plot.figure(model, {"loo": wide}, "loo")
    assert figure.axes[1].get_yscale() == "log"
    holed = dataclasses.replace(choice, scores=choice.scores * jnp.nan, spread=None)
    assert len(plot.scores(holed, Figure().subplots()).lines) == 1


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"jaxridge\[plot\]"):
        plot.formats()


def test_rules_side_by_side_mark_what_each_takes():
    X = np.random.default_rng(2).standard_normal((30, 4))
    y = X[:, 0] + np.random.default_rng(3).standard_normal(30)
    found = jxr.ridge_compare(X, y, {"loo": jxr.select.loo, "evidence": jxr.select.evidence})
    ax = plot.rules(found, Figure().subplots())
    marks = [line for line in ax.lines if line.get_marker() == "v"]
    np.testing.assert_allclose([mark.get_xdata()[0] for mark in marks], found.lam)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loo", "evidence"]
    curve = ax.lines[0].get_ydata()
    assert np.nanmin(curve) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match=r"pass what jaxridge\.ridge_compare returned"):
        plot.rules(found.choices["loo"], Figure().subplots())
