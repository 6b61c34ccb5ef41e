"""Two sweeps side by side."""

from __future__ import annotations

import pytest
import yaml

from analysis import RecordError, load
from analysis.comparison import compare, differences
from tests.analysis.conftest import SweepBuilder


@pytest.fixture
def other(builder: SweepBuilder) -> SweepBuilder:
    return SweepBuilder(builder.storage, "other")


def test_differences_are_over_episodes_of_equal_seeds(
    builder: SweepBuilder, other: SweepBuilder
) -> None:
    """The starts differ by far more than the sweeps do, which only pairs can see."""
    builder.row("ractd", [10.0, 100.0, 200.0, 50.0])
    other.row("ractd", [11.0, 102.0, 201.0, 52.0], key="another")
    builder.row("ctd", [1.0])
    (found,) = differences(load(builder.storage, ["quickstart"]), load(builder.storage, ["other"]))
    assert (found.method, found.pairs, found.difference) == ("ractd", 4, 1.5)
    assert found.low is not None
    assert 1.0 <= found.low <= 1.5


def test_other_data_have_no_interval_and_a_warning(
    builder: SweepBuilder, other: SweepBuilder
) -> None:
    builder.data()
    other.data(fingerprint="c0ffee" * 10)
    builder.row("ractd", [1.0, 2.0])
    other.row("ractd", [5.0, 6.0], fingerprint="c0ffee" * 10)
    text = compare(builder.storage, "quickstart", "other")
    assert "**local/maze2d-umaze-v1 is not the same data in both**" in text
    assert "| +4.0 " in text
    (found,) = differences(load(builder.storage, ["quickstart"]), load(builder.storage, ["other"]))
    assert (found.pairs, found.low) == (0, None)


def test_only_what_was_set_differently_is_listed(
    builder: SweepBuilder, other: SweepBuilder
) -> None:
    for each, steps in ((builder, 100), (other, 200)):
        spec = {
            "name": each.name,
            "trials": 3,
            "recipe": {"student": {"optim": {"steps": steps, "lr": 0.1}}},
        }
        (each.folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    text = compare(builder.storage, "quickstart", "other")
    assert "| recipe.student.optim.steps | 100" in text
    assert "optim.lr" not in text
    assert "trials |" not in text.partition("## Cost")[0]
    assert "They have no final row in common." in text


def test_a_sweep_is_not_compared_with_itself(builder: SweepBuilder) -> None:
    with pytest.raises(RecordError, match="compared with itself"):
        compare(builder.storage, "quickstart", "quickstart")
