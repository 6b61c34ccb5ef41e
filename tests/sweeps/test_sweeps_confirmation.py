"""The best trials are played again, and the best of them then is the winner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ractd_core.files import read_json, write_text
from sweeps.confirmation import (
    candidates,
    confirm,
    confirmation,
    confirmation_key,
    to_confirm,
    winner,
)
from sweeps.current import point_out
from sweeps.finals import wanted
from sweeps.layout import EPISODES, TaskContext
from sweeps.ledger import Record
from sweeps.players import plan_of_record, selected_players
from sweeps.spec_parts import CONFIRMATION_SEED, FINAL_SEED
from sweeps.stage_store import DIVERGED
from tests.sweeps.conftest import TINY
from tests.sweeps.played import Spec, close, open_context, write_confirmation

pytestmark = pytest.mark.usefixtures("project_home")


def open_with(tiny: Spec, tmp_path: Path, **selection: Any) -> TaskContext:
    merged = {**TINY["selection"], **selection}
    return open_context(tiny, tmp_path / "storage", selection=merged)


@pytest.fixture
def context(tiny: Spec, tmp_path: Path) -> TaskContext:
    return open_with(tiny, tmp_path)


def numbers(records: list[Record]) -> list[int]:
    return [record["number"] for record in records]


def confirmed(context: TaskContext, scores: dict[int, float]) -> None:
    """Confirm the candidates with the given scores by number."""
    for trial in candidates(context):
        write_confirmation(context, trial, scores[trial["number"]])
    confirm(context.to_json())


def test_candidates_are_the_best_completed_trials(context: TaskContext) -> None:
    assert candidates(context) == to_confirm(context) == []
    assert winner(context) is None
    close(context, 0, "pruned", 1000.0)
    close(context, 1, "failed", 1000.0)
    assert candidates(context) == []
    for number, score in ((5, 70.0), (4, 80.0), (3, 80.0), (6, 10.0)):
        close(context, number, "completed", score)
    assert numbers(candidates(context)) == numbers(to_confirm(context)) == [3, 4, 5]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_candidates_do_not_depend_on_who_ended_first(
    context: TaskContext, order: tuple[int, int]
) -> None:
    for number in order:
        close(context, number, "completed", 5.0)
    assert numbers(candidates(context)) == [1, 2]


def test_the_best_confirmed_wins_and_not_the_one_that_the_search_flattered(
    context: TaskContext,
) -> None:
    for number, score in ((0, 100.0), (1, 90.0), (2, 80.0), (3, 70.0)):
        close(context, number, "completed", score)
    assert winner(context) is None, "none has been confirmed"
    confirmed(context, {0: 60.0, 1: 85.5, 2: 85.0})
    best = winner(context)
    assert best is not None
    assert best["number"] == 1
    assert to_confirm(context) == []
    records = [confirmation(context, trial) or {} for trial in candidates(context)]
    assert [record["gap"] for record in records] == [40.0, 4.5, -5.0]
    first = records[0]
    assert (first["kind"], first["status"], first["trial"]) == (
        "confirmation",
        "completed",
        candidates(context)[0]["key"],
    )
    assert (first["selection_score"], first["retrain"]) == (100.0, 0)
    assert first["confirmation"]["score"] == 60.0
    assert first["confirmation"]["first_seed"] == CONFIRMATION_SEED
    assert first["confirmation"]["seeds"] == [{"training_seed": 0, "score": 60.0}]


def test_equally_confirmed_the_better_selected_and_then_the_earlier_wins(
    context: TaskContext,
) -> None:
    for number, score in ((2, 80.0), (1, 80.0), (0, 70.0)):
        close(context, number, "completed", score)
    confirmed(context, {0: -3.0, 1: -3.0, 2: -3.0})
    best = winner(context)
    assert best is not None
    assert best["number"] == 1


def test_a_better_trial_that_comes_later_is_confirmed_before_anything_wins(
    context: TaskContext,
) -> None:
    close(context, 0, "completed", 50.0)
    confirmed(context, {0: 50.0})
    assert winner(context) is not None
    close(context, 1, "completed", 60.0)
    assert winner(context) is None
    assert numbers(to_confirm(context)) == [1]


def test_the_only_candidate_is_confirmed_too(tiny: Spec, tmp_path: Path) -> None:
    context = open_with(tiny, tmp_path, top=1)
    close(context, 0, "completed", 50.0)
    close(context, 1, "completed", 40.0)
    assert numbers(to_confirm(context)) == [0]
    confirmed(context, {0: 44.0})
    record = confirmation(context, candidates(context)[0])
    assert record is not None
    assert record["gap"] == 6.0


def test_other_episodes_or_retraining_ask_for_another_confirmation(context: TaskContext) -> None:
    trial = close(context, 0, "completed", 50.0)
    confirmed(context, {0: 44.0})
    for change in ({"confirmation_episodes": 5}, {"retrain": 1}):
        selection = context.spec.selection.model_copy(update=change)
        spec = context.spec.model_copy(update={"selection": selection})
        other = TaskContext(context.folder, spec, context.dataset, context.fingerprint)
        assert confirmation(other, trial) is None
    wider = context.spec.selection.model_copy(update={"top": 9})
    spec = context.spec.model_copy(update={"selection": wider})
    other = TaskContext(context.folder, spec, context.dataset, context.fingerprint)
    assert confirmation(other, trial) == confirmation(context, trial)


def test_each_task_has_its_own_winner(tiny: Spec, tmp_path: Path) -> None:
    tasks = {"tasks": ["local/maze2d-umaze-v1", "local/maze2d-large-v1"]}
    umaze, large = (open_context(tiny, tmp_path / "s", index, **tasks) for index in (0, 1))
    large = TaskContext(large.folder, large.spec, large.dataset, "e" * 64)
    close(umaze, 1, "completed", 10.0)
    close(large, 2, "completed", 20.0)
    confirmed(umaze, {1: 5.0})
    confirmed(large, {2: 6.0})
    assert [(winner(each) or {})["number"] for each in (umaze, large)] == [1, 2]


def test_the_weights_that_the_rule_selects_are_played(tiny: Spec, tmp_path: Path) -> None:
    context = open_with(tiny, tmp_path, rule="best")
    players = selected_players(context, close(context, 0, "completed", 50.0))
    assert {seed: path.name for seed, path in players.paths.items()} == {0: "best.safetensors"}
    assert players.weights == "best"


def test_a_candidate_whose_retrained_student_diverges_cannot_win(
    tiny: Spec, tmp_path: Path
) -> None:
    context = open_with(tiny, tmp_path, retrain=1)
    best, other = (close(context, n, "completed", s) for n, s in ((0, 60.0), (1, 50.0)))
    store = context.folder.store
    for trial in (best, other):
        plan = plan_of_record(context, trial)
        request = context.request("student", plan.recipe_of(1000))
        for stage in [*request.parents.values(), *([request.name] if trial is best else [])]:
            write_text(store.building(stage) / DIVERGED, "loss not finite at step 3")
    confirm(context.to_json())
    record = confirmation(context, best)
    assert record is not None
    assert (record["status"], record["confirmation"], record["gap"]) == ("failed", None, None)
    assert record["reason"] == "diverged: loss not finite at step 3"
    assert to_confirm(context) == []
    assert winner(context) is None, "none of the candidates could be confirmed"
    assert not list(context.folder.confirmations.root.rglob(EPISODES))


def test_confirmation_never_meets_the_final_seeds(tiny: Spec, tmp_path: Path) -> None:
    most = FINAL_SEED - CONFIRMATION_SEED - 1
    spec = open_with(tiny, tmp_path, confirmation_episodes=most).spec
    assert CONFIRMATION_SEED + spec.selection.confirmation_episodes <= FINAL_SEED


def test_confirmations_and_rows_of_now_are_pointed_out_as_they_are_settled(
    context: TaskContext,
) -> None:
    def now() -> dict[str, list[str]]:
        point_out(context.folder, [context])
        found: dict[str, list[str]] = read_json(context.folder.path / "current.json")[
            str(context.dataset)
        ]
        return found

    old = close(context, 0, "completed", 70.0)
    confirmed(context, {0: 70.0})
    assert now() == {
        "confirmations": [confirmation_key(context, old)],
        "rows": list(wanted(context, old).values()),
    }
    # Extended: what is to be confirmed does not hide behind what was, nor do the old rows go yet.
    new = close(context, 5, "completed", 90.0)
    keys = [confirmation_key(context, each) for each in (new, old)]
    assert now() == {"confirmations": keys}
    write_confirmation(context, new, 150.0)
    confirm(context.to_json())
    assert now() == {"confirmations": keys, "rows": list(wanted(context, new).values())}
