"""Two sweeps side by side."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from analysis import RecordError, load
from analysis.comparison import compare, differences
from analysis.stats import student_mean
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


def test_the_interval_is_over_training_seeds_where_there_are_several(
    builder: SweepBuilder, other: SweepBuilder
) -> None:
    """Many episodes of three training seeds say no more than the three differences."""
    for each, means in ((builder, (100.0, 60.0, 80.0)), (other, (70.0, 110.0, 95.0))):
        folder = each.row("ractd", [1.0] * 4, training_seeds=(0, 1, 2))
        lines = [
            f"{seed},{1_000_000 + i},1.0,{mean + i},300"
            for seed, mean in enumerate(means)
            for i in range(4)
        ]
        text = "\n".join(["training_seed,seed,return,score,length", *lines, ""])
        (folder / "episodes.csv").write_text(text)
    (found,) = differences(load(builder.storage, ["quickstart"]), load(builder.storage, ["other"]))
    assert (found.pairs, found.seeds) == (12, 3)
    assert (found.first, found.second) == pytest.approx((81.5, 93.166667))
    expected = student_mean([-30.0, 50.0, 15.0])
    assert (found.difference, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert "| 12 of 3 training seeds |" in compare(builder.storage, "quickstart", "other")


def test_a_diverged_training_seed_counts_in_the_difference(
    builder: SweepBuilder, other: SweepBuilder
) -> None:
    builder.row("ctd", [50.0, 50.0], training_seeds=(0,))
    lost: dict[str, Any] = {
        "status": "failed",
        "reason": "diverged: NaN",
        "evaluation": None,
        "latency": None,
    }
    other.row("ctd", [50.0, 50.0], training_seeds=(0,), **lost)
    (found,) = differences(load(builder.storage, ["quickstart"]), load(builder.storage, ["other"]))
    assert (found.first, found.second, found.difference) == (50.0, 0.0, -50.0)
    assert (found.low, found.pairs) == (None, 0)


def test_other_data_have_no_interval_and_a_warning(
    builder: SweepBuilder, other: SweepBuilder
) -> None:
    builder.data()
    other.data(fingerprint="c0ffee" * 10)
    builder.row("ractd", [1.0, 2.0])
    other.row("ractd", [5.0, 6.0], fingerprint="c0ffee" * 10)
    text = compare(builder.storage, "quickstart", "other")
    assert "**local/maze2d-umaze-v1 is not the same data in both**" in text
    assert " +4.0 |" in text
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
    assert "| recipe.student.optim.steps | 100 | 200 |" in " ".join(text.split())
    assert "optim.lr" not in text
    assert "trials |" not in text.partition("## Cost")[0]
    assert "They have no final row in common." in text


def test_a_sweep_is_not_compared_with_itself(builder: SweepBuilder) -> None:
    with pytest.raises(RecordError, match="compared with itself"):
        compare(builder.storage, "quickstart", "quickstart")


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe", b"- a list"])
def test_a_spec_that_is_no_mapping_is_named(
    builder: SweepBuilder, other: SweepBuilder, content: bytes
) -> None:
    (other.folder / "spec.yaml").write_bytes(content)
    with pytest.raises(RecordError, match=r"other/spec\.yaml: "):
        compare(builder.storage, "quickstart", "other")
