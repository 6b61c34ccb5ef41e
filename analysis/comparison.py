"""Two sweeps side by side: what was set differently, and what came out differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.document import RecordError, read_document
from analysis.markdown import section_markdown
from analysis.page import Section, text_section
from analysis.records import Records, load
from analysis.stats import bootstrap_mean
from analysis.summary import sharing_table
from analysis.tables import MISSING
from analysis.winners_again import spec_text

_RESULTS_NOTE = (
    "Scores of the final rows. The difference is that of episodes with equal seeds, with its 95 % "
    "interval by bootstrap over these pairs; without pairs, of the means alone. It does not cover "
    "the spread between training seeds."
)


@dataclass(frozen=True)
class Difference:
    """One method on one dataset in both sweeps, the second less the first.

    `low` and `high` bound the difference; None without episodes of equal seeds, of which there are
    `pairs`.
    """

    dataset: str
    method: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    pairs: int


def compare(storage: Path, first: str, second: str) -> str:
    """The comparison as Markdown; RecordError where a record cannot be read."""
    if first == second:
        raise RecordError(f"{first} is compared with itself, expected two sweeps")
    one, other = load(storage, [first]), load(storage, [second])
    sections = (
        _results(one, other),
        _settings("Spec", _flat(_spec(one)), _flat(_spec(other)), one.name, other.name),
        _settings("Versions", _versions(one), _versions(other), one.name, other.name),
        _settings("Cost", _cost(one), _cost(other), one.name, other.name),
    )
    parts = [f"# {first} and {second}", *_warnings(one, other)]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += section_markdown(section) or ["no difference"]
    return "\n\n".join(parts) + "\n"


def differences(first: Records, second: Records) -> list[Difference]:
    """Each method that both sweeps have a completed row of, by dataset."""
    found = []
    theirs = {(line["dataset"], line["method"]): line for line in _rows(second)}
    for line in _rows(first):
        other = theirs.get((line["dataset"], line["method"]))
        if other is None:
            continue
        pairs = _episodes(first, line["key"]).merge(
            _episodes(second, other["key"]), on=["training_seed", "seed"], suffixes=("", "_second")
        )
        same_data = line["fingerprint"] == other["fingerprint"]
        apart = (pairs["score_second"] - pairs["score"]).to_numpy(dtype="float64")
        estimate = bootstrap_mean(apart) if len(apart) and same_data else None
        found.append(
            Difference(
                dataset=line["dataset"],
                method=line["method"],
                first=line["score"],
                second=other["score"],
                difference=estimate.value if estimate else other["score"] - line["score"],
                low=estimate.low if estimate else None,
                high=estimate.high if estimate else None,
                pairs=len(apart) if estimate else 0,
            )
        )
    return found


def _results(first: Records, second: Records) -> Section:
    lines = [
        {
            "dataset": each.dataset,
            "method": each.method,
            first.name: f"{each.first:.1f}",
            second.name: f"{each.second:.1f}",
            "difference [95 % CI]": f"{each.difference:+.1f}"
            + ("" if each.low is None else f" [{each.low:+.1f}, {each.high:+.1f}]"),
            "pairs": f"{each.pairs}",
        }
        for each in differences(first, second)
    ]
    if not lines:
        return text_section("Results", "They have no final row in common.", pd.DataFrame())
    return text_section("Results", _RESULTS_NOTE, pd.DataFrame(lines))


def _rows(sweep: Records) -> list[dict[Any, Any]]:
    rows = sweep.rows[sweep.rows["status"] == "completed"]
    return rows.drop_duplicates(["dataset", "method"], keep="last").to_dict("records")


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


def _spec(sweep: Records) -> Any:
    return yaml.safe_load(spec_text(sweep)) or {}


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
        "device time of stages": f"{shared['device_seconds'].sum() / 60:.1f} min",
        "saved by sharing": f"{shared['saved_seconds'].sum() / 60:.1f} min",
    }
