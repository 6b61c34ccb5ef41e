"""The columns of every frame that :func:`analysis.load` gives: type, unit and meaning.

SCHEMA.md is what :func:`to_markdown` gives.
"""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = ("completed", "pruned", "failed")
WEIGHTS = ("ctm_weight", "dsm_weight", "reward_weight")
PARAM_PREFIX = "params."
RULES = ("last", "best", "mean_of_last")
QUANTILES = ("q05", "q25", "q50", "q75", "q95")

_TEXT, _WHOLE, _NUMBER, _TIME = "str", "int64", "float64", "datetime64[us, UTC]"
_SCORE = "normalized score"


@dataclass(frozen=True)
class Column:
    """A column of a frame; a `float64` is NaN, a `str` missing, where a record has no value."""

    dtype: str
    unit: str
    meaning: str


def _text(meaning: str) -> Column:
    return Column(_TEXT, "", meaning)


def _whole(meaning: str, unit: str = "") -> Column:
    return Column(_WHOLE, unit, meaning)


def _number(meaning: str, unit: str = "") -> Column:
    return Column(_NUMBER, unit, meaning)


def _score(meaning: str) -> Column:
    return Column(_NUMBER, _SCORE, meaning)


_SWEEP = {"sweep": _text("the sweep's name")}
_KEY = {"key": _text("the record's key; unique within a sweep")}
_SETTING = {
    "horizon": _number("states or actions that are planned", "steps"),
    "ctm_weight": _number("α, weight of the consistency loss"),
    "dsm_weight": _number("β, weight of the denoising loss"),
    "reward_weight": _number("σ, weight of the reward loss"),
}
_COMMON = {
    **_SWEEP,
    **_KEY,
    "task": _text("D4RL's name of the task"),
    "dataset": _text("source/task: what it was trained on"),
    "fingerprint": _text("sha256 of the data's content"),
    "ref_min": _number("return of a random policy: score 0", "return"),
    "ref_max": _number("return of the reference expert: score 100", "return"),
    "method": _text("method, and how it samples: ractd, teacher:ddim-20"),
    "status": _text("completed, pruned or failed"),
    "reason": _text("why it was pruned or failed"),
    **_SETTING,
    "training_seed": _whole("the first training seed"),
    "training_seeds": _number("students, one per training seed", "count"),
    "steps": _number("optimizer steps, over all students", "steps"),
    "seconds": _number("time of training, with the playing on the way", "s"),
    "device": _text("cpu or cuda"),
    "workers": _number("Ray Train workers", "count"),
    "finished": Column(_TIME, "UTC", "when the record was written"),
    "versions": _text("packages that the result depends on, as name version, ..."),
}
DIAGNOSTICS = {
    "reward_r2_train": _number("variance of returns-to-go explained, training episodes", "share"),
    "reward_r2_held_out": _number("the same on held-out episodes", "share"),
    "reward_r2_own": _number("the same on the trial's own episodes", "share"),
    "reward_rank_own": _number("Spearman's correlation there", "-1 to 1"),
    "reward_bias_own": _number("mean prediction less mean return there", "return"),
    "reward_pairs_own": _number("predictions compared there", "count"),
    "gain": _number("the reward model's preference for the student's windows", "std"),
    "saturated": _number("student's entries at the ends of the data's range", "share"),
    "saturated_data": _number("the data's own", "share"),
    "disagreement": _number("the reward ensemble's spread on the student's windows", "return"),
    "disagreement_data": _number("the same on the data's", "return"),
    "coverage_all": _number("data's first actions or plans among the teacher's samples", "share"),
    "coverage_all_own": _number("the same for the teacher's own samples", "share"),
    "coverage_high": _number("coverage_all over the tenth with the highest returns", "share"),
    "coverage_high_own": _number("the same for the teacher's own samples", "share"),
}
"""What a trial's student was diagnosed with; :mod:`ractd_core.diagnostics` says how."""

SWEEPS = {
    **_SWEEP,
    "folder": _text("where it lies"),
    "created": _text("when it began, ISO 8601"),
    "unfinished_trials": _whole("trials that have begun and have no record", "count"),
    "unfinished_rows": _whole("final rows that have begun and have no record", "count"),
    "unreadable_events": _whole("lines of its log that a crash or a full disk tore", "count"),
}
TRIALS = {
    **_COMMON,
    "number": _whole("the trial's number within sweep and dataset"),
    "selection_rule": _text("last, best or mean-of-last: which score it is selected by"),
    "selection_score": _score("the score it is selected by, mean over training seeds"),
    "selection_last": _score("of the last weights, over the selection episodes"),
    "selection_best": _score("the highest of its curve"),
    "selection_mean_of_last": _score("mean of its curve's last few"),
    "selection_std": _score("standard deviation over selection episodes"),
    "selection_episodes": _number("selection episodes of each student", "count"),
    "selection_first_seed": _number("the first episode seed"),
    **{f"selection_{q}": _score(f"{q[1:]} % quantile over episodes") for q in QUANTILES},
    "latency_ms": _number("median time of one decision, if searched for", "ms"),
    **DIAGNOSTICS,
    "diagnostics_failed": _text("why it could not be diagnosed"),
}
ROWS = {
    **_COMMON,
    "trial": _text("key of the trial that won"),
    "nfe": _number("network calls of one window", "count"),
    "reward_gradients": _number("gradients of the reward model for one window", "count"),
    "executed_actions": _number("actions executed of one window; none for a maze's plan", "count"),
    "score": _score("mean over fresh episodes"),
    "score_std": _score("standard deviation over episodes"),
    "episodes": _number("episodes of each student", "count"),
    "first_seed": _number("the first episode seed"),
    "return_mean": _number("mean true return", "return"),
    "weights": _text("last or best: which weights were played"),
    "selection_score": _score("the winner's selection score"),
    "confirmation_score": _score("the winner's confirmed score"),
    "gap": _score("selection_score less score"),
    "latency_ms": _number("median time of one window", "ms"),
    "latency_p95_ms": _number("95 % quantile", "ms"),
    "latency_batch": _number("windows at once", "count"),
}
CONFIRMATIONS = {
    **_COMMON,
    "number": _whole("the trial's number"),
    "trial": _text("the trial's key"),
    "retrain": _whole("students trained anew", "count"),
    "selection_score": _score("the score it was selected by"),
    "score": _score("on seeds that the search had not used"),
    "episodes": _number("episodes of each student", "count"),
    "first_seed": _number("the first episode seed"),
    "gap": _score("selection_score less score"),
}
CURVE_METRICS = {
    "score": _score("mean over the episodes played then"),
    "score_std": _score("standard deviation over them"),
    "episodes": _number("episodes played", "count"),
    "loss": _number("α·ctm + β·dsm + σ·reward, mean since the last point"),
    "ctm": _number("consistency loss"),
    "dsm": _number("denoising loss"),
    "reward": _number("reward loss: the negative predicted return"),
    "grad_norm": _number("norm of the gradient before clipping"),
    "saturated": _number("entries beyond the data's range, less the data's own", "share"),
    "gain": _number("the reward model's preference for the student's windows", "std"),
    "seconds": _number("time since the last point", "s"),
}
CURVE_OWNER = {
    **_SWEEP,
    **_KEY,
    "number": _whole("the trial's number"),
    "dataset": _text("source/task"),
    "status": _text("how the trial ended"),
    **_SETTING,
}
CURVES = {
    **CURVE_OWNER,
    "training_seed": _whole("the student's training seed"),
    "step": _whole("optimizer steps of this student", "steps"),
    **CURVE_METRICS,
}
OWNER = {
    **_SWEEP,
    "owner": _text("trial, confirmation or row: whose record `key` is"),
    **_KEY,
}
EPISODE_CELLS = {
    "training_seed": _whole("the student's training seed"),
    "seed": _whole("the episode's seed"),
    "return": _number("the environment's own rewards, summed", "return"),
    "score": _score("of this episode"),
    "length": _whole("steps played", "steps"),
}
EPISODES = {**OWNER, **EPISODE_CELLS}
SEEDS = {
    **OWNER,
    "training_seed": _whole("the student's training seed"),
    "score": _score("mean of its episodes; of a trial by its selection rule"),
    **{rule: _score(f"of a trial by the rule {rule}") for rule in RULES},
}
LATENCY = {
    **OWNER,
    "task": _text("D4RL's name of the task"),
    "dataset": _text("source/task"),
    "method": _text("method, and how it samples"),
    "horizon": _SETTING["horizon"],
    "device": _text("where it was timed"),
    "batch": _number("windows at once", "count"),
    "nfe": _number("network calls of one window", "count"),
    "reward_gradients": _number("gradients of the reward model for one window", "count"),
    "executed_actions": _number("actions executed of one window", "count"),
    "median_ms": _number("median time of one window", "ms"),
    "p95_ms": _number("95 % quantile", "ms"),
    "per": _text("what `seconds` is of: action, plan (mazes) or window (actions unknown)"),
    "seconds": _number("median time of one action, plan or window", "s"),
}
STAGES = {
    "name": _text("kind-key"),
    "kind": _text("teacher, reward, student, regression or joint"),
    "dataset": _text("what it was trained on"),
    "horizon": _SETTING["horizon"],
    "steps": _number("optimizer steps", "steps"),
    "seconds": _number("time of training", "s"),
    "workers": _number("Ray Train workers", "count"),
    "device": _text("cpu or cuda"),
    "device_seconds": _number("seconds times workers", "s"),
    "loss": _number("at its end"),
    "built_by": _text("the sweep that built it"),
}
USES = {
    **_SWEEP,
    "trial": _text("the trial's key"),
    "stage": _text("name of a stage that it was built from"),
}
DATA = {
    **_SWEEP,
    "dataset": _text("source/task"),
    "task": _text("D4RL's name of the task"),
    "fingerprint": _text("sha256 of its content"),
    "transitions": _whole("transitions", "count"),
    "episodes": _whole("episodes", "count"),
    "counted": _text("what of it was counted to score its behaviour"),
}
BEHAVIOUR = {
    **_SWEEP,
    "dataset": _text("source/task"),
    "score": _score("of one episode of the data (mazes: of a stretch of one's length)"),
}
EVENTS = {
    **_SWEEP,
    "time": Column(_TIME, "UTC", "when"),
    "kind": _text("sweep, stage, trial, row or message"),
    "state": _text("started, building, built, completed, ..."),
    "text": _text("what was printed"),
    "name": _text("a stage's name"),
    "key": _text("a trial's or row's key"),
    "dataset": _text("a trial's or row's dataset"),
    "seconds": _number("time that it took", "s"),
    "device_seconds": _number("seconds times workers", "s"),
}

FRAMES = {
    "sweeps": ("one line per sweep", SWEEPS),
    "trials": ("one line per finished trial", TRIALS),
    "curves": ("one line per evaluation while a finished trial trained", CURVES),
    "episodes": ("one line per episode that a trial, confirmation or row played", EPISODES),
    "seeds": ("one line per training seed of a trial, confirmation or row", SEEDS),
    "stages": ("one line per stage in use by trials or rows, shared by all sweeps", STAGES),
    "latency": ("one line per timed row, and per trial whose latency was searched for", LATENCY),
    "rows": ("one line per final row: a method on fresh seeds", ROWS),
    "confirmations": ("one line per candidate played again before the winner", CONFIRMATIONS),
    "uses": ("one line per trial and stage that it was built from", USES),
    "data": ("one line per dataset", DATA),
    "behaviour": ("one line per episode of the data", BEHAVIOUR),
    "events": ("one line per event of a sweep's log; a log, not the truth", EVENTS),
}
"""What one line of a frame is, and its columns, in order."""


def to_markdown() -> str:
    """The schema as Markdown: a table for each frame."""
    parts = [
        "# Frames of `analysis.load`",
        "Written by `analysis.schema.to_markdown`. A `float64` is NaN and a `str` missing where a "
        "record has no value. `trials` has a further column `params.<name>` for each searched "
        "parameter beside horizon and weights, typed as its values are. Scores are D4RL's: 0 is "
        "a random policy's return, 100 the reference expert's.",
    ]
    for name, (line, columns) in FRAMES.items():
        rows = [
            f"| `{column}` | {each.dtype} | {each.unit} | {each.meaning} |"
            for column, each in columns.items()
        ]
        table = ["| column | type | unit | meaning |", "|---|---|---|---|", *rows]
        parts += [f"## {name}", f"{line[0].upper()}{line[1:]}.", "\n".join(table)]
    return "\n\n".join(parts) + "\n"
