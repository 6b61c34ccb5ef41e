"""Where things lie in the storage, and what every process of a sweep knows about it."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from ractd_core.config import CollapseConfig, Recipe
from ractd_core.files import home, read_json, write_json, write_text
from ractd_core.stages import parent_kinds
from ractd_core.tasks import DatasetName, parse_dataset_name
from sweeps.canonical import key_of
from sweeps.extend import refusals
from sweeps.ledger import Ledger
from sweeps.mirror import address_of, mirror_of, open_mirror, refresh
from sweeps.mirrored_sweep import changing_spec, pull_specs, pull_sweep
from sweeps.object_store import StoreUriError
from sweeps.search_space import LABELS, Scalar, apply, label, value_at
from sweeps.spec import SweepSpec, dump_spec, parse_spec
from sweeps.spec_parts import SELECTION_SEED
from sweeps.stage_store import MODEL, StageRequest, StageStore

ABOUT = "trial.json"
STOP = "stop"
CURVE = "curve.jsonl"
EPISODES = "episodes.csv"
BEST = "best.safetensors"
"""Files of a trial; the last one is a student's, with the weights of its curve's best point."""

_COLLAPSE = tuple(f"student.collapse.{name}" for name in CollapseConfig.model_fields)
_SHOWN = 3
_ABSENT = "not there"


class StorageError(RuntimeError):
    """Storage that cannot be used, or a sweep that is not there."""


def default_storage() -> Path:
    """``RACTD_HOME/storage``."""
    return home() / "storage"


def check_storage(text: str | None) -> Path:
    """The storage folder, made if absent; :class:`StorageError` if it cannot be written.

    For a URI it is the mirror, and StoreAwayError says that the store cannot be written.
    """
    path = storage_path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StorageError(
            f"storage {path} cannot be written ({error.strerror or error}); give another with "
            "--storage, or set RACTD_HOME"
        ) from error
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.check()
    return path


def storage_path(text: str | None) -> Path:
    """The storage folder, whether it is there or not; for a URI the mirror that stands for it.

    Raises :class:`StorageError` if it cannot be one.
    """
    if text and "://" in text:
        try:
            return open_mirror(text)
        except StoreUriError as error:
            raise StorageError(str(error)) from error
    path = Path(text).expanduser().absolute() if text else default_storage()
    for part in (path, *path.parents):
        if part.is_file():
            raise StorageError(
                f"storage {path} cannot be written: {part} is a file; give another with --storage"
            )
    return path


@dataclass(frozen=True)
class SweepFolder:
    """``STORAGE/sweeps/NAME``."""

    storage: Path
    name: str

    @property
    def path(self) -> Path:
        """The sweep's own folder."""
        return self.storage / "sweeps" / self.name

    @property
    def store(self) -> StageStore:
        """The stages, shared by all sweeps of the storage."""
        return StageStore(self.storage / "stages")

    @property
    def trials(self) -> Ledger:
        """Records of the search."""
        return Ledger(self.path / "trials")

    @property
    def rows(self) -> Ledger:
        """Records of the final rows."""
        return Ledger(self.path / "rows")

    @property
    def confirmations(self) -> Ledger:
        """Records of the best trials on seeds that the search has not used."""
        return Ledger(self.path / "confirmations")

    @property
    def scratch(self) -> Path:
        """Ray's own files: worth nothing once the driver has ended."""
        return self.path / "ray"

    def spec(self) -> SweepSpec:
        """The frozen spec; :class:`StorageError` if there is no such sweep."""
        path = self.path / "spec.yaml"
        if not path.exists():
            there = ", ".join(names(self.storage)) or "none"
            raise StorageError(f"no sweep {self.name!r} in {self.storage}; there: {there}")
        return parse_spec(path.read_text(encoding="utf-8"), str(path))

    def command(self, verb: str) -> str:
        """What a user types about this sweep: ``ractd sweep VERB NAME``, and where it lies."""
        elsewhere = self.storage != default_storage()
        storage = f" --storage {shlex.quote(address_of(self.storage))}" if elsewhere else ""
        return f"ractd sweep {verb} {self.name}{storage}"

    def spec_to_run(self) -> SweepSpec:
        """The frozen spec; :class:`StorageError` if it stands for other recipes by now.

        A spec holds what its author changed. The rest is this release's, and with other values half
        of a sweep's trials would be of another kind.
        """
        spec, path = self.spec(), self.path / "recipes.json"
        if not path.exists():
            raise StorageError(
                f"{path} is missing: nothing says which recipes sweep {self.name!r} began with; "
                "start a sweep of another name"
            )
        then = read_json(path)
        changes = list(
            _changes({task: then.get(task, _ABSENT) for task in spec.tasks}, _recipes(spec))
        )
        if changes:
            more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
            raise StorageError(
                f"sweep {self.name!r} was begun by a release with other recipes ({path}): "
                f"{'; '.join(changes[:_SHOWN])}{more}; go on with that release, or start a sweep "
                "of another name"
            )
        return spec

    def freeze(self, spec: SweepSpec) -> None:
        """Write the spec and its recipes, or check that those there are the same.

        Raises :class:`StorageError` if they are not.
        """
        path = self.path / "spec.yaml"
        with changing_spec(self.path):
            if not path.exists():
                self._write(spec)
            else:
                self.check_same(spec)

    def check_same(self, spec: SweepSpec) -> None:
        """Raise :class:`StorageError` if there is such a sweep that cannot be run with ``spec``."""
        path = self.path / "spec.yaml"
        if not path.exists():
            return
        if self.spec() != spec:
            raise StorageError(
                f"sweep {self.name!r} exists in {self.storage} with another spec ({path}); "
                f"`{self.command('resume')} --spec FILE` goes on with a changed one, or "
                "give the new one another name"
            )
        self.spec_to_run()

    def check_extension(self, spec: SweepSpec) -> None:
        """Raise :class:`StorageError`, with every reason, if the sweep cannot go on as ``spec``."""
        problems = refusals(self.spec_to_run(), spec)
        if problems:
            count = "1 change" if len(problems) == 1 else f"{len(problems)} changes"
            raise StorageError("\n  ".join([f"sweep {self.name!r}: {count} refused", *problems]))

    def extend(self, spec: SweepSpec) -> None:
        """Let the sweep go on as ``spec``; the earlier one is kept beside it.

        Raises :class:`StorageError`, with every reason, if that cannot be, and
        :class:`filelock.Timeout` while a driver runs.
        """
        with FileLock(self.path / "driver.lock", timeout=0), changing_spec(self.path):
            self.check_extension(spec)
            old = self.spec()
            if spec == old:
                return
            earlier = len(list(self.path.glob("spec-*.yaml")))
            write_text(self.path / f"spec-{earlier + 1}.yaml", dump_spec(old))
            self._write(spec)

    def _write(self, spec: SweepSpec) -> None:
        # A driver goes by the spec; recipes of tasks that it does not name yet do no harm.
        write_json(self.path / "recipes.json", _recipes(spec))
        write_text(self.path / "spec.yaml", dump_spec(spec))


def _recipes(spec: SweepSpec) -> dict[str, Any]:
    """What every task of a sweep is trained with, whole."""
    return {str(name): spec.recipe_of(name).model_dump(mode="json") for name in spec.datasets()}


def _changes(then: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two tables differ, and in what."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            inner = f"{path}.{key}" if path else key
            yield from _changes(then.get(key, _ABSENT), now.get(key, _ABSENT), inner)
    elif then != now:
        yield f"{path} was {then}, is {now}"


def open_sweep(storage: str | None, name: str) -> SweepFolder:
    """The sweep ``name`` of a storage, brought here from an object store; it need not exist."""
    folder = SweepFolder(storage_path(storage), name)
    pull_sweep(folder.path)
    return folder


def names(storage: Path) -> list[str]:
    """The sweeps in ``storage``."""
    pull_specs(storage)
    return sorted(path.parent.name for path in (storage / "sweeps").glob("*/spec.yaml"))


@dataclass(frozen=True)
class TaskContext:
    """One task of a sweep: what turns searched values into stages, keys and records.

    It crosses process borders as JSON (:meth:`to_json`).
    """

    folder: SweepFolder
    spec: SweepSpec
    dataset: DatasetName
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return {
            "storage": address_of(self.folder.storage),
            "name": self.folder.name,
            "dataset": str(self.dataset),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The same context in another process."""
        folder = SweepFolder(storage_path(value["storage"]), value["name"])
        for file in ("spec.yaml", "recipes.json"):
            refresh(folder.path / file)
        name = parse_dataset_name(value["dataset"])
        return cls(folder, folder.spec_to_run(), name, value["fingerprint"])

    def request(self, kind: str, recipe: Recipe) -> StageRequest:
        """The stage ``kind`` of ``recipe`` on this task's data."""
        parents = {k: self.request(k, recipe).name for k in parent_kinds(kind, recipe)}
        return StageRequest(kind, recipe, str(self.dataset), self.fingerprint, parents)

    @cached_property
    def recipe(self) -> Recipe:
        """The task's recipe, before anything is searched.

        With the pruner ``none`` nothing watches for a collapse, which the students' keys then say.
        """
        recipe = self.spec.recipe_of(self.dataset)
        unwatched = self.spec.pruner.kind == "none"
        return apply(recipe, dict.fromkeys(_COLLAPSE)) if unwatched else recipe

    def trial(self, values: dict[str, Scalar]) -> TrialPlan:
        """The trial with ``values`` at canonical paths."""
        return TrialPlan(self, apply(self.recipe, values), values)


@dataclass(frozen=True)
class TrialPlan:
    """Students to train and to score, one per training seed: their recipe, key and folder."""

    context: TaskContext
    recipe: Recipe
    values: dict[str, Scalar]

    @cached_property
    def student(self) -> StageRequest:
        """The first student, with the teacher and the reward model that all are built from."""
        return self.context.request("student", self.recipe)

    @cached_property
    def key(self) -> str:
        """Hash of what defines the record: the students, how they act and how they are scored."""
        spec = self.context.spec
        evaluation = spec.evaluation
        return key_of(
            {
                "student": self.student.definition,
                "training_seeds": spec.training_seeds,
                "executed_actions": self.recipe.policy.executed_actions,
                "every": evaluation.every,
                "episodes": [evaluation.episodes, evaluation.selection_episodes],
                "first_seed": SELECTION_SEED,
                # Of the rule alone this: the scores by every rule are recorded.
                "keeps_best": self.keeps_best,
            }
        )

    @property
    def folder(self) -> Path:
        """The trial's folder."""
        return self.context.folder.trials.folder(self.key)

    @property
    def training_seeds(self) -> range:
        """The seeds that students are trained with, one after the other."""
        first = self.recipe.student.seed
        return range(first, first + self.context.spec.training_seeds)

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of a curve's best point are kept, and are those selected."""
        return self.context.spec.selection.rule == "best"

    def recipe_of(self, training_seed: int) -> Recipe:
        """The recipe of one student."""
        return apply(self.recipe, {"student.seed": training_seed})

    def student_folder(self, training_seed: int) -> Path:
        """Where one student lies."""
        return self.folder / f"student-{training_seed}"

    def selected(self, training_seed: int) -> Path:
        """The weights of one student that the selection's rule takes."""
        return self.student_folder(training_seed) / (BEST if self.keeps_best else MODEL)

    @property
    def steps(self) -> int:
        """Steps of all students together."""
        return len(self.training_seeds) * self.recipe.student.optim.steps

    def overall_step(self, row: dict[str, Any]) -> int:
        """The step of a row of the curve, counted over all students."""
        before = self.training_seeds.index(row["training_seed"])
        step: int = row["step"]
        return before * self.recipe.student.optim.steps + step

    def identity(self) -> dict[str, Any]:
        """The fields that trials and rows share: which data, which values, which stages."""
        task = self.context.dataset.task
        # Where a searched field is not active, the recipe's own value is what was used.
        searched = (*LABELS, *self.context.spec.search)
        params = {path: value_at(self.recipe, path) for path in searched} | self.values
        return {
            "sweep": self.context.folder.name,
            "task": task.name,
            "dataset": str(self.context.dataset),
            "fingerprint": self.context.fingerprint,
            "ref_min": task.ref_min,
            "ref_max": task.ref_max,
            "params": {label(path): value for path, value in params.items()},
            "stages": self.student.parents,
            "training_seed": self.recipe.student.seed,
        }


def plan_of(payload: dict[str, Any]) -> TrialPlan:
    """The plan of a trial from its ``context`` and ``values``, as JSON brings them."""
    return TaskContext.from_json(payload["context"]).trial(payload["values"])


def pin_data(folder: SweepFolder, dataset: str, fingerprint: str) -> None:
    """Remember which data a sweep runs on; :class:`StorageError` if they are not the same now."""
    path = folder.path / "sweep.json"
    about = read_json(path)
    known = about["datasets"].setdefault(dataset, fingerprint)
    if known != fingerprint:
        raise StorageError(
            f"dataset {dataset} has changed since sweep {folder.name!r} began (fingerprint "
            f"{fingerprint[:12]}, then {known[:12]}); restore it, or start a sweep of another name"
        )
    write_json(path, about)
