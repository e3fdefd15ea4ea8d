"""Rules side by side: each as by itself, from one factorisation, with a warning where they disagree."""

import jax
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import kernels, select

RNG = np.random.default_rng(12)
X = RNG.standard_normal((40, 4))
Y = X @ [1.0, -0.5, 0.0, 0.2] + RNG.standard_normal(40)
RULES = {"loo": select.loo, "gcv": select.gcv, "evidence": select.evidence, "folds": select.kfold(4), "bic": select.bic}
LAMS = np.logspace(-2, 4, 13)


TWO = np.stack([Y, -Y + X[:, 2]], 1)
whole = pytest.mark.whole


@pytest.mark.parametrize(
    ("y", "names"), [(TWO, ["gcv", "folds"]), *(pytest.param(y, RULES, marks=whole) for y in (Y, TWO))]
)
def test_each_rule_as_by_itself(y, names):
    rules = {name: RULES[name] for name in names}
    found = jxr.ridge_compare(X, y, rules, LAMS, standardize=True)
    for i, (name, rule) in enumerate(rules.items()):
        alone = jxr.ridge_cv(X, y, LAMS, rule=rule, refine=True, standardize=True)
        np.testing.assert_allclose(found.choices[name].lam, alone.lam, rtol=1e-8)
        np.testing.assert_allclose(found.coef[i], alone.fit.coef, rtol=1e-8)
        np.testing.assert_allclose(found.choices[name].scores, alone.scores, rtol=1e-10)


def test_each_rule_as_by_itself_for_kernels():
    kernel = kernels.RBF(2.0)
    found = jxr.kernel_ridge_compare(X, Y, {"loo": select.loo, "folds": select.kfold(4)}, LAMS, kernel=kernel)
    alone = jxr.kernel_ridge_cv(X, Y, LAMS, kernel=kernel, rule=select.kfold(4), refine=True)
    np.testing.assert_allclose(found.lam[1], alone.lam, rtol=1e-7)
    np.testing.assert_allclose(found.norm[1], alone.fit.norm, rtol=1e-7)


def test_one_factorisation():
    text = jax.jit(lambda X: jxr.ridge_compare(X, Y, {"gcv": select.gcv, "loo": select.loo}).lam).lower(X).as_text()
    assert text.count("gesdd") + text.count("svd_ffi") <= 2


def test_the_table_and_its_warning():
    found = jxr.ridge_compare(X, Y, RULES, LAMS)
    lines = str(found).splitlines()
    assert lines[0].split() == ["rule", "lam", "score", "std", "err", "dof", "rss", "outcome"]
    assert [line.split()[0] for line in lines[1:6]] == list(RULES)
    assert lines[2].split()[3] == "-"
    apart = {"small": lambda problem, factored, lam: lam[None] ** 2, "gcv": select.gcv}
    said = jxr.ridge_compare(X, Y, apart, LAMS)
    assert "The rules disagree by" in str(said)
    assert "solved, edge" in str(said)
    frame = pytest.importorskip("pandas").DataFrame(X, columns=list("abcd"))
    assert jxr.ridge_compare(frame, Y, {"gcv": select.gcv}, LAMS).choices["gcv"].fit.names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("rules", "message"), [({}, "rules is empty"), ([select.gcv], "pass a dict of names and rules")]
)
def test_misuse_is_named(rules, message):
    with pytest.raises(ValueError, match=message):
        jxr.ridge_compare(X, Y, rules)
    with pytest.raises(ValueError, match=message):
        jxr.kernel_ridge_compare(X, Y, rules, kernel=kernels.RBF())
