"""What tests of the search share: a context to search in, and a trial played by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import TrialState

from sweeps.jsonl import append_row
from sweeps.layout import CURVE, EPISODES, STOP, SweepFolder, TaskContext, plan_of
from sweeps.ledger import Record
from sweeps.search import StudySearch
from sweeps.spec import parse_spec
from sweeps.trial import close_trial

TASK = "maze2d-umaze-v1"
SIGMA = {"low": 1e-5, "high": 1e-2, "log": True}
Start = Callable[..., TaskContext]


def make_start(tmp_path: Path) -> Start:
    """A context of a sweep with the given changes to a small spec."""

    def make(**changes: Any) -> TaskContext:
        raw = {
            "name": "one",
            "tasks": [f"local/{TASK}"],
            "trials": 6,
            "search": {"horizon": {"choices": [128, 160]}, "sigma": SIGMA},
            "first_trials": [],
            "recipe": {"student": {"optim": {"steps": 30}}},
            **changes,
        }
        spec = parse_spec(yaml.safe_dump(raw), "spec.yaml")
        folder = SweepFolder(tmp_path / "storage", spec.name)
        folder.freeze(spec)
        return TaskContext(folder, spec, spec.datasets()[0], "f" * 64)

    return make


def open_search(context: TaskContext) -> StudySearch:
    return StudySearch(context, lambda record: None)


def suggest(search: StudySearch, name: str) -> dict[str, Any]:
    config = search.suggest(name)
    assert isinstance(config, dict), config
    return config


def score_at(config: dict[str, Any], step: int, score: float) -> None:
    """What a trial writes when it has been scored at ``step``."""
    plan = plan_of(config)
    row = {"training_seed": plan.training_seeds[0], "step": step, "score": score}
    append_row(plan.folder / CURVE, row | {"seconds": 1.5, "device": "cpu"})


def write_record(config: dict[str, Any], status: str, score: float = 0.0) -> Record:
    """What a trial's own process leaves behind."""
    plan = plan_of(config)
    score_at(config, 30, score)
    lines = [
        f"{training_seed},{seed},{score},{score + spread},300"
        for training_seed in plan.training_seeds
        for seed, spread in enumerate((-1.0, 1.0))
    ]
    header = "training_seed,seed,return,score,length"
    (plan.folder / EPISODES).write_text("\n".join([header, *lines, ""]))
    close_trial(plan, config["number"], status, None if status == "completed" else "because")
    record = plan.context.folder.trials.get(plan.key)
    assert record is not None
    return record


def run(search: StudySearch, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Suggest and complete ``count`` trials, one after the other."""
    configs = []
    for index in range(first, first + count):
        config = suggest(search, str(index))
        write_record(config, "completed", float(index))
        search.on_trial_complete(str(index))
        configs.append(config)
    return configs


def keys(configs: list[dict[str, Any]]) -> list[str]:
    return [plan_of(config).key for config in configs]


def agreed(search: StudySearch) -> None:
    """Every record is in the study, once, with its state and its score."""
    states = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    expected = Counter(
        (states[record["status"]], (record["selection"] or {}).get("score"))
        for record in search.context.folder.trials
        if record["status"] != "failed"
    )
    found = Counter(
        (trial.state.name, trial.value if trial.state == TrialState.COMPLETE else None)
        for trial in search.study.get_trials()
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    assert found == expected


def journal(context: TaskContext) -> Path:
    [path] = (context.folder.path / "studies").glob("*.journal")
    return path


def trials_in(search: StudySearch) -> list[tuple[int, str]]:
    return [(trial.number, trial.state.name) for trial in search.study.get_trials()]


def tell(search: StudySearch, config: dict[str, Any], name: str, step: int, score: float) -> bool:
    """A trial reports a score; whether it has been asked to stop."""
    score_at(config, step, score)
    search.on_trial_result(name, {"step": step, "score": score})
    return (plan_of(config).folder / STOP).exists()


def pruning(start: Start, **changes: Any) -> StudySearch:
    """A search in which two trials have completed with 50 and more at every step."""
    pruner = {"kind": "median", "startup_trials": 2, "warmup_steps": 0}
    search = open_search(start(**{"pruner": pruner, **changes}))
    for index in range(2):
        config, name = suggest(search, f"good {index}"), f"good {index}"
        for step in (10, 20, 30):
            assert not tell(search, config, name, step, 50.0 + index)
        write_record(config, "completed", 50.0 + index)
        search.on_trial_complete(name)
    return search
