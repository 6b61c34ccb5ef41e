"""Two sweeps side by side: what was set differently, and what came out differently."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from analysis.document import RecordError, read_document
from analysis.markdown import section_markdown
from analysis.page import Section, text_section
from analysis.records import Records, load
from analysis.runs import row_scores, rows_that_count
from analysis.stats import Estimate, bootstrap_mean
from analysis.stats_tasks import DIVERGED, counted_score, paired_differences
from analysis.summary import sharing_table
from analysis.tables import MISSING
from analysis.winners_again import read_spec

_RESULTS_NOTE = (
    "Scores of the final rows, means over the episodes that both have played with equal seeds. Of "
    "two or more training seeds in common, the difference's 95 % interval is Student's over the "
    "differences of equal training seeds; of one, it is by bootstrap over the episodes and does "
    "not cover the spread between training seeds. Without pairs it is of the means alone. A "
    f"training seed that diverged counts as {DIVERGED:g}."
)


@dataclass(frozen=True)
class Difference:
    """One method on one dataset in both sweeps, the second less the first.

    `first` and `second` are means over the `pairs` of episodes of equal seeds, in `seeds` training
    seeds; without any they are over all episodes, and `low` and `high`, which bound the difference,
    are None.
    """

    dataset: str
    method: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    pairs: int
    seeds: int


def compare(storage: Path, first: str, second: str) -> str:
    """The comparison as Markdown; RecordError where a record cannot be read."""
    if first == second:
        raise RecordError(f"{first} is compared with itself, expected two sweeps")
    one, other = load(storage, [first]), load(storage, [second])
    sections = (
        _results(one, other),
        _settings("Spec", _flat(read_spec(one)), _flat(read_spec(other)), one.name, other.name),
        _settings("Versions", _versions(one), _versions(other), one.name, other.name),
        _settings("Cost", _cost(one), _cost(other), one.name, other.name),
    )
    parts = [f"# {first} and {second}", *_warnings(one, other)]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += section_markdown(section) or ["no difference"]
    return "\n\n".join(parts) + "\n"


def differences(first: Records, second: Records) -> list[Difference]:
    """Each method that both sweeps have a row with a score of, by dataset."""
    theirs = {(line["dataset"], line["method"]): line for line in _rows(second)}
    return [
        _difference(first, line, second, theirs[line["dataset"], line["method"]])
        for line in _rows(first)
        if (line["dataset"], line["method"]) in theirs
    ]


def _difference(
    first: Records, line: dict[Any, Any], second: Records, other: dict[Any, Any]
) -> Difference:
    ours, theirs = row_scores(first, line), row_scores(second, other)
    pairs = _episodes(first, line["key"]).merge(
        _episodes(second, other["key"]), on=["training_seed", "seed"], suffixes=("", "_second")
    )
    means = pairs.groupby("training_seed")[["score", "score_second"]].mean()
    paired = dict(zip(means.index.tolist(), means.to_numpy().tolist(), strict=True))
    common = {
        # one that diverged has played nothing
        seed: paired.get(seed, [ours[seed], theirs[seed]])
        for seed in ours.keys() & theirs.keys()
        if seed in paired or math.isnan(ours[seed]) or math.isnan(theirs[seed])
    }
    estimate: Estimate | None = None
    if common and line["fingerprint"] == other["fingerprint"]:
        ours = {seed: one for seed, (one, _) in common.items()}
        theirs = {seed: two for seed, (_, two) in common.items()}
        if len(common) > 1:
            [estimate] = paired_differences({"": theirs}, {"": ours}).values()
        elif len(pairs):
            estimate = bootstrap_mean((pairs["score_second"] - pairs["score"]).to_numpy("float64"))
    one, two = (fmean(map(counted_score, scores.values())) for scores in (ours, theirs))
    return Difference(
        dataset=line["dataset"],
        method=line["method"],
        first=one,
        second=two,
        difference=two - one,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        pairs=len(pairs) if estimate else 0,
        seeds=len(common) if estimate else 0,
    )


def _results(first: Records, second: Records) -> Section:
    lines = [
        {
            "dataset": each.dataset,
            "method": each.method,
            first.name: f"{each.first:.1f}",
            second.name: f"{each.second:.1f}",
            "difference [95 % CI]": f"{each.difference:+.1f}"
            + ("" if each.low is None else f" [{each.low:+.1f}, {each.high:+.1f}]"),
            "pairs": f"{each.pairs} of {each.seeds} training seed{'s' * (each.seeds != 1)}"
            if each.pairs
            else MISSING,
        }
        for each in differences(first, second)
    ]
    if not lines:
        return text_section("Results", "They have no final row in common.", pd.DataFrame())
    return text_section("Results", _RESULTS_NOTE, pd.DataFrame(lines))


def _rows(sweep: Records) -> list[dict[Any, Any]]:
    return (
        rows_that_count(sweep)
        .drop_duplicates(["dataset", "method"], keep="last")
        .to_dict("records")
    )


def _episodes(sweep: Records, key: str) -> pd.DataFrame:
    own = (sweep.episodes["owner"] == "row") & (sweep.episodes["key"] == key)
    return sweep.episodes.loc[own, ["training_seed", "seed", "score"]]


def _warnings(first: Records, second: Records) -> Iterator[str]:
    data = first.data.merge(second.data, on="dataset", suffixes=("", "_second"))
    for line in data[data["fingerprint"] != data["fingerprint_second"]].to_dict("records"):
        yield (
            f"**{line['dataset']} is not the same data in both** (fingerprints "
            f"{line['fingerprint'][:8]} and {line['fingerprint_second'][:8]}): a difference of "
            "scores may come from that alone."
        )


def _settings(
    title: str, first: Mapping[str, str], second: Mapping[str, str], one: str, other: str
) -> Section:
    names = [*first, *(name for name in second if name not in first)]
    apart = [name for name in names if first.get(name) != second.get(name)]
    table = pd.DataFrame(
        [[name, first.get(name, MISSING), second.get(name, MISSING)] for name in apart],
        columns=["", one, other],
    )
    return text_section(title, "", table)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Each leaf of a nested mapping under its dotted path."""
    if isinstance(value, dict) and value:
        return {
            name: text
            for key, inner in value.items()
            for name, text in _flat(inner, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: str(value)} if path and path != "name" else {}


def _versions(sweep: Records) -> dict[str, str]:
    versions = read_document(sweep.folder / "sweep.json").fields.get("versions")
    found = versions if isinstance(versions, dict) else {}
    return {str(name): str(version) for name, version in found.items()}


def _cost(sweep: Records) -> dict[str, str]:
    counts = sweep.trials["status"].value_counts()
    shared = sharing_table(sweep)
    return {
        **{status: f"{counts.get(status, 0)} trials" for status in counts.index},
        "training of trials": f"{sweep.trials['seconds'].sum() / 60:.1f} min",
        "device time of stages": f"{shared['spent_seconds'].sum() / 60:.1f} min",
        "saved by sharing": f"{shared['saved_seconds'].sum() / 60:.1f} min",
    }
