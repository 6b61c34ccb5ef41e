"""Collect a Gym-MuJoCo dataset by D4RL's recipe (arXiv 2004.07219, section 5.1).

``random`` plays uniform actions. The other levels share one SAC training run per environment and
seed: ``medium`` is played by its first policy that scores a third of D4RL's expert, ``expert`` by
its best one, both sampling actions; ``medium-replay`` is everything training played until medium
was reached; ``medium-expert`` is half medium, half expert. The run is kept in
``generators/ENVIRONMENT-seedN`` under ``RACTD_HOME`` and goes on from its last checkpoint to the
very result of an uninterrupted one, on the same machine with the same number of threads::

    replay-STEP.safetensors    the episodes since the evaluation before
    policy-STEP.safetensors    the actor, where it scored more than at all evaluations before
    state.safetensors          networks, optimizers, scores; names the files above, written last
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ractd_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.sac import Learner, Progress, SacSettings, join, new_sac, rollouts
from ractd_core.envs import make_env
from ractd_core.files import home
from ractd_core.tasks import DatasetName

_ROLLOUTS = {"random": 10, "medium": 11, "expert": 12}
"""Random streams, apart from those of training."""
_ARRAYS = ("observations", "actions", "rewards", "bounds", "terminated")
_D4RL = SacSettings()
_POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Collected:
    """A dataset and the policies behind it: their scores, and environment steps of training."""

    data: FlatDataset
    about: dict[str, float | int | str]


@dataclass(frozen=True)
class Evaluated:
    """The policy after ``step`` environment steps and its mean normalized score."""

    step: int
    score: float


def collect_locomotion(
    name: DatasetName,
    transitions: int,
    *,
    training_steps: int,
    seed: int,
    progress: Progress,
    settings: SacSettings = _D4RL,
) -> Collected:
    """Make the Gym-MuJoCo dataset ``name``, whole episodes of at most ``transitions`` steps in all.

    One episode is kept even if it is longer; ``medium-replay`` is as long as training took.
    Training ends at the first evaluation at or after ``training_steps``, sooner if the level needs
    no more; what an earlier call trained is used. ``progress`` gets lines of text. Raises
    ValueError for fewer than one transition or training step and :class:`DataError` for a task of
    another domain, if no policy became medium, if Stable-Baselines3 is needed and missing, and if
    the run cannot be read or written.
    """
    if min(transitions, training_steps) < 1:
        raise ValueError(
            f"transitions and training_steps must be 1 or more, found {transitions} and "
            f"{training_steps}"
        )
    if name.task.domain != "mujoco":
        raise DataError(f"{name} is a {name.task.domain} dataset, not a Gym-MuJoCo one")
    _, level = _split(name)
    if level == "random":
        data = rollouts(name, transitions, None, (seed, _ROLLOUTS["random"]), progress)
        return Collected(data, {"policy": "uniform random actions"})

    run = SacRun(name, seed, settings)
    kinds = level.removesuffix("-replay").split("-")
    policies = {kind: run.policy(kind, training_steps, progress) for kind in kinds}
    if level == "medium-replay":
        data = run.replay(policies["medium"].step)
    else:
        share = transitions // len(kinds)
        parts = [
            rollouts(name, share, run.actor(one.step), (seed, _ROLLOUTS[kind]), progress)
            for kind, one in policies.items()
        ]
        data = join(name, parts)
    about: dict[str, float | int | str] = {"policy": run.made_by()}
    for kind, one in policies.items():
        about |= {f"{kind}_step": one.step, f"{kind}_score": one.score}
    return Collected(data, about)


def _split(name: DatasetName) -> tuple[str, str]:
    """Environment and level: ``hopper-medium-v2`` is hopper, medium."""
    environment, rest = name.task.name.split("-", 1)
    return environment, rest.removesuffix("-v2")


class SacRun:
    """The SAC run of ``name``'s environment and ``seed``, shared by all levels and processes.

    Its methods raise :class:`DataError` if its folder cannot be written, is damaged or was made
    with other settings, and if Stable-Baselines3 is needed and not installed.
    """

    def __init__(self, name: DatasetName, seed: int, settings: SacSettings) -> None:
        self.name, self.seed, self.settings = name, seed, settings
        self.folder = home() / "generators" / f"{_split(name)[0]}-seed{seed}"
        self._label = f"SAC on {name.task.env_id.split('-')[0]}"

    def policy(self, kind: str, training_steps: int, progress: Progress) -> Evaluated:
        """The ``medium`` or ``expert`` policy of the first ``training_steps``, trained if need be.

        Raises :class:`DataError` if no policy became medium.
        """
        target = self.settings.medium_score if kind == "medium" else math.inf

        def enough(evaluated: Sequence[Evaluated]) -> bool:
            return any(one.score >= target or one.step >= training_steps for one in evaluated)

        self._train(enough, training_steps, progress)
        # An earlier call may have trained for longer; that must make no difference.
        within: list[Evaluated] = []
        for one in self.evaluated():
            within.append(one)
            if enough(within):
                break
        best = max(within, key=lambda one: one.score)
        if kind == "medium" and best.score < target:
            raise DataError(
                f"{self.name}: the best SAC policy of {training_steps:,} steps scored "
                f"{best.score:.1f} (step {best.step:,}), medium is {target:.1f}; raise "
                "--training-steps, and training goes on from where it is"
            )
        return best

    def evaluated(self) -> list[Evaluated]:
        """All evaluations so far, in order."""
        return [Evaluated(**one) for one in self._state()[1].get("evaluated", [])]

    def made_by(self) -> str:
        """Name and version of what trained the policies last."""
        return f"SAC, Stable-Baselines3 {self._state()[1]['version']}"

    def replay(self, until: int) -> FlatDataset:
        """All that was played in training up to the evaluation at step ``until``, in order."""
        parts = []
        for one in self.evaluated():
            if one.step <= until:
                with self._errors():
                    arrays, _ = load_checkpoint(self._file("replay", one.step))
                parts.append(
                    FlatDataset(name=self.name, **{key: arrays[key].numpy() for key in _ARRAYS})
                )
        return join(self.name, parts)

    def actor(self, step: int) -> Any:
        """The network that plays; ``step`` is that of an evaluation that beat all before it."""
        with self._errors():
            weights, _ = load_checkpoint(self._file("policy", step))
        with torch.random.fork_rng(devices=[]):
            actor = new_sac(self.name, make_env(self.name.task), self.seed, self.settings).actor
        actor.load_state_dict(weights)
        return actor

    def _train(
        self, enough: Callable[[Sequence[Evaluated]], bool], steps: int, progress: Progress
    ) -> None:
        """Train until ``enough`` of the evaluations, or wait while another process does."""
        lock = FileLock(self.folder / "lock")
        waiting = False
        while not enough(self.evaluated()):
            with self._errors():
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(timeout=_POLL_SECONDS if waiting else 0)
                except Timeout:
                    if not waiting:
                        progress(f"{self._label}: waiting for the process that trains it")
                    waiting = True
                    continue
            try:
                with torch.random.fork_rng(devices=[]):
                    self._train_alone(enough, steps, progress)
            finally:
                lock.release()

    def _train_alone(
        self, enough: Callable[[Sequence[Evaluated]], bool], steps: int, progress: Progress
    ) -> None:
        evaluated = self.evaluated()
        if enough(evaluated):
            # Another process got there just before this one had the lock.
            return
        # The last evaluation may come one interval and one episode late.
        spare = self.settings.evaluate_every + self.name.task.max_episode_steps
        learner = Learner(self.name, self.seed, self.settings, capacity=steps + spare)
        if evaluated:
            learner.restore(self._state()[0], self.replay(evaluated[-1].step))
        first, started = learner.step, time.monotonic()
        progress(f"{self._label}: training from step {first:,} of {steps:,}")
        while not enough(evaluated):
            episodes = learner.advance()
            evaluated.append(Evaluated(learner.step, learner.score()))
            self._save(learner, episodes, evaluated)
            rate = (learner.step - first) / (time.monotonic() - started)
            progress(
                f"{self._label}: step {learner.step:,} of {steps:,}, score "
                f"{evaluated[-1].score:.1f} (medium at {self.settings.medium_score:.1f}), "
                f"{rate:.0f} steps/s, about {max(steps - learner.step, 0) / rate / 60:.0f} min left"
            )

    def _save(
        self, learner: Learner, episodes: FlatDataset, evaluated: Sequence[Evaluated]
    ) -> None:
        import stable_baselines3

        *earlier, last = evaluated
        arrays = {key: torch.from_numpy(getattr(episodes, key)) for key in _ARRAYS}
        about = {
            "settings": asdict(self.settings),
            "version": stable_baselines3.__version__,
            "evaluated": [asdict(one) for one in evaluated],
        }
        with self._errors():
            save_checkpoint(self._file("replay", last.step), arrays, {})
            if all(last.score > one.score for one in earlier):
                save_checkpoint(self._file("policy", last.step), learner.actor_weights(), {})
            save_checkpoint(self._state_file, learner.tensors(), about)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The last checkpoint's tensors and facts; both empty before the first."""
        if not self._state_file.exists():
            return {}, {}
        with self._errors():
            tensors, about = load_checkpoint(self._state_file)
        mine = json.loads(json.dumps(asdict(self.settings)))
        if about["settings"] != mine:
            raise DataError(
                f"{self.name}: the SAC run in {self.folder} was made with {about['settings']}, not "
                f"{mine}; delete that folder to train anew"
            )
        return tensors, about

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.safetensors"

    def _file(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}.safetensors"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            raise DataError(f"{self.name}: {error}; delete {self.folder} to train anew") from error
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot keep the SAC run in {self.folder} ({error}); set RACTD_HOME "
                "to a folder that can be written and has room"
            ) from error
