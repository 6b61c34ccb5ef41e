"""The best trials of a task on episode seeds that the search has not used, and which of them wins.

The best of many scores is too high by what chance gave it. Played again, each candidate's score is
its own, and the gap between the two says by how much the search has flattered it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sweeps.canonical import key_of
from sweeps.episodes import summary
from sweeps.layout import EPISODES, TaskContext
from sweeps.ledger import Record
from sweeps.players import plan_of_record, play, selected_players
from sweeps.spec_parts import CONFIRMATION_SEED
from sweeps.versions import versions
from sweeps.workers import device, failure_reason, use_threads


def candidates(context: TaskContext) -> list[Record]:
    """The completed trials with the best selection scores, the earlier one of two equals first."""
    done = [
        record
        for record in context.folder.trials
        if record["dataset"] == str(context.dataset) and record["status"] == "completed"
    ]
    done.sort(key=lambda record: (-record["selection"]["score"], record["number"]))
    return done[: context.spec.selection.top]


def confirmation(context: TaskContext, trial: Record) -> Record | None:
    """The record of a candidate's confirmation, None if it has not been played yet."""
    return context.folder.confirmations.get(confirmation_key(context, trial))


def to_confirm(context: TaskContext) -> list[Record]:
    """The candidates that have not been confirmed yet."""
    return [trial for trial in candidates(context) if confirmation(context, trial) is None]


def confirm(context_json: dict[str, Any]) -> None:
    """Play every candidate that has not been confirmed, one after the other.

    One whose retrained students fail is recorded as failed, and cannot win.
    """
    context = TaskContext.from_json(context_json)
    use_threads(context.spec.resources.student.cpus)
    for trial in to_confirm(context):
        _confirm(context, trial)


def winner(context: TaskContext) -> Record | None:
    """The candidate with the best confirmed score, None as long as some are still to be confirmed.

    Of two equals it is the one with the better selection score, and then the earlier one.
    """
    best: Record | None = None
    highest = 0.0
    for trial in candidates(context):
        found = confirmation(context, trial)
        if found is None:
            return None
        if found["status"] == "completed":
            score = found["confirmation"]["score"]
            if best is None or score > highest:
                best, highest = trial, score
    return best


def confirmation_key(context: TaskContext, trial: Record) -> str:
    """The key of the record of a trial's confirmation."""
    selection = context.spec.selection
    played = [selection.confirmation_episodes, CONFIRMATION_SEED]
    return key_of(["confirmation", trial["key"], *played, selection.retrain])


def _confirm(context: TaskContext, trial: Record) -> None:
    key, selection = confirmation_key(context, trial), context.spec.selection
    ledger, plan = context.folder.confirmations, plan_of_record(context, trial)
    episodes = ledger.folder(key) / EPISODES
    seeds = range(CONFIRMATION_SEED, CONFIRMATION_SEED + selection.confirmation_episodes)
    selected = trial["selection"]["score"]
    outcome: Record = {"status": "completed", "reason": None, "confirmation": None, "gap": None}
    try:
        players = selected_players(context, trial)
    except OSError:
        raise
    except Exception as error:
        outcome |= {"status": "failed", "reason": failure_reason(error)}
    else:
        play(plan, players, seeds, episodes)
        found = summary(episodes)
        outcome |= {"confirmation": found, "gap": selected - found["score"], **players.trained}
        outcome |= {"weights": players.weights}
    ledger.put(
        key,
        {
            "kind": "confirmation",
            **plan.identity(),
            "method": "ractd",
            "number": trial["number"],
            "trial": trial["key"],
            "retrain": selection.retrain,
            "selection_score": selected,
            **outcome,
            "device": device().type,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        },
    )
