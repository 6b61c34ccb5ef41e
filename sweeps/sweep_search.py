"""Ray Tune's view of a sweep: the searches of all its tasks as one.

Tune asks for a trial whenever one fits the cluster; the task with the fewest under way is asked
first, and of these the one with the most to come, so that tasks advance side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from sweeps.budget import Budget
from sweeps.search import StudySearch

NO_ROOM = "no_room"
"""What a trial reports that could not write for want of room, before it ends."""
TROUBLE = "trouble"
"""What a trial reports of other trouble that is not its own, before it breaks."""


class SweepSearch(Searcher):
    """Suggests from one of ``searches`` while the budget lasts and the driver is not ``ending``.

    ``say`` hears once why nothing begins any more, or why nothing does for now.
    """

    def __init__(
        self,
        searches: Sequence[StudySearch],
        budget: Budget,
        say: Callable[[str], None],
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._searches, self._budget, self._say = searches, budget, say
        self._ending = ending
        self._of: dict[str, StudySearch] = {}
        self._trouble: dict[str, str] = {}
        self._told: str | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; None while the storage is full, FINISHED when there are none."""
        if self._ending():
            return str(Searcher.FINISHED)
        spent = self._budget.spent()
        crowded = self._budget.crowded()
        self._tell(f"{spent}: no trial begins any more" if spent else crowded)
        if spent is not None:
            return str(Searcher.FINISHED)
        if crowded is not None:
            return None
        for search in sorted(self._searches, key=lambda each: (each.under_way, -each.remaining)):
            config = search.suggest(trial_id)
            if config is not None:
                self._of[trial_id] = search
                return config
        # What is under way can break on a full storage, and is then to be tried again.
        return None if self._of else str(Searcher.FINISHED)

    def _tell(self, reason: str | None) -> None:
        if reason is not None and self._told is None:
            self._say(reason)
        self._told = reason

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a score on."""
        if NO_ROOM in result:
            self._budget.lacked_room()
        elif TROUBLE in result:
            self._trouble[trial_id] = result[TROUBLE]
        else:
            self._of[trial_id].on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass a trial's end on."""
        no_room = NO_ROOM in (result or {})
        crowded = no_room or self._budget.crowded() is not None
        self._of.pop(trial_id).on_trial_complete(
            trial_id,
            error or no_room,
            crowded=crowded,
            reason=self._trouble.pop(trial_id, None),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its search for a snapshot that is never restored."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: studies and ledger are on storage already."""

    def restore(self, checkpoint_path: str) -> None:
        """Never used: a new driver reads studies and ledger."""


class QuietProgress(TrialProgressCallback):
    """Tune's printer of trials, silenced: the driver says how each trial ended."""

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Nothing."""

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Nothing."""

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Nothing."""
