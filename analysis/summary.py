"""What a sweep comes down to, one sentence each: best score, counts, sharing, speed-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.methods import method_of
from analysis.published import SPEED_UP
from analysis.records import Records
from analysis.tables import short_reason, three_digits
from analysis.tables_timing import ALIKE, timed

_FEW = 8
_KIND_NAMES = {"teacher": "teacher", "reward": "reward model", "regression": "regression model"}


def headlines(sweep: Records, benchmark: pd.DataFrame) -> tuple[str, ...]:
    """The lines that head a report; `benchmark` is `tables.benchmark_table(sweep)`."""
    lines = (*best_lines(benchmark), count_line(sweep), sharing_line(sweep))
    return (*lines, *speed_up_lines(sweep))


def best_lines(benchmark: pd.DataFrame) -> list[str]:
    """For each dataset, the best one-step RACTD policy's score, or that there is none yet."""
    students = benchmark[benchmark["method"] == "ractd"].dropna(subset=["score"])
    if students.empty:
        return ["no final RACTD row yet: nothing has been evaluated on fresh seeds"]
    # Of several winners (an extended sweep) the one that was confirmed with the best score, never
    # the one that the final seeds happened to favour.
    by = ["confirmation_score", "selection_score"]
    ranked = students.sort_values(by, na_position="first")
    best = ranked.groupby("dataset").tail(1)
    return [
        f"{row['dataset']}: RACTD scores {row['score']:.1f}"
        + ("" if pd.isna(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]")
        + f" over {_sample(row)}"
        + _confirmed(row["selection_score"], row["confirmation_score"])
        for row in best.to_dict("records")
    ]


def _sample(row: Mapping[Hashable, Any]) -> str:
    """What the interval is over comes first: training seeds where there are several."""
    seeds, episodes = row["training_seeds"], f"{row['episodes']:.0f} fresh episodes"
    return f"{seeds:.0f} training seeds, {episodes}" if seeds > 1 else episodes


def _confirmed(selected: float, score: float) -> str:
    if pd.isna(score):
        return ""
    gap = selected - score
    return f"; selected with {selected:.1f}, confirmed with {score:.1f} (gap {gap:+.1f})"


def count_line(sweep: Records) -> str:
    """How many trials ended how, and what is unfinished."""
    counts = Counter(sweep.trials["status"])
    parts = [f"{counts[status]} {status}" for status in ("completed", "pruned", "failed")]
    line = f"trials: {', '.join(parts)}, {sweep.unfinished_trials} unfinished"
    failed_rows = int((sweep.rows["status"] == "failed").sum())
    if failed_rows or sweep.unfinished_rows:
        line += f"; final rows: {failed_rows} failed, {sweep.unfinished_rows} unfinished"
    return line


def failures_table(sweep: Records) -> pd.DataFrame:
    """Each reason for a failure as text: how often, of what, and which ones (the first few)."""
    found: dict[tuple[str, str], list[str]] = {}
    for what, frame, name in (
        ("trial", sweep.trials, "number"),
        ("final row", sweep.rows, "method"),
    ):
        for line in frame[frame["status"] == "failed"].to_dict("records"):
            reason = line["reason"]
            text = "no reason recorded" if pd.isna(reason) else short_reason(reason)
            found.setdefault((what, text), []).append(str(line[name]))
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return pd.DataFrame(
        [
            {
                "count": str(len(names)),
                "of": what,
                "reason": reason,
                "which": ", ".join(names[:_FEW]) + (", …" if len(names) > _FEW else ""),
            }
            for (what, reason), names in ordered
        ],
        columns=["count", "of", "reason", "which"],
    )


def sharing_table(sweep: Records) -> pd.DataFrame:
    """Each stage that trials share: kind, horizon, uses, and seconds that were spent and saved.

    A stage is built once, at the cost of `device_seconds`; without sharing each further trial would
    have built it again. One that another sweep has built is not spent here. A stage without
    manifest has NaN for its costs.
    """
    shared = sweep.stages[sweep.stages["kind"].isin(list(_KIND_NAMES))]
    table = shared[["name", "kind", "horizon", "device_seconds", "built_by"]]
    table = table.assign(uses=table["name"].map(_uses(sweep)["stage"].value_counts()))
    table = table.dropna(subset="uses").astype({"uses": "int64"}).reset_index(drop=True)
    # early manifests do not name their builder
    here = table["built_by"].isna() | table["built_by"].isin(sweep.sweeps["sweep"])
    return table.drop(columns="built_by").assign(
        spent_seconds=here * table["device_seconds"],
        saved_seconds=(table["uses"] - here) * table["device_seconds"],
    )


def _uses(sweep: Records) -> pd.DataFrame:
    """The stages that trials used; one that failed before its first step used nothing."""
    trained = sweep.trials.loc[sweep.trials["steps"] > 0, ["sweep", "key"]]
    return sweep.uses.merge(trained.rename(columns={"key": "trial"}), on=["sweep", "trial"])


def sharing_line(sweep: Records) -> str:
    """What sharing stages between trials spent and saved, in device time."""
    table = sharing_table(sweep)
    if table.empty:
        return "sharing: no trial used a stage"
    counts = Counter(table["kind"])
    stages = " and ".join(
        _plural(counts[kind], name) for kind, name in sorted(_KIND_NAMES.items()) if counts[kind]
    )
    uses = _uses(sweep)
    served = len(uses[uses["stage"].isin(table["name"])].drop_duplicates(["sweep", "trial"]))
    unknown = int(table["device_seconds"].isna().sum())
    return (
        f"sharing: {stages} served {_plural(served, 'trial')}; "
        f"{_duration(table['spent_seconds'].sum())} of device time spent, "
        f"{_duration(table['saved_seconds'].sum())} saved"
        + (f" (not counting {_plural(unknown, 'stage')} without manifest)" if unknown else "")
    )


def speed_up_lines(sweep: Records) -> tuple[str, ...]:
    """Median latency of a teacher's decision over RACTD's, where both were measured alike.

    Alike means the same dataset, horizon, device and batch; one line for each such set-up and
    sampler of the teacher.
    """
    lines = timed(sweep).dropna(subset=["nfe", "nfe_ractd"])
    teachers = lines[(lines["method"].map(method_of) == "teacher") & (lines["ratio"] > 0)]
    first = teachers.drop_duplicates([*ALIKE, "method"])
    slowest = first.sort_values(["dataset", "seconds"], ascending=[True, False])
    return tuple(_speed_up_line(line) for line in slowest.to_dict("records"))


def _speed_up_line(line: Mapping[Hashable, Any]) -> str:
    whole_grid = line["method"] == "teacher"
    name = "the teacher" if whole_grid else line["method"]
    published = (
        f"; published, in the abstract of arXiv 2506.07822: {SPEED_UP}x against an 80-bin Heun "
        "teacher, on Hopper and a V100"
    )
    return (
        f"{line['dataset']}: deciding in {_plural(round(line['nfe_ractd']), 'network call')} is "
        f"{three_digits(line['ratio'])}x faster than {name}'s {line['nfe']:.0f} "
        f"({three_digits(line['median_ms_ractd'])} ms against "
        f"{three_digits(line['median_ms'])} ms; median, batch {line['batch']:.0f}, "
        f"{line['device']})"
        f"{published if whole_grid else ''}"
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
