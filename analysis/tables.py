"""The benchmark table and the trials table, as numbers (for CSV) and as text (for a reader)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.flatten import Line
from analysis.methods import METHODS, method_of
from analysis.published import DOUBTFUL, base_task, published_ractd
from analysis.records import Records
from analysis.runs import row_scores, rows_that_count
from analysis.schema import DIAGNOSTICS, PARAM_PREFIX, WEIGHTS
from analysis.stats import bootstrap_mean, iqm, student_mean
from analysis.stats_tasks import counted_score
from ractd_core.tasks import all_tasks

SYMBOLS = {"ctm_weight": "α", "dsm_weight": "β", "reward_weight": "σ"}
DOMAINS = {
    "mujoco": "Gym-MuJoCo",
    "maze2d": "Maze2d",
    "antmaze": "AntMaze",
    "kitchen": "FrankaKitchen",
    "adroit": "Adroit",
}
PUBLISHED = "RACTD (published, D4RL's own data)"
DATA = "data (its own behaviour)"
_ORDER = (DATA, *METHODS, PUBLISHED)
_BENCHMARK_COLUMNS = {
    "sweep": "str",
    "domain": "str",
    "task": "str",
    "dataset": "str",
    "method": "str",
    "nfe": "float64",
    "reward_gradients": "float64",
    "executed_actions": "float64",
    "ctm_weight": "float64",
    "dsm_weight": "float64",
    "reward_weight": "float64",
    "horizon": "float64",
    "score": "float64",
    "low": "float64",
    "high": "float64",
    "iqm": "float64",
    "episodes": "float64",
    "last_score": "float64",
    "selection_score": "float64",
    "confirmation_score": "float64",
    "gap": "float64",
    "latency_ms": "float64",
    "seconds": "float64",
    "per": "str",
    "training_seed": "float64",
    "training_seeds": "float64",
    "diverged": "float64",
    "interval_over": "str",
    "weights": "str",
    "fingerprint": "str",
    "conflict": "str",
}
_PER_WINDOW = ("nfe", "reward_gradients", "latency_ms")
_REASON_LENGTH = 160
MISSING = "–"


def benchmark_table(sweep: Records) -> pd.DataFrame:
    """One line per final row with a score, with the data's own score and the published one.

    `low` and `high` bound the 95 % interval: Student's over the means of two or more training
    seeds, else the bootstrap's over episodes (of the data, for its own behaviour), as
    `interval_over` says; of a single one there is none. `last_score` is that of the winner's last
    weights in the search, whatever rule it was selected by; `gap` is selection score minus score;
    `training_seed` is the first of `training_seeds`, of which `diverged` count as 0. Network calls
    (`nfe`), the reward model's gradients beside them, latency and `seconds` are those of one plan
    (mazes) or one executed action, as `per` says. `conflict` is why a published score is doubtful.
    """
    lines = [*_data_lines(sweep), *_row_lines(sweep), *_published_lines(sweep)]
    frame = pd.DataFrame(lines, columns=list(_BENCHMARK_COLUMNS)).astype(_BENCHMARK_COLUMNS)
    frame["domain"] = frame["task"].map(domain_of).astype("str")
    position = {method: place for place, method in enumerate(_ORDER)}
    order = frame.assign(
        position=frame["method"].map(method_of).map(position).fillna(len(_ORDER) - 1.5),
        published=frame["method"] == PUBLISHED,
    ).sort_values(["task", "published", "dataset", "position", "nfe", "horizon", "training_seed"])
    return frame.loc[order.index].reset_index(drop=True)


def benchmark_text(table: pd.DataFrame) -> pd.DataFrame:
    """The benchmark table with every cell as text for a reader."""
    return pd.DataFrame(
        {
            "dataset": table["dataset"],
            "method": table["method"],
            "score [95 % CI]": [
                score_text(line) + ("" if pd.isna(line["conflict"]) else f" {DOUBTFUL}")
                for line in table.to_dict("records")
            ],
            "network calls": [
                _calls_text(calls, gradients)
                for calls, gradients in zip(table["nfe"], table["reward_gradients"], strict=True)
            ],
            "executed": number_texts(table["executed_actions"], "{:.0f}"),
            **_weights_text(table),
            "horizon": number_texts(table["horizon"], "{:.0f}"),
            "episodes": number_texts(table["episodes"], "{:.0f}"),
            "selection score": number_texts(table["selection_score"], "{:.1f}"),
            "confirmed": number_texts(table["confirmation_score"], "{:.1f}"),
            "gap": number_texts(table["gap"], "{:+.1f}"),
            "latency ms": [
                MISSING if pd.isna(value) else three_digits(value) for value in table["latency_ms"]
            ],
            "training seeds": [
                MISSING if pd.isna(count) else _seeds_text(int(count), int(seed))
                for count, seed in zip(table["training_seeds"], table["training_seed"], strict=True)
            ],
            "fingerprint": [
                MISSING if pd.isna(full) else full[:8] for full in table["fingerprint"]
            ],
        }
    )


def benchmark_terminal(table: pd.DataFrame) -> str:
    """The benchmark table for a terminal: its narrow columns, under the dataset's name if one."""
    text = benchmark_text(table)
    local = table.loc[table["fingerprint"].notna(), "dataset"].unique()
    heading = ""
    if len(local) == 1:
        over = " and ".join(sorted(table["interval_over"].dropna().unique()))
        heading = f"{local[0]}: normalized score, 95 % interval over {over}\n\n"
        text = text.drop(columns="dataset")
    if not (table["executed_actions"] > 1).any():
        text = text.drop(columns="executed")
    text = text.drop(
        columns=["episodes", "selection score", "confirmed", "training seeds", "fingerprint"]
    )
    doubts = [
        f"\n{DOUBTFUL} {line['dataset']}, {line['score']:.1f}: {line['conflict']}"
        for line in table.dropna(subset="conflict").to_dict("records")
    ]
    lines = text.to_markdown(index=False, disable_numparse=True, tablefmt="simple")
    return heading + lines + "".join(doubts)


def trials_table(sweep: Records) -> pd.DataFrame:
    """One line per finished trial, with every searched parameter and diagnosis as a column."""
    further = [name for name in sweep.trials.columns if name.startswith(PARAM_PREFIX)]
    return sweep.trials[
        [
            "dataset",
            "number",
            "status",
            *WEIGHTS,
            "horizon",
            *further,
            "selection_score",
            "steps",
            "seconds",
            *DIAGNOSTICS,
            "reason",
            "key",
        ]
    ]


def trials_text(table: pd.DataFrame) -> pd.DataFrame:
    """The trials table with every cell as text for a reader; long reasons are cut."""
    further = [name for name in table.columns if name.startswith(PARAM_PREFIX)]
    return pd.DataFrame(
        {
            "dataset": table["dataset"],
            "trial": table["number"].astype("str"),
            "status": table["status"],
            **_weights_text(table),
            "horizon": number_texts(table["horizon"], "{:.0f}"),
            **{
                name.removeprefix(PARAM_PREFIX): number_texts(table[name], "{}") for name in further
            },
            "score": number_texts(table["selection_score"], "{:.1f}"),
            "steps": number_texts(table["steps"], "{:.0f}"),
            "seconds": number_texts(table["seconds"], "{:.1f}"),
            "reason": [MISSING if pd.isna(r) else short_reason(r) for r in table["reason"]],
        }
    )


def short_reason(reason: str) -> str:
    """The reason on one line and at most 160 characters."""
    line = " ".join(reason.split())
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"


def three_digits(value: float) -> str:
    """A positive number with three digits that count, never in powers of ten above 100."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def domain_of(task: str) -> str:
    """The domain's name for a reader; the task's own where D4RL has no such task."""
    known = all_tasks().get(task)
    return DOMAINS[known.domain] if known else task


def _data_lines(sweep: Records) -> list[Line]:
    lines = []
    for record in sweep.data.to_dict("records"):
        own = sweep.behaviour["sweep"] == record["sweep"]
        own &= sweep.behaviour["dataset"] == record["dataset"]
        scores = sweep.behaviour.loc[own, "score"]
        if not scores.empty:
            lines.append(
                {name: record[name] for name in ("sweep", "task", "dataset", "fingerprint")}
                | {"method": DATA}
                | _score_cells(scores)
            )
    return lines


def _row_lines(sweep: Records) -> list[Line]:
    episodes = sweep.episodes[sweep.episodes["owner"] == "row"]
    last = sweep.trials.set_index(["sweep", "key"])["selection_last"]
    lines = []
    for row in rows_that_count(sweep).to_dict("records"):
        line: Line = {str(name): row[name] for name in row if name in _BENCHMARK_COLUMNS}
        line["diverged"] = 0
        own = episodes[(episodes["sweep"] == row["sweep"]) & (episodes["key"] == row["key"])]
        if row["status"] == "failed":
            line |= _diverged_cells(list(row_scores(sweep, row).values()))
        else:
            line |= _score_cells(own["score"], own["training_seed"])
        if not pd.isna(row["selection_score"]):
            line["last_score"] = last.get((row["sweep"], row["trial"]))
        if row["executed_actions"] > 1:
            line |= {name: row[name] / row["executed_actions"] for name in _PER_WINDOW}
        line["seconds"] = row["latency_ms"] / 1000 / max(1.0, row["executed_actions"])
        line["per"] = "plan" if pd.isna(row["executed_actions"]) else "action"
        lines.append(line)
    return lines


def _score_cells(scores: pd.Series[float], seeds: pd.Series[int] | None = None) -> Line:
    values = scores.to_numpy(dtype="float64")
    means = values[:1] if seeds is None else scores.groupby(seeds).mean().to_numpy()
    several = len(means) > 1
    interval = student_mean(means) if several else bootstrap_mean(values)
    return {
        "score": interval.value,
        "low": interval.low,
        "high": interval.high,
        "interval_over": "training seeds" if several else "episodes",
        "iqm": iqm(values),
        "episodes": len(values),
    }


def _diverged_cells(scores: Sequence[float]) -> Line:
    interval = student_mean([counted_score(score) for score in scores])
    return {
        "score": interval.value,
        "low": interval.low,
        "high": interval.high,
        "interval_over": None if interval.low is None else "training seeds",
        "diverged": sum(map(math.isnan, scores)),
    }


def _published_lines(sweep: Records) -> list[Line]:
    versions = {base_task(task): task for task in sweep.tasks}
    return [
        {
            "task": versions[base_task(row["task"])],
            "dataset": f"D4RL {row['task']}",
            "method": PUBLISHED,
            "nfe": row["nfe"],
            "score": row["value"],
            "conflict": row["conflict"],
        }
        for row in published_ractd(sweep.tasks).to_dict("records")
    ]


def _weights_text(table: pd.DataFrame) -> dict[str, list[str]]:
    return {symbol: number_texts(table[weight], "{:.3g}") for weight, symbol in SYMBOLS.items()}


def number_texts(values: pd.Series[float], pattern: str) -> list[str]:
    """Each value in `pattern`, a dash where there is none."""
    return [number_text(value, pattern) for value in values]


def number_text(value: float | None, pattern: str) -> str:
    """A value in `pattern`, a dash where there is none."""
    return MISSING if value is None or value != value else pattern.format(value)


def score_text(line: Mapping[Hashable, Any]) -> str:
    """The score of a benchmark line with its interval, and how many training seeds diverged."""
    text = interval_text(line["score"], line["low"], line["high"])
    return f"{text}, {line['diverged']:.0f} diverged" if line["diverged"] > 0 else text


def _calls_text(calls: float, gradients: float) -> str:
    """Calls, and with a + those gradients of the reward model that are taken beside them."""
    if pd.isna(calls):
        return MISSING
    return f"{calls:.3g} + {gradients:.3g} ∇R" if gradients > 0 else f"{calls:.3g}"


def _seeds_text(count: int, first: int) -> str:
    return f"1 (seed {first})" if count == 1 else f"{count} (seeds {first} to {first + count - 1})"


def interval_text(score: float, low: float, high: float) -> str:
    """A score with its interval, if it has one; a dash without a score."""
    if pd.isna(score):
        return MISSING
    if pd.isna(low):
        return f"{score:.1f}"
    return f"{score:.1f} [{low:.1f}, {high:.1f}]"
