"""The winners' diagnostics as a table, and how each of its numbers is read."""

from __future__ import annotations

import pandas as pd

from analysis.confirmation import winners
from analysis.records import Records
from analysis.schema import DIAGNOSTICS
from analysis.tables import MISSING, number_texts

NOTE = (
    "Of each dataset's winner. "
    "R², held out: the share of the variance of returns-to-go that the reward model explains on "
    "episodes of the data it was not trained on; 1 is perfect, 0 is no better than their mean. "
    "R², own: the same on the trial's own episodes; it falls below 0 where the student earns "
    "otherwise than the data's behaviour did from the same states, of which the bias (mean "
    "prediction less mean return) tells the direction. "
    "Rank, own: Spearman's correlation there; near 0 the model no longer tells better from worse "
    "where the student goes, and its gradient is worth nothing. "
    "Gain: by how many standard deviations of its predictions the reward model prefers the "
    "student's windows to the data's in the same states; a large gain without a better score is "
    "one that the student found in the model's errors. "
    "Saturated: the share of the student's entries at the ends of the data's range, the data's "
    "own in parentheses; much more than the data's is a sign of collapse. "
    "Disagreement: the reward ensemble's spread on the student's windows over that on the data's; "
    "well above 1 the student has left what the ensemble knows. "
    "Coverage: the share of the data's first actions (mazes: plans) that lie among the teacher's "
    "samples for the same state, over all episodes and over the tenth with the highest returns, "
    "in parentheses what samples of the teacher's own reach; what the teacher does not cover, its "
    "student cannot learn from it."
)


def diagnostics_table(sweep: Records) -> pd.DataFrame:
    """One line per dataset whose winner was diagnosed."""
    best = winners(sweep)
    diagnosed = best[list(DIAGNOSTICS)].notna().any(axis=1) | best["diagnostics_failed"].notna()
    return best.loc[diagnosed, ["dataset", "number", *DIAGNOSTICS, "diagnostics_failed"]]


def diagnostics_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every cell as text for a reader."""
    ratio = table["disagreement"] / table["disagreement_data"]
    return pd.DataFrame(
        {
            "dataset": table["dataset"],
            "trial": table["number"].astype("str"),
            "R², held out": number_texts(table["reward_r2_held_out"], "{:.2f}"),
            "R², own": number_texts(table["reward_r2_own"], "{:.2f}"),
            "bias, own": number_texts(table["reward_bias_own"], "{:+.3g}"),
            "rank, own": number_texts(table["reward_rank_own"], "{:.2f}"),
            "gain": number_texts(table["gain"], "{:+.2f}"),
            "saturated": _beside(table["saturated"], table["saturated_data"], "{:.1%}"),
            "disagreement": number_texts(ratio, "{:.2f}"),
            "coverage": _beside(table["coverage_all"], table["coverage_all_own"], "{:.2f}"),
            "coverage, high": _beside(table["coverage_high"], table["coverage_high_own"], "{:.2f}"),
        }
    )


def diagnostics_failures(table: pd.DataFrame) -> str:
    """Why a winner has no diagnostics, one sentence each; empty if all have."""
    failed = table.dropna(subset=["diagnostics_failed"])
    return " ".join(
        f"Trial {line['number']} of {line['dataset']} could not be diagnosed: "
        f"{line['diagnostics_failed']}."
        for line in failed.to_dict("records")
    )


def _beside(values: pd.Series[float], others: pd.Series[float], pattern: str) -> list[str]:
    pairs = zip(number_texts(values, pattern), number_texts(others, pattern), strict=True)
    return [MISSING if value == MISSING else f"{value} ({other})" for value, other in pairs]
