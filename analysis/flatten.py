"""Flatten one document of the storage into one line of a tidy frame.

Each `*_COLUMNS` names a frame's columns with their types; the function beside it fills one line.
"""

from __future__ import annotations

from analysis.document import Document

Line = dict[str, object]

STATUSES = ("completed", "pruned", "failed")
WEIGHTS = ("ctm_weight", "dsm_weight", "reward_weight")
PARAM_PREFIX = "params."

_COMMON_COLUMNS = {
    "key": "str",
    "task": "str",
    "dataset": "str",
    "fingerprint": "str",
    "ref_min": "float64",
    "ref_max": "float64",
    "method": "str",
    "status": "str",
    "reason": "str",
    "horizon": "float64",
    "ctm_weight": "float64",
    "dsm_weight": "float64",
    "reward_weight": "float64",
    "training_seed": "int64",
    "training_seeds": "float64",
    "steps": "float64",
    "seconds": "float64",
    "device": "str",
    "workers": "float64",
}
_RULES = ("last", "best", "mean_of_last")
_QUANTILES = ("q05", "q25", "q50", "q75", "q95")
DIAGNOSTICS = (
    "reward_r2_train",
    "reward_r2_held_out",
    "reward_r2_own",
    "reward_rank_own",
    "reward_bias_own",
    "reward_pairs_own",
    "gain",
    "saturated",
    "saturated_data",
    "disagreement",
    "disagreement_data",
    "coverage_all",
    "coverage_all_own",
    "coverage_high",
    "coverage_high_own",
)
"""What a trial's student was diagnosed with; :mod:`ractd_core.diagnostics` says what they are."""

TRIAL_COLUMNS = (
    _COMMON_COLUMNS
    | {
        "number": "int64",
        "selection_rule": "str",
        "selection_score": "float64",
        "selection_last": "float64",
        "selection_best": "float64",
        "selection_mean_of_last": "float64",
        "selection_std": "float64",
        "selection_episodes": "float64",
        "selection_first_seed": "float64",
    }
    | {f"selection_{name}": "float64" for name in _QUANTILES}
    | dict.fromkeys(DIAGNOSTICS, "float64")
    | {"diagnostics_failed": "str"}
)
ROW_COLUMNS = _COMMON_COLUMNS | {
    "trial": "str",
    "nfe": "float64",
    "reward_gradients": "float64",
    "executed_actions": "float64",
    "score": "float64",
    "score_std": "float64",
    "episodes": "float64",
    "first_seed": "float64",
    "return_mean": "float64",
    "weights": "str",
    "selection_score": "float64",
    "confirmation_score": "float64",
    "gap": "float64",
    "latency_ms": "float64",
    "latency_p95_ms": "float64",
    "latency_batch": "float64",
}
CONFIRMATION_COLUMNS = _COMMON_COLUMNS | {
    "number": "int64",
    "trial": "str",
    "retrain": "int64",
    "selection_score": "float64",
    "score": "float64",
    "episodes": "float64",
    "first_seed": "float64",
    "gap": "float64",
}
_CURVE_METRICS = ("score", "score_std", "episodes", "loss", "ctm", "dsm", "reward", "grad_norm")
CURVE_COLUMNS = {
    "key": "str",
    "number": "int64",
    "dataset": "str",
    "status": "str",
    "horizon": "float64",
    "ctm_weight": "float64",
    "dsm_weight": "float64",
    "reward_weight": "float64",
    "training_seed": "int64",
    "step": "int64",
} | dict.fromkeys(_CURVE_METRICS, "float64")
STAGE_COLUMNS = {
    "name": "str",
    "kind": "str",
    "horizon": "float64",
    "steps": "float64",
    "seconds": "float64",
    "workers": "float64",
    "device": "str",
    "device_seconds": "float64",
    "loss": "float64",
}
DATA_COLUMNS = {
    "dataset": "str",
    "task": "str",
    "fingerprint": "str",
    "transitions": "int64",
    "episodes": "int64",
    "counted": "str",
}


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
            "selection_rule": selection.text("rule"),
            **{f"selection_{rule}": selection.number(rule) for rule in ("score", *_RULES)},
            "selection_std": selection.number("std"),
            "selection_episodes": selection.integer("episodes"),
            "selection_first_seed": selection.integer("first_seed"),
            **{f"selection_{name}": selection.number_or_none(name) for name in _QUANTILES},
        }
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


def curve_line(trial: Line, point: Document) -> Line:
    """One evaluation during training, with its trial's weights; a null metric becomes NaN."""
    joined = ("key", "number", "dataset", "status", "horizon", *WEIGHTS)
    return (
        {name: trial[name] for name in joined}
        | {key: point.integer(key) for key in ("training_seed", "step")}
        | {metric: point.number_or_none(metric) for metric in _CURVE_METRICS}
    )


def stage_line(manifest: Document) -> Line:
    """One stage: what it is and what it cost in device seconds (seconds times workers)."""
    return {
        "horizon": manifest.section("config").number_or_none("horizon"),
        "steps": manifest.number("steps"),
        "seconds": manifest.number("seconds"),
        "workers": manifest.integer("workers"),
        "device": manifest.text("device"),
        "device_seconds": manifest.number("device_seconds"),
        "loss": manifest.number_or_none("loss"),
    }


def data_line(document: Document) -> Line:
    """One dataset: its size, and what of it was counted to score its behaviour."""
    return {
        "dataset": document.text("dataset"),
        "task": document.text("task"),
        "fingerprint": document.text("fingerprint"),
        "transitions": document.integer("transitions"),
        "episodes": document.integer("episodes"),
        "counted": document.text("counted"),
    }


def _common(record: Document) -> Line:
    params = record.section("params")
    return {
        **{key: record.text(key) for key in ("key", "task", "dataset", "fingerprint", "method")},
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
    }
