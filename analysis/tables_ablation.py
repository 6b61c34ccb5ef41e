"""Ablations of the paper's kind: one setting varies, and scores are read off for each value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.methods import METHODS, method_of
from analysis.protocol import footnotes
from analysis.records import Records
from analysis.runs import diverged
from analysis.schema import PARAM_PREFIX, WEIGHTS
from analysis.stats import student_mean
from analysis.stats_tasks import DIVERGED
from analysis.table import Cell, Table
from analysis.tables import DATA, PUBLISHED, SYMBOLS, benchmark_table, interval_text, number_text
from analysis.tables_scores import BOLD_RULE, best_places, per_text

_SEARCHED = (
    "Scores are those of the search, on its seeds: means over the training seeds of all scored "
    "trials with that value. Student's 95 % interval is over training seeds, so there is none of a "
    "single one, nor where the trials of a row differ in other settings. A trial that diverged "
    f"counts as a random policy, {DIVERGED:.0f}; those that were pruned or failed otherwise are "
    "counted and left out."
)
_REWARD_PLACES: Mapping[str, str] = {
    "ctd": "nowhere",
    "reward-in-teacher": "the teacher's training",
    "ractd": "the student's training",
    "reward-in-both": "both trainings",
    "joint": "one joint training",
    "teacher-guided": "the teacher's sampling",
}
_COUNTS = ("scored", "diverged", "pruned", "failed")
_NUMBERS = ("score", "low", "high", "values", "best", *_COUNTS, "varied")

_Line = Mapping[Hashable, Any]


def setting_table(records: Records, setting: str) -> Table:
    """One row per value of `setting` among the trials on a dataset.

    `setting` is "reward_weight", "dsm_weight", "ctm_weight", "horizon", or a column
    "params.<name>" of `records.trials`; ValueError if it is none of them.
    """
    trials = records.trials
    params = [str(name) for name in trials if str(name).startswith(PARAM_PREFIX)]
    known = [*WEIGHTS, "horizon", *params]
    if setting not in known:
        raise ValueError(f"setting is {setting!r}, expected one of {', '.join(known)}")
    symbol, name = _symbol(setting), setting.removeprefix(PARAM_PREFIX)
    scores = _seed_scores(records)
    keys = ["sweep", "dataset", setting]
    numbers = pd.DataFrame(
        [
            dict(zip(keys, values, strict=True)) | _numbers(block, scores, known)
            for values, block in trials.groupby(keys)
        ],
        columns=[*keys, *_NUMBERS],
    )
    return Table(
        name=f"ablation-{re.sub('[^a-z0-9]+', '-', name)}",
        title=f"Scores by {symbol}, sweeps: {records.name}",
        header=("dataset", symbol, "score [95 % CI]", "best", *_COUNTS),
        rows=_rows(
            numbers,
            lambda line: [
                f"{line[setting]:.3g}" if isinstance(line[setting], float) else str(line[setting])
            ],
            lambda line: [
                number_text(line["best"], "{:.1f}"),
                *(f"{line[count]:.0f}" for count in _COUNTS),
            ],
        ),
        notes=(BOLD_RULE, _SEARCHED, *_varied(numbers), *footnotes(records)),
        numbers=numbers,
        rules=_breaks(numbers),
    )


def calls_table(records: Records) -> Table:
    """Scores and times of the final rows by method and number of network calls."""
    lines = _final_rows(records)
    lines["base"] = lines["method"].map(method_of)
    order = {method: place for place, method in enumerate(METHODS)}
    place = lines["base"].map(order).fillna(len(order))
    lines = lines.assign(place=place).sort_values(
        ["dataset", "sweep", "place", "nfe"], kind="stable", ignore_index=True
    )
    return _final_table(records, lines, "calls", "method", lines["method"])


def reward_place_table(records: Records) -> Table:
    """Scores of the final rows by where the reward acts: teacher, student, both, sampling."""
    lines = _final_rows(records)
    lines["where"] = lines["method"].map(method_of).map(_REWARD_PLACES)
    order = list(_REWARD_PLACES.values())
    lines = lines.dropna(subset="where")
    lines = lines.assign(place=lines["where"].map(order.index)).sort_values(
        ["dataset", "sweep", "place", "nfe"], kind="stable", ignore_index=True
    )
    labels = lines["where"] + " (" + lines["method"] + ")"
    return _final_table(records, lines, "reward", "where the reward acts", labels)


def _seed_scores(records: Records) -> dict[tuple[str, str], list[float]]:
    """The scores of each completed trial's training seeds, by sweep and key."""
    seeds = records.seeds[records.seeds["owner"] == "trial"]
    found: dict[tuple[str, str], list[float]] = {}
    for sweep, key, score in seeds[["sweep", "key", "score"]].itertuples(index=False):
        found.setdefault((sweep, key), []).append(score)
    # A record that does not say more has the mean over its training seeds.
    trials = records.trials[records.trials["status"] == "completed"]
    for sweep, key, score in trials[["sweep", "key", "selection_score"]].itertuples(index=False):
        found.setdefault((sweep, key), [score])
    return found


def _numbers(
    block: pd.DataFrame, scores: Mapping[tuple[str, str], list[float]], settings: Sequence[str]
) -> dict[str, Any]:
    failed = block["status"] == "failed"
    ended = block["status"] == "completed"
    lost = (failed & block["reason"].map(diverged)) | (ended & block["selection_score"].isna())
    completed = block[ended & ~lost]
    keys = zip(completed["sweep"], completed["key"], strict=True)
    values = [score for key in keys for score in scores[key]]
    best = max(values, default=math.nan)
    values += [DIVERGED] * int(block.loc[lost, "training_seeds"].fillna(1).sum())
    varied = [_symbol(each) for each in settings if block[each].nunique() > 1]
    found = student_mean(values) if values else None
    ends = (math.nan, math.nan) if found is None or varied else (found.low, found.high)
    return {
        "score": found.value if found else math.nan,
        "low": ends[0],
        "high": ends[1],
        "values": len(values),
        "best": best,
        "scored": len(completed),
        "diverged": int(lost.sum()),
        "pruned": int((block["status"] == "pruned").sum()),
        "failed": int((failed & ~lost).sum()),
        "varied": ", ".join(varied),
    }


def _varied(numbers: pd.DataFrame) -> list[str]:
    names = dict.fromkeys(name for each in numbers["varied"] for name in each.split(", ") if name)
    return [f"Trials of one row differ in {', '.join(names)}."] if names else []


def _symbol(setting: str) -> str:
    name = setting.removeprefix(PARAM_PREFIX)
    return SYMBOLS.get(name, name)


def _final_rows(records: Records) -> pd.DataFrame:
    lines = benchmark_table(records)
    return lines[~lines["method"].isin([DATA, PUBLISHED])].drop(columns="conflict")


def _final_table(
    records: Records, lines: pd.DataFrame, name: str, heading: str, labels: pd.Series[str]
) -> Table:
    lines = lines.assign(label=labels)
    return Table(
        name=f"ablation-{name}",
        title=f"Scores by {heading}, sweeps: {records.name}",
        header=("dataset", heading, "score [95 % CI]", "network calls", "gradients", "seconds"),
        rows=_rows(
            lines,
            lambda line: [line["label"]],
            lambda line: [
                per_text(line["nfe"], line["per"]),
                number_text(line["reward_gradients"], "{:.3g}"),
                per_text(line["seconds"], line["per"]),
            ],
        ),
        notes=(
            BOLD_RULE,
            "Network calls, gradients of the reward model and seconds are those of one executed "
            "action, or of one plan where that stands beside them.",
            *footnotes(records),
        ),
        numbers=lines.drop(columns=["label", "place"]),
        rules=_breaks(lines),
    )


def _rows(
    numbers: pd.DataFrame,
    before: Callable[[_Line], Sequence[str]],
    after: Callable[[_Line], Sequence[str]],
) -> tuple[tuple[Cell, ...], ...]:
    best = {
        label for _, block in numbers.groupby(["sweep", "dataset"]) for label in best_places(block)
    }
    several = numbers["sweep"].nunique() > 1
    return tuple(
        (
            Cell(f"{line['dataset']} ({line['sweep']})" if several else str(line["dataset"])),
            *map(Cell, before(line)),
            Cell(interval_text(line["score"], line["low"], line["high"]), place in best),
            *map(Cell, after(line)),
        )
        for place, line in zip(numbers.index, numbers.to_dict("records"), strict=True)
    )


def _breaks(numbers: pd.DataFrame) -> frozenset[int]:
    """The rows at which another sweep or dataset begins."""
    names = list(zip(numbers["sweep"], numbers["dataset"], strict=True))
    return frozenset(i for i in range(1, len(names)) if names[i] != names[i - 1])
