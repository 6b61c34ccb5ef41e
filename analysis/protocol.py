"""How a sweep's numbers came about: data, checkpoint, seeds, interval, and their limits."""

from __future__ import annotations

import math

import pandas as pd

from analysis.methods import METHODS, method_of
from analysis.published import DOUBTFUL, base_task, published_ractd
from analysis.records import Records
from analysis.runs import diverged, row_scores, rows_that_count
from analysis.stats_tasks import DIVERGED

_RULES = {
    "last": "its last weights' score",
    "best": "the highest score of its curve",
    "mean-of-last": "the mean of its curve's last scores",
}


def protocol_lines(sweep: Records) -> tuple[str, ...]:
    """The sentences without which the scores of a report cannot be read."""
    return (*footnotes(sweep), *_published_lines(sweep))


def footnotes(sweep: Records) -> tuple[str, ...]:
    """What stands under a table of scores that were measured here; no sentence twice."""
    return tuple(
        dict.fromkeys(
            (
                *_data_lines(sweep),
                *_selection_lines(sweep),
                *_confirmation_lines(sweep),
                *_evaluation_lines(sweep),
                *_diverged_lines(sweep),
                *_method_lines(sweep),
                *_interval_lines(sweep),
                *_caveats(sweep),
                *_version_lines(sweep),
            )
        )
    )


def _data_lines(sweep: Records) -> list[str]:
    scales = _scales(sweep)
    return [
        f"Data: {data['dataset']} (task {data['task']}, fingerprint {data['fingerprint'][:8]}), "
        f"{data['transitions']} transitions in {data['episodes']} episodes, scored by "
        f"{data['counted']}.{scales.get(data['dataset'], '')}"
        for data in sweep.data.to_dict("records")
    ]


def _scales(sweep: Records) -> dict[str, str]:
    frame = pd.concat([sweep.trials, sweep.rows])[["dataset", "ref_min", "ref_max"]]
    return {
        line["dataset"]: f" A score of 0 is a return of {line['ref_min']:g} (random), "
        f"100 one of {line['ref_max']:g} (reference expert)."
        for line in frame.drop_duplicates("dataset").to_dict("records")
    }


def _selection_lines(sweep: Records) -> list[str]:
    columns = ["selection_rule", "selection_episodes", "selection_first_seed"]
    rules = sweep.trials.dropna(subset=columns).drop_duplicates(columns)
    if rules.empty:
        return ["Selection: no trial has been scored."]
    return [
        f'Selection: each trial is scored by the rule "{rule["selection_rule"]}" '
        f"({_RULES[rule['selection_rule']]}), the mean over its training seeds; the last weights "
        f"play {rule['selection_episodes']:.0f} episodes, seeds "
        f"{_seeds(rule['selection_first_seed'], rule['selection_episodes'])}."
        for rule in rules.to_dict("records")
    ]


def _confirmation_lines(sweep: Records) -> list[str]:
    found = sweep.confirmations.dropna(subset=["score"])
    return [
        f"Confirmation: the best trials play {each['episodes']:.0f} more episodes, seeds "
        f"{_seeds(each['first_seed'], each['episodes'])}, "
        + (f"by {each['retrain']} retrained students" if each["retrain"] else "by their students")
        + "; the best of them is the winner."
        for each in found.drop_duplicates(["episodes", "first_seed", "retrain"]).to_dict("records")
    ]


def _interval_lines(sweep: Records) -> list[str]:
    episodes = (
        "Interval: 95 % percentile bootstrap of the mean over evaluation episodes (for the data, "
        "over its own), 5000 resamples. It does not cover the spread between training seeds."
    )
    if not (sweep.rows["training_seeds"] > 1).any():
        return [episodes]
    return [
        "Interval: of rows with two or more training seeds, 95 % by Student's t over the means of "
        "their seeds.",
        episodes.replace("Interval: ", "Interval: of all others, "),
    ]


def _evaluation_lines(sweep: Records) -> list[str]:
    completed = sweep.rows[sweep.rows["status"] == "completed"]
    if completed.empty:
        return ["Final rows: none yet, so no score here is free of selection."]
    ranges = completed.drop_duplicates(["episodes", "first_seed"])
    lines = [
        f"Final rows: evaluated on seeds {_seeds(row['first_seed'], row['episodes'])}; "
        + (
            "SOME OF THEM WERE USED FOR SELECTION, so the scores are too high to be compared."
            if _overlaps_selection(sweep.trials, row["first_seed"], row["episodes"])
            else "selection never saw them. Gap is selection score minus final score."
        )
        for row in ranges.to_dict("records")
    ]
    if (completed["weights"] == "best").any():
        lines.append(
            "Weights: RACTD plays the best point of its curve, which was found by playing; its "
            "comparisons play their last weights."
        )
    return [*lines, _training_seeds_line(sweep)]


def _training_seeds_line(sweep: Records) -> str:
    """How many training seeds which methods have, with a caution where any has a single one."""
    rows = rows_that_count(sweep)
    methods = {
        int(count): sorted(set(rows.loc[rows["training_seeds"] == count, "method"]))
        for count in rows["training_seeds"].unique()
    }
    if len(methods) == 1:
        seeds = f"{next(iter(methods))}"
    else:
        seeds = "; ".join(
            f"{count} of {', '.join(names)}" for count, names in sorted(methods.items())
        )
    caution = " One training run says nothing on how far another would land."
    return f"Training seeds: {seeds}.{caution if 1 in methods else ''}"


def _diverged_lines(sweep: Records) -> list[str]:
    """Rows some of whose training seeds diverged, and what they count as."""
    found = sweep.rows[sweep.rows["reason"].map(diverged).astype(bool)]
    names = []
    for row in found.to_dict("records"):
        scores = row_scores(sweep, row).values()
        lost = sum(map(math.isnan, scores))
        names.append(f"{row['method']} on {row['dataset']} ({lost} of {len(scores)})")
    if not names:
        return []
    return [f"Diverged training seeds, each of which counts as {DIVERGED:g}: {', '.join(names)}."]


def _method_lines(sweep: Records) -> list[str]:
    played = set(sweep.rows["method"].map(method_of))
    known = "; ".join(f"{name}: {each.label}" for name, each in METHODS.items() if name in played)
    return [f"Methods: {known}."] if known else []


def _overlaps_selection(trials: pd.DataFrame, first: float, count: float) -> bool:
    begin = trials["selection_first_seed"]
    end = begin + trials["selection_episodes"]
    return bool(((begin < first + count) & (first < end)).any())


def _seeds(first: float, count: float) -> str:
    return f"{first:.0f} to {first + count - 1:.0f}"


def _published_lines(sweep: Records) -> list[str]:
    rows = published_ractd(sweep.tasks)
    return [
        f"Published row for {row['task']}: table {row['table']}, {row['source']}. It was measured "
        "on D4RL's own data and not here; the other rows on the data they name."
        + ("" if pd.isna(row["conflict"]) else f" {DOUBTFUL} It is doubtful: {row['conflict']}.")
        for row in rows.to_dict("records")
    ]


def _version_lines(sweep: Records) -> list[str]:
    found = pd.concat([sweep.trials["versions"], sweep.rows["versions"]]).dropna().unique()
    return [f"Versions: {text}." for text in sorted(found)]


def _caveats(sweep: Records) -> list[str]:
    if "maze2d-umaze" not in map(base_task, sweep.tasks):
        return []
    return [
        "Caveat: on maze2d-umaze plain regression of the plan, with no diffusion at all, reaches "
        "120 to 145. A high score there shows that the pipeline works, not that the method does."
    ]
