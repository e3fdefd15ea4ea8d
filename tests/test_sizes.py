"""A sample of `sizes`: `make census` judges every cell, to a million rows, and with x64 off."""

import pytest
import sizes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("verb", [*sizes.SOLVERS, "stream"])
def test_right_at_real_sizes(verb, dtype):
    """No success that is wrong, and at most one useful answer in twenty flagged."""
    sample = [cell for rows in (100, 20_000) for cell in list(sizes.cells(dtype, (rows,)))[::9]]
    found = [(cell, verdict) for cell in sample for verdict in sizes.judge(cell, (verb,))]
    assert [(str(cell), verdict) for cell, verdict in found if verdict[1] == "wrong"] == []
    useful = [kind for _, (_, kind, _, error, _) in found if error < 0.01]
    assert len(useful) >= 30
    assert useful.count("needless") <= max(1, 0.05 * len(useful)) + 1
