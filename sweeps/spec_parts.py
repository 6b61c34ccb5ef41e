"""Parts of a sweep's spec that stand by themselves: data, evaluation, search, budget, resources."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from ractd_core.config import Config, NonNegative, Positive, PositiveFloat
from ractd_core.data.generate import LocalRecipe
from ractd_core.recipes import Family
from ractd_core.tasks import expand_datasets
from sweeps.search_space import Scalar, SearchPath

SELECTION_SEED = 10_000
CONFIRMATION_SEED = 500_000
FINAL_SEED = 1_000_000
"""Search, confirmation and final evaluation draw episode seeds from ranges that never meet."""


def _dataset(value: str) -> str:
    refusals = [name.refusal for name in expand_datasets(value) if name.refusal is not None]
    if refusals:
        raise ValueError("; ".join(refusals))
    return value


Dataset = Annotated[str, AfterValidator(_dataset)]

Objective = Literal["score", "seconds", "latency_ms"]
"""What a search improves: the selection score, and if asked beside it training time or latency.

Both are taken while other trials run beside it, so they tell fast from slow, not one per cent from
another; the final rows are timed when nothing else runs.
"""

PointName = Literal["default", Family]
Point = Annotated[
    Annotated[PointName, Tag("named")] | Annotated[dict[SearchPath, Scalar], Tag("values")],
    Discriminator(lambda value: "values" if isinstance(value, dict) else "named"),
]
"""A trial to begin with: values of searched fields, or those that a recipe has for all of them.

``default`` is the task's recipe in this sweep, ``released`` and its like that of another family.
"""


class DataSpec(Config):
    """How ``local/...`` datasets that are not there yet are generated.

    ``noisy`` is for mazes, ``training_steps`` (of SAC) for Gym-MuJoCo.
    """

    transitions: Annotated[int, Field(ge=1000)] = 100_000
    seed: Annotated[int, Field(ge=0)] = 0
    noisy: bool = False
    training_steps: Annotated[int, Field(ge=1000)] = 200_000

    def recipe(self) -> LocalRecipe:
        """As the data store takes it."""
        return LocalRecipe(self.transitions, self.seed, self.noisy, self.training_steps)


class EvaluationSpec(Config):
    """How many episodes are played when.

    ``episodes`` after every ``every`` student steps; ``selection_episodes`` with the last weights,
    whose mean is the objective; ``final_episodes`` with fresh seeds, for the table.
    """

    every: Positive = 50
    episodes: Positive = 25
    selection_episodes: Annotated[int, Field(ge=1, lt=CONFIRMATION_SEED - SELECTION_SEED)] = 50
    final_episodes: Positive = 100


class SelectionSpec(Config):
    """Which trial wins.

    A trial's objective is the mean over its training seeds of the score that ``rule`` takes from
    the selection seeds: ``last``, of the last weights (which needs no playing in between: offline);
    ``best``, the highest point of the curve, whose weights are kept (online); ``mean-of-last``, the
    mean of the curve's ``last`` points. All three are recorded. The ``top`` trials are then played
    on ``confirmation_episodes`` seeds that the search has not used, each with its own students or,
    if ``retrain`` is not 0, with so many students of fresh training seeds, and the best of them is
    the winner.
    """

    rule: Literal["last", "best", "mean-of-last"] = "last"
    last: Positive = 3
    top: Positive = 3
    retrain: Annotated[int, Field(ge=0)] = 0
    confirmation_episodes: Annotated[int, Field(ge=1, lt=FINAL_SEED - CONFIRMATION_SEED)] = 50


class SamplerSpec(Config):
    """What suggests trials: ``tpe``, ``gp`` (Gaussian process), ``nsga2``, ``random`` or ``grid``.

    The first three learn from earlier trials once ``startup_trials`` have ended, which are random
    or were given first; ``nsga2`` takes them as its generation. ``grid`` takes the whole space of
    choices, once, or a random part of it where ``trials`` is less. Below 20 trials it makes no
    difference that can be seen how early TPE begins, nor whether it does (60 searches of the
    recorded surface in ``tests/benchmarks``).
    """

    kind: Literal["tpe", "gp", "nsga2", "random", "grid"] = "tpe"
    startup_trials: Positive = 10


class PrunerSpec(Config):
    """Which unpromising trials are stopped early.

    ``median``: a trial whose best score so far is below the median of earlier trials' scores at the
    same step, once ``startup_trials`` have finished and after ``warmup_steps`` student steps (null:
    three fifths of a student's; on recorded trials of maze2d-umaze earlier scores hardly tell how
    trials end, and pruning by them lost to random search: ``tests/benchmarks/bench_regret.py``).
    ``asha``: asynchronous successive halving; after ``warmup_steps``, and after every ``reduction``
    times as many, only the best of ``reduction`` trials go on. ``diverged``: only those whose
    training collapses (:class:`ractd_core.config.CollapseConfig`). ``none``: not even these; only a
    loss that is not finite ends a trial.
    """

    kind: Literal["median", "asha", "diverged", "none"] = "median"
    startup_trials: Annotated[int, Field(ge=1)] = 4
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    reduction: Annotated[int, Field(ge=2)] = 3


class BudgetSpec(Config):
    """What ends or pauses a sweep before its trials are done; null is no limit.

    ``hours`` of this sweep's drivers, and ``device_hours`` of all that its trials and the stages it
    built took (workers times time): when one is spent no trial begins any more, those under way
    end, and the rows and the report follow. A trial ends as failed after ``trial_hours`` of its
    own, at the next point of its curve, or when that long nothing is heard of it. While less than
    ``free_gb`` GB are free on the storage nothing new begins. ``keep`` says whose students stay: of
    ``all`` trials, or of the ``top`` ones of the selection only.
    """

    hours: PositiveFloat | None = None
    device_hours: PositiveFloat | None = None
    trial_hours: PositiveFloat | None = None
    free_gb: PositiveFloat = 1.0
    keep: Literal["all", "top"] = "all"


Workers = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[tuple[Positive, Positive], Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, list | tuple) else "number"),
]
"""A number of workers, or the fewest and the most of them."""


class StageResources(Config):
    """``workers`` Ray Train workers with ``cpus`` and ``gpus`` each; one runs in its own process.

    ``[1, 4]`` are elastic: as many as there is room for, and other numbers when nodes come or go.
    ``micro_batch`` rows of a worker's share go through the networks at a time (null: all), and
    ``compile`` compiles the networks, which pays off in long runs. None of this is part of a
    stage's key: it does not change its result.
    """

    workers: Workers = 1
    cpus: PositiveFloat = 1.0
    gpus: NonNegative = 0.0
    micro_batch: Positive | None = None
    compile: bool = False

    @property
    def fewest(self) -> int:
        """Workers that a run cannot do without."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Workers that a run can use."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def alone(self) -> bool:
        """Whether a run is one process, without Ray Train."""
        return self.most == 1

    @property
    def how_many(self) -> str:
        """The number of workers for people."""
        return str(self.most) if self.fewest == self.most else f"{self.fewest} to {self.most}"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.fewest > self.most:
            raise ValueError(f"workers [{self.fewest}, {self.most}]: write the smaller one first")
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus != int(self.gpus) and (self.gpus > 1 or self.most > 1):
            raise ValueError(
                f"gpus {self.gpus:g}: a fraction is possible for one worker, up to one GPU; "
                "several workers take whole GPUs each"
            )
        return self


class Resources(Config):
    """What each stage takes, and how many trials run at once (null: as many as fit).

    ``grace`` seconds are given to what trains to write a checkpoint when the sweep is interrupted.
    """

    teacher: StageResources = StageResources()
    reward: StageResources = StageResources()
    student: StageResources = StageResources()
    concurrent_trials: Positive | None = None
    grace: NonNegative = 20.0
