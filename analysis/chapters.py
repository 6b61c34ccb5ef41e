"""What a report says of one sweep, and of several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.confirmation import NOTE as CONFIRMATION_NOTE
from analysis.confirmation import confirmation_text, winners
from analysis.diagnostics import NOTE as DIAGNOSTICS_NOTE
from analysis.diagnostics import diagnostics_failures, diagnostics_table, diagnostics_text
from analysis.document import read_document
from analysis.page import Chapter, Commands, Group, Section, table_section, text_section
from analysis.panels import search_panels, sweep_groups
from analysis.protocol import protocol_lines
from analysis.records import Records
from analysis.runs import diverged
from analysis.summary import best_lines, failures_table, headlines
from analysis.tables import (
    PUBLISHED,
    benchmark_text,
    number_texts,
    three_digits,
    trials_table,
    trials_text,
)
from analysis.tables_all import all_tables
from analysis.tables_scores import score_table
from analysis.winners_again import spec_text, winners_again

_BENCHMARK_NOTE = (
    "Scores are means with a 95 % interval, over training seeds where there are several and else "
    "over episodes. α, β, σ weight the "
    "consistency, denoising and reward losses; network calls are the denoiser's, ∇R gradients of "
    "the reward model beside them, and both and the latency those of one plan (mazes) or one "
    "executed action; a name such as teacher:ddim-20 or ractd:2 says by which sampler and in how "
    "many calls."
)
_TRIALS_NOTE = "Scores of the search, on the seeds that trials were selected with."
_NO_TRIALS = "No trial has finished yet."
_COMPARED_NOTE = (
    "Each sweep's winner. The score is that of fresh seeds, with its 95 % interval; it compares "
    "between sweeps only where data, reference scores and episodes are the same."
)


def sweep_chapter(sweep: Records, benchmark: pd.DataFrame, folder: Path) -> Chapter:
    """One sweep; `folder` is where its report lies."""
    published = {place for place, name in enumerate(benchmark["method"]) if name == PUBLISHED}
    protocol = protocol_lines(sweep)
    trials = trials_table(sweep)
    failures = failures_table(sweep)
    return Chapter(
        title=f"Sweep {sweep.name}",
        subtitle=_started(sweep.created),
        headlines=headlines(sweep, benchmark),
        tables=[text_section("Benchmark", _BENCHMARK_NOTE, benchmark_text(benchmark), published)],
        commands=[
            Commands(
                f"Trial {each.number} of {each.dataset} ({each.settings}), played again"
                + (", and trained alone from the data on:" if each.spec else ":"),
                each.commands(folder),
            )
            for each in winners_again(sweep)
            if each.models or each.spec
        ],
        groups=sweep_groups(sweep, benchmark),
        protocol=protocol,
        further=[
            *_failures(failures),
            *_confirmation(sweep),
            *_diagnostics(sweep),
            *(table_section(table, protocol) for table in all_tables(sweep)),
            text_section(
                "Trials", _NO_TRIALS if trials.empty else _TRIALS_NOTE, trials_text(trials)
            ),
            provenance(sweep),
        ],
        spec=spec_text(sweep),
    )


def _started(created: str) -> str:
    moment = pd.to_datetime(created, utc=True, errors="coerce")
    return f"Started {created if pd.isna(moment) else f'{moment:%Y-%m-%d %H:%M} UTC'}"


def comparison_chapter(
    together: Records, sweeps: Sequence[Records], benchmarks: Sequence[pd.DataFrame]
) -> Chapter:
    """Several sweeps: their winners in one table, and their searches in one figure."""
    table = pd.concat(
        [_winners_text(sweep, table) for sweep, table in zip(sweeps, benchmarks, strict=True)],
        ignore_index=True,
    )
    return Chapter(
        title="Comparison",
        subtitle=f"{len(sweeps)} sweeps",
        headlines=[
            f"{sweep.name}: {line}"
            for sweep, benchmark in zip(sweeps, benchmarks, strict=True)
            for line in best_lines(benchmark)
        ],
        tables=[
            text_section("Winners", _COMPARED_NOTE, table),
            *(table_section(each) for each in (score_table(together),) if each.rows),
        ],
        groups=[Group("Searches", search_panels(together))],
    )


def provenance(sweep: Records) -> Section:
    """Where the numbers come from: data, devices, and versions of what computed them."""
    about = read_document(sweep.folder / "sweep.json").fields
    versions = about.get("versions")
    devices = sorted({str(name) for name in sweep.trials["device"].dropna()})
    torn = int(sweep.sweeps["unreadable_events"].sum())
    lines = {
        "sweep": sweep.name,
        "started": sweep.created,
        "records": str(sweep.folder),
        **{
            f"data {line['dataset']}": f"fingerprint {line['fingerprint']}"
            for line in sweep.data.to_dict("records")
        },
        "trained on": ", ".join(devices) or "nothing yet",
        **(
            {"unreadable lines of events.jsonl": f"{torn}; no score is made from it"}
            if torn
            else {}
        ),
        **(
            {str(name): str(version) for name, version in versions.items()}
            if isinstance(versions, dict)
            else {}
        ),
    }
    table = pd.DataFrame({"what": list(lines), "value": list(lines.values())})
    return text_section("Provenance", "Of the process that ran the sweep first.", table)


def _confirmation(sweep: Records) -> list[Section]:
    if sweep.confirmations.empty:
        return []
    return [text_section("Confirmation", CONFIRMATION_NOTE, confirmation_text(sweep.confirmations))]


def _diagnostics(sweep: Records) -> list[Section]:
    table = diagnostics_table(sweep)
    if table.empty:
        return []
    note = f"{diagnostics_failures(table)} {DIAGNOSTICS_NOTE}".strip()
    return [text_section("Diagnostics", note, diagnostics_text(table))]


def _failures(failures: pd.DataFrame) -> list[Section]:
    if failures.empty:
        return []
    collapsed = failures["reason"].map(diverged).astype(bool)
    counts = failures["count"].astype("int64")
    note = (
        f"{counts[collapsed].sum()} diverged: their training collapsed, which is a result of the "
        f"search. {counts[~collapsed].sum()} broke for a reason outside of it."
    )
    return [text_section("Failures", note, failures)]


def _winners_text(sweep: Records, benchmark: pd.DataFrame) -> pd.DataFrame:
    best = winners(sweep)
    final = benchmark[benchmark["method"] == "ractd"].drop_duplicates("dataset", keep="last")
    rows = best[["dataset", "number", "reward_weight", "ctm_weight", "dsm_weight", "horizon"]]
    rows = rows.assign(selected=best["selection_score"], sweep=sweep.name)
    joined = rows.merge(
        final[["dataset", "score", "low", "high", "latency_ms", "fingerprint"]],
        on="dataset",
        how="left",
    )
    return pd.DataFrame(
        {
            "sweep": joined["sweep"],
            "dataset": joined["dataset"],
            "trial": joined["number"].astype("str"),
            "σ": number_texts(joined["reward_weight"], "{:.3g}"),
            "α": number_texts(joined["ctm_weight"], "{:.3g}"),
            "β": number_texts(joined["dsm_weight"], "{:.3g}"),
            "horizon": number_texts(joined["horizon"], "{:.0f}"),
            "selected with": number_texts(joined["selected"], "{:.1f}"),
            "score": number_texts(joined["score"], "{:.1f}"),
            "from": number_texts(joined["low"], "{:.1f}"),
            "to": number_texts(joined["high"], "{:.1f}"),
            "latency ms": [
                "–" if pd.isna(value) else three_digits(value) for value in joined["latency_ms"]
            ],
            "data": ["–" if pd.isna(full) else str(full)[:8] for full in joined["fingerprint"]],
        }
    )
