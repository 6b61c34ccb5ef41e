"""Flatten one document of the storage into one line of a tidy frame; schema.py has the columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from analysis.document import Document
from analysis.schema import (
    CURVE_METRICS,
    DIAGNOSTICS,
    PARAM_PREFIX,
    QUANTILES,
    RULES,
    STATUSES,
    WEIGHTS,
)

Line = dict[str, object]
_RULE_NAMES = tuple(rule.replace("_", "-") for rule in RULES)


def trial_line(record: Document) -> Line:
    """One trial; a parameter beside horizon and weights becomes a column `params.<name>`.

    Releases before the diagnostics recorded neither them nor the scores' quantiles.
    """
    params = record.section("params")
    line = _common(record) | {
        "number": record.integer("number"),
        "horizon": params.integer("horizon"),
        **{weight: params.number(weight) for weight in WEIGHTS},
    }
    selection = record.section_or_none("selection")
    if selection is not None:
        line |= {
            "selection_rule": selection.one_of("rule", _RULE_NAMES),
            **{f"selection_{rule}": selection.number(rule) for rule in ("score", *RULES)},
            "selection_std": selection.number("std"),
            "selection_episodes": selection.integer("episodes"),
            "selection_first_seed": selection.integer("first_seed"),
            **{f"selection_{name}": selection.number_or_none(name) for name in QUANTILES},
        }
    objectives = record.section_or_none("objectives")
    if objectives is not None:
        line["latency_ms"] = objectives.number_or_none("latency_ms")
    diagnostics = record.section_or_none("diagnostics")
    if diagnostics is not None:
        line |= {name: diagnostics.number_or_none(name) for name in DIAGNOSTICS}
        line["diagnostics_failed"] = diagnostics.text_or_none("failed")
    known = {"horizon", *WEIGHTS}
    return line | {f"{PARAM_PREFIX}{k}": v for k, v in params.fields.items() if k not in known}


def row_line(record: Document) -> Line:
    """One final row; `gap` is what its score lost between selection and fresh seeds.

    Calls, gradients and latency are per window, of which `executed_actions` are executed.
    """
    line = _common(record) | {
        "trial": record.text_or_none("trial"),
        "training_seeds": record.integer("training_seeds"),
        "nfe": record.number_or_none("nfe"),
        "reward_gradients": record.number_or_none("reward_gradients"),
        "executed_actions": record.number_or_none("executed_actions"),
        "weights": record.text_or_none("weights"),
        "selection_score": record.number_or_none("selection_score"),
        "confirmation_score": record.number_or_none("confirmation_score"),
    }
    if line["status"] == "completed":
        evaluation = record.section("evaluation")
        score, selected = evaluation.number("score"), record.number_or_none("selection_score")
        line |= {
            "score": score,
            "score_std": evaluation.number("std"),
            "episodes": evaluation.integer("episodes"),
            "first_seed": evaluation.integer("first_seed"),
            "return_mean": evaluation.number("return_mean"),
            "gap": None if selected is None else selected - score,
        }
    latency = record.section_or_none("latency_ms")
    if latency is not None:
        line |= {
            "latency_ms": latency.number("median"),
            "latency_p95_ms": latency.number("p95"),
            "latency_batch": latency.integer("batch"),
        }
    return line


def confirmation_line(record: Document) -> Line:
    """One candidate played again; `gap` is its selection score less the confirmed one."""
    line = _common(record) | {
        "number": record.integer("number"),
        "trial": record.text("trial"),
        "retrain": record.integer("retrain"),
        "selection_score": record.number("selection_score"),
    }
    found = record.section_or_none("confirmation")
    if found is not None:
        line |= {
            "score": found.number("score"),
            "episodes": found.integer("episodes"),
            "first_seed": found.integer("first_seed"),
            "gap": record.number("gap"),
            "training_seeds": len(found.sections("seeds")),
        }
    return line


def curve_cells(points: Sequence[Document]) -> dict[str, list[Any]]:
    """What evaluations during training found, by column; a null metric is None."""
    return {
        **{name: [point.integer(name) for point in points] for name in ("training_seed", "step")},
        **{name: [point.number_or_none(name) for point in points] for name in CURVE_METRICS},
    }


def stage_line(manifest: Document) -> Line:
    """One stage: what it is and what it cost in device seconds (seconds times workers)."""
    return {
        "dataset": manifest.text_or_none("dataset"),
        "built_by": manifest.text_or_none("sweep"),
        "horizon": manifest.section("config").number_or_none("horizon"),
        "steps": manifest.number("steps"),
        "seconds": manifest.number("seconds"),
        "workers": manifest.number("workers"),
        "device": manifest.text("device"),
        "device_seconds": manifest.number("device_seconds"),
        "loss": manifest.number_or_none("loss"),
    }


def data_line(sweep: str, document: Document) -> Line:
    """One dataset: its size, and what of it was counted to score its behaviour."""
    return {
        "sweep": sweep,
        "dataset": document.text("dataset"),
        "task": document.text("task"),
        "fingerprint": document.text("fingerprint"),
        "transitions": document.integer("transitions"),
        "episodes": document.integer("episodes"),
        "counted": document.text("counted"),
    }


def seed_lines(record: Document, line: Line) -> Iterable[Line]:
    """What a record says of each of its students, if it does."""
    owner = record.text("kind")
    place = {"trial": "selection", "confirmation": "confirmation", "row": "evaluation"}[owner]
    section = record.section_or_none(place)
    if section is None or "seeds" not in section.fields:
        return
    rule = str(line.get("selection_rule", "score")).replace("-", "_")
    for seed in section.sections("seeds"):
        yield {
            "sweep": line["sweep"],
            "owner": owner,
            "key": line["key"],
            "training_seed": seed.integer("training_seed"),
            "score": seed.number(rule if owner == "trial" else "score"),
            **({each: seed.number(each) for each in RULES} if owner == "trial" else {}),
        }


def latency_line(owner: str, line: Line) -> Line | None:
    """How long a row or trial takes to decide; None if it was not timed.

    A row's time is shared by the actions that are executed of its window, of which a maze's plan
    has no number.
    """
    median = line.get("latency_ms")
    if not isinstance(median, float):
        return None
    actions = line.get("executed_actions")
    shared = actions if isinstance(actions, float) else 1.0
    of_row = "action" if isinstance(actions, float) else "plan"
    kept = ("sweep", "key", "task", "dataset", "method", "horizon", "device")
    return {name: line[name] for name in kept} | {
        "owner": owner,
        **{name: line.get(name) for name in ("nfe", "reward_gradients", "executed_actions")},
        "batch": line.get("latency_batch", 1),
        "median_ms": median,
        "p95_ms": line.get("latency_p95_ms"),
        "per": of_row if owner == "row" else "window",
        "seconds": median / 1000 / shared,
    }


def event_line(sweep: str, event: Document) -> Line:
    """One event of a sweep's log."""
    texts = ("kind", "state", "text", "name", "key", "dataset")
    return {
        "sweep": sweep,
        "time": event.time_or_none("time"),
        **{name: event.text_or_none(name) for name in texts},
        **{name: event.number_or_none(name) for name in ("seconds", "device_seconds")},
    }


def _common(record: Document) -> Line:
    params = record.section("params")
    return {
        **{
            key: record.text(key)
            for key in ("sweep", "key", "task", "dataset", "fingerprint", "method")
        },
        "ref_min": record.number("ref_min"),
        "ref_max": record.number("ref_max"),
        "status": record.one_of("status", STATUSES),
        "reason": record.text_or_none("reason"),
        "horizon": params.number_or_none("horizon"),
        **{weight: params.number_or_none(weight) for weight in WEIGHTS},
        "training_seed": record.integer("training_seed"),
        "training_seeds": record.number_or_none("training_seeds"),
        "steps": record.number_or_none("steps"),
        "seconds": record.number_or_none("seconds"),
        "device": record.text_or_none("device"),
        "workers": record.number_or_none("workers"),
        "finished": record.time_or_none("finished"),
        "versions": _versions(record.section_or_none("versions")),
    }


def _versions(section: Document | None) -> str | None:
    if section is None or not section.fields:
        return None
    return ", ".join(f"{name} {section.text(name)}" for name in section.fields)
