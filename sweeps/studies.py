"""The Optuna study of one task: where it lies, what suggests in it and what prunes."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.distributions import IntDistribution as IntRange
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial

from ractd_core.files import write_bytes
from sweeps.canonical import key_of
from sweeps.layout import StorageError, TaskContext
from sweeps.mirror import address_of
from sweeps.search_space import Choices, Parameter, Scalar, parameters
from sweeps.spec import SweepSpec
from sweeps.spec_parts import PrunerSpec, SamplerSpec

_log = logging.getLogger(__name__)


def open_study(context: TaskContext) -> optuna.Study:
    """The task's study, made if it is not there.

    It is named after the sweep, the dataset and the search space: Optuna keeps to the choices that
    a study began with, so a wider search begins a new one, which learns from the ledger.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = context.spec
    searched = parameters(spec.search)
    space = {path: each.model_dump(mode="json") for path, each in searched.items()}
    # Two sweeps of one name, on two storages, can share a database.
    begun = [address_of(context.folder.storage), space]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=f"{context.folder.name}/{context.dataset}/{key_of(begun)[:8]}",
            storage=_storage(context),
            directions=directions(spec),
            pruner=make_pruner(spec.pruner, context.recipe.student.optim.steps),
            load_if_exists=True,
        )
        known = len(study.get_trials(deepcopy=False))
        # A sampler that began anew with the same seed would repeat its first suggestions.
        study.sampler = make_sampler(spec.sampler, spec.seed + known)
    return study


def directions(spec: SweepSpec) -> list[str]:
    """Scores are to be high, seconds and milliseconds low."""
    return ["maximize" if name == "score" else "minimize" for name in spec.objectives]


def _storage(context: TaskContext) -> BaseStorage:
    if context.spec.study != "journal":
        return open_database(context.spec.study)
    path = context.folder.path / "studies" / f"{context.dataset.task.name}.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    mend_journal(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return JournalStorage(JournalFileBackend(str(path)))


def open_database(url: str) -> RDBStorage:
    """Studies in a database; :class:`StorageError` names ``study`` if it cannot be opened."""
    try:
        return RDBStorage(url)
    except Exception as error:  # of SQLAlchemy, or of the database's own package
        raise StorageError(f"study {url}: cannot be opened ({error})") from error


def make_sampler(spec: SamplerSpec, seed: int) -> BaseSampler:
    """The sampler of a spec; a grid needs none, its points being known."""
    if spec.kind == "tpe":
        return TPESampler(
            n_startup_trials=spec.startup_trials,
            seed=seed,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
    if spec.kind == "gp":
        return GPSampler(n_startup_trials=spec.startup_trials, seed=seed)
    if spec.kind == "nsga2":
        return NSGAIISampler(population_size=spec.startup_trials, seed=seed)
    return RandomSampler(seed=seed)


def make_pruner(spec: PrunerSpec, steps: int) -> BasePruner:
    """The pruner of a spec for students of ``steps`` steps."""
    warmup = 3 * steps // 5 if spec.warmup_steps is None else spec.warmup_steps
    if spec.kind == "median":
        return MedianPruner(spec.startup_trials, n_warmup_steps=warmup)
    if spec.kind == "asha":
        return SuccessiveHalvingPruner(min_resource=max(1, warmup), reduction_factor=spec.reduction)
    return NopPruner()


def distribution(parameter: Parameter, integer: bool) -> BaseDistribution:
    """The parameter as Optuna knows it."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(list(parameter.choices))
    if integer:
        step = int(parameter.step or 1)
        return IntRange(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def draw(trial: Trial, name: str, dist: BaseDistribution) -> Scalar:
    """The trial's value of one parameter: enqueued, or suggested by the study's sampler."""
    if isinstance(dist, CategoricalDistribution):
        chosen: Scalar = trial.suggest_categorical(name, dist.choices)
        return chosen
    limits = {"low": dist.low, "high": dist.high, "log": dist.log, "step": dist.step}
    if isinstance(dist, IntRange):
        return int(trial.suggest_int(name, **limits))
    return float(trial.suggest_float(name, **limits))


def mend_journal(path: Path) -> None:
    """Cut a study file back to its last whole line: a killed writer can leave half of one.

    Only for the one driver that holds the sweep's lock. A lock file it finds belongs to a driver
    that is gone.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    whole = b""
    for line in content.splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        whole += line
    if whole != content:
        _log.warning(
            "%s: %d bytes at the end were torn and are dropped", path, len(content) - len(whole)
        )
        write_bytes(path, whole)
