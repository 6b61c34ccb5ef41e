"""The winners' diagnostics: read from records, told in a table, absent from older ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from analysis import RecordError, write_report
from analysis.diagnostics import diagnostics_table, diagnostics_text
from analysis.records import load
from analysis.schema import DIAGNOSTICS
from ractd_core.diagnostics import Diagnostics

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder

FOUND: Diagnostics = {
    "reward_r2_train": 0.9,
    "reward_r2_held_out": 0.814,
    "reward_r2_own": -0.25,
    "reward_rank_own": 0.625,
    "reward_bias_own": -12.34,
    "reward_pairs_own": 4096.0,
    "gain": 1.5,
    "saturated": 0.125,
    "saturated_data": 0.01,
    "disagreement": 0.3,
    "disagreement_data": 0.1,
    "coverage_all": 0.5,
    "coverage_all_own": 0.9,
    "coverage_high": 0.25,
    "coverage_high_own": 0.8,
}
SELECTION: dict[str, Any] = {"rule": "last", "std": 1.0, "episodes": 50, "first_seed": 10_000}
SELECTION |= dict.fromkeys(("last", "best", "mean_of_last"), 9.0)
QUANTILES = {"q05": 1.0, "q25": 2.0, "q50": 3.0, "q75": 4.0, "q95": 5.0}


def test_trials_carry_diagnostics_and_quantiles_and_old_ones_none(builder: SweepBuilder) -> None:
    builder.trial(0)
    selection = SELECTION | {"score": 9.0} | QUANTILES
    builder.trial(1, diagnostics=FOUND | {"disagreement": None}, selection=selection)
    builder.trial(2, "failed", diagnostics=None)
    builder.trial(3, diagnostics={"failed": "ValueError: no such window"})
    trials = load(builder.storage, ["quickstart"]).trials
    assert set(FOUND) == set(DIAGNOSTICS)
    for name, value in FOUND.items():
        assert trials[name].dtype == "float64"
        assert trials[name].isna().tolist() == [True, name == "disagreement", True, True]
        assert name == "disagreement" or trials.loc[1, name] == value
    for name, value in QUANTILES.items():
        assert trials[f"selection_{name}"].isna().tolist() == [True, False, True, True]
        assert trials.loc[1, f"selection_{name}"] == value
    assert trials["diagnostics_failed"].isna().tolist() == [True, True, True, False]


def test_a_diagnosis_that_is_no_number_is_named(builder: SweepBuilder) -> None:
    builder.trial(0, diagnostics=FOUND | {"gain": "much"})
    with pytest.raises(RecordError, match=r"record\.json: diagnostics: key 'gain' is 'much'"):
        load(builder.storage, ["quickstart"])


def test_the_table_is_of_each_datasets_best_trial(builder: SweepBuilder) -> None:
    for number, (score, dataset) in enumerate([(1, "b"), (5, "b"), (5, "b"), (3, "a"), (9, "c")]):
        found = FOUND | {"gain": float(number)}
        builder.trial(
            number,
            dataset=f"local/{dataset}",
            selection=SELECTION | {"score": float(score)},
            # The winner of the last dataset was recorded before there were any.
            diagnostics=None if dataset == "c" else found,
        )
    table = diagnostics_table(load(builder.storage, ["quickstart"]))
    assert table["dataset"].tolist() == ["local/a", "local/b"]
    assert table["number"].tolist() == [3, 1]
    assert table["gain"].tolist() == [3.0, 1.0]


def test_the_table_is_of_the_trial_that_was_confirmed_best(builder: SweepBuilder) -> None:
    for number in range(4):
        builder.trial(number, diagnostics=FOUND | {"gain": float(number)})
    # By the search alone the last one is the best.
    for number, score in ((3, None), (2, 100.0), (1, 120.0)):
        builder.confirmation(number, score)
    table = diagnostics_table(load(builder.storage, ["quickstart"]))
    assert table["number"].tolist() == [1]


def test_the_table_as_text(builder: SweepBuilder) -> None:
    builder.trial(4, diagnostics=FOUND)
    [line] = diagnostics_text(diagnostics_table(load(builder.storage, ["quickstart"]))).to_dict(
        "records"
    )
    assert line == {
        "dataset": builder.dataset,
        "trial": "4",
        "R², held out": "0.81",
        "R², own": "-0.25",
        "bias, own": "-12.3",
        "rank, own": "0.62",
        "gain": "+1.50",
        "saturated": "12.5% (1.0%)",
        "disagreement": "3.00",
        "coverage": "0.50 (0.90)",
        "coverage, high": "0.25 (0.80)",
    }


def test_the_report_shows_them_and_says_how_to_read_each(builder: SweepBuilder) -> None:
    builder.trial(0)
    assert "Diagnostics" not in write_report(builder.storage, "quickstart").markdown.read_text()
    builder.trial(1, diagnostics=FOUND)
    report = write_report(builder.storage, "quickstart")
    for text in (report.markdown.read_text(), report.page.read_text()):
        assert "Diagnostics" in text
        assert "12.5% (1.0%)" in text
        for name in ("R², held out", "R², own", "Rank, own", "Gain", "Saturated"):
            assert f"{name}: " in text
        for name in ("Disagreement", "Coverage"):
            assert f"{name}: " in text
    assert pd.read_csv(report.trials_csv)["gain"].dropna().tolist() == [1.5]


def test_the_report_says_why_a_winner_was_not_diagnosed(builder: SweepBuilder) -> None:
    builder.trial(2, diagnostics={"failed": "ValueError: <no> window"})
    report = write_report(builder.storage, "quickstart")
    why = f"Trial 2 of {builder.dataset} could not be diagnosed: ValueError: &lt;no&gt; window."
    assert why in report.page.read_text()
    assert why.replace("&lt;no&gt;", r"\<no\>") in report.markdown.read_text()
