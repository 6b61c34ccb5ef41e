"""``ractd train``: one stage without a sweep."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml

from ractd_core.recipes import Family
from sweeps.cli_device import Device, Threads, chosen_device
from sweeps.cli_errors import INTERRUPTED, user_errors
from sweeps.cli_progress import progress

if TYPE_CHECKING:
    from ractd_core.config import Recipe
    from ractd_core.data.flat import FlatDataset
    from ractd_core.stages import Model
    from ractd_core.tasks import DatasetName
    from sweeps.jsonl import Row
    from sweeps.one_stage import StageFolder

Kind = Literal["teacher", "reward", "student", "regression", "joint"]


def train(
    kind: Annotated[Kind, typer.Argument(help="The stage; joint is all three trained at once.")],
    dataset: Annotated[str, typer.Argument(help="SOURCE/TASK, such as local/maze2d-umaze-v1.")],
    out: Annotated[
        Path, typer.Option(help="Folder of KIND.safetensors; one for all stages of a student.")
    ],
    family: Annotated[
        Family, typer.Option(help="The recipe to begin with, as `ractd recipe` prints it.")
    ] = "small",
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML of what to change in it, as under a sweep spec's `recipe`."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One field more, as in student.reward_weight=0.3; repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="--set KIND.seed; the student's for joint.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="--set KIND.optim.steps.")] = None,
    parents: Annotated[
        Path | None, typer.Option(help="Folder of the stages it is built from; default --out.")
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="The teacher's file, if elsewhere.")] = None,
    reward: Annotated[
        Path | None, typer.Option(help="The reward model's file, if elsewhere.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Rows at a time: less memory, more time.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the networks; pays off in long runs.")
    ] = False,
) -> None:
    """Train one stage. Interrupted or killed, the same command goes on to the same result."""
    from ractd_core.files import sha256
    from ractd_core.tasks import TaskError
    from ractd_core.training import DivergedError, check_compiler
    from sweeps.one_stage import StageFolder
    from sweeps.spec import SpecError
    from sweeps.stage_store import StageRequest

    asked = _Asked(kind, dataset, out, family, recipe, tuple(settings or ()))
    with user_errors():
        problems = [f"--out {out} is not a folder"] if out.exists() and not out.is_dir() else []
        name, data = _dataset(dataset, problems)
        full = _recipe(asked, name, seed, steps, problems)
        files = _parents(asked, full, parents, {"teacher": teacher, "reward": reward}, problems)
        try:
            where = chosen_device(device, threads)
            if compiled:
                check_compiler(where)
        except (TaskError, RuntimeError) as error:
            problems.append(str(error))
        if problems or data is None:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            lines = [f"train {kind}: {count}; nothing was started", *problems]
            raise SpecError("\n  ".join(lines))
        made_of = {parent: sha256(path)[:20] for parent, path in files.items()}
        request = StageRequest(kind, full, dataset, data.fingerprint, made_of)
        folder = StageFolder(out, kind)
        model = folder.find(request)
        if model is not None:
            folder.outputs.checkpoint.unlink(missing_ok=True)
            typer.echo(f"{folder.outputs.model} is there already; nothing to train")
            _tell(asked, folder, model)
            return
        try:
            with progress() as say:
                if folder.outputs.checkpoint.exists():
                    say(f"going on from {folder.outputs.checkpoint}")
                report = _watch(kind, say)
                model = folder.train(
                    request,
                    data,
                    files,
                    where,
                    report,
                    micro_batch=micro_batch,
                    compile=compiled,
                )
        except DivergedError as error:
            typer.echo(
                f"error: {kind} diverged: {error}. Another seed, a smaller learning rate or reward "
                f"weight may help; with it name another --out, or delete {out / kind}.* first",
                err=True,
            )
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            saved = folder.outputs.checkpoint
            typer.echo(
                f"\ninterrupted; the same command goes on from {saved}"
                if saved.exists()
                else "\ninterrupted before the first checkpoint; the same command begins again",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None
        _tell(asked, folder, model)


@dataclass(frozen=True)
class _Asked:
    """What was asked for, as far as the commands for other stages repeat it."""

    kind: Kind
    dataset: str
    out: Path
    family: Family
    recipe: Path | None
    settings: tuple[str, ...]

    def command(self, kind: str, out: Path) -> str:
        """The command that trains another stage to go with this one."""
        words = ["ractd", "train", kind, self.dataset, "--out", str(out)]
        words += ["--family", self.family] if self.family != "small" else []
        words += ["--recipe", str(self.recipe)] if self.recipe is not None else []
        words += [word for setting in self.settings for word in ("--set", setting)]
        return shlex.join(words)


def _dataset(text: str, problems: list[str]) -> tuple[DatasetName | None, FlatDataset | None]:
    """The dataset and its data; what is wrong is added to ``problems``."""
    from ractd_core.data.flat import DataError
    from ractd_core.data.store import load
    from ractd_core.tasks import TaskError, parse_dataset_name

    try:
        name = parse_dataset_name(text)
    except TaskError as error:
        problems.append(str(error))
        return None, None
    try:
        if name.refusal is not None:
            raise DataError(name.refusal)
        return name, load(name)
    except DataError as error:
        problems.append(str(error))
        return name, None


def _recipe(
    asked: _Asked,
    name: DatasetName | None,
    seed: int | None,
    steps: int | None,
    problems: list[str],
) -> Recipe:
    """The recipe with all that is changed in it, or its valid part if there are problems."""
    from pydantic import ValidationError

    from ractd_core.config import Recipe
    from ractd_core.recipes import override, recipe_for
    from sweeps.validation import problems_of, salvage

    base = Recipe() if name is None else recipe_for(name.task, asked.family)
    changes = _file(asked.recipe, problems)
    for path, value in _fields(asked, seed, steps, problems).items():
        *tables, leaf = path.split(".")
        table: Any = changes
        for part in tables:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):  # else the file has no table there, which is told below
            table[leaf] = value
    try:
        return override(base, changes)
    except ValidationError as error:
        problems += problems_of(error, Recipe, "recipe")
        return salvage(partial(override, base), changes)


def _file(path: Path | None, problems: list[str]) -> dict[str, Any]:
    from sweeps.spec import parse_yaml

    if path is None:
        return {}
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"--recipe {path} cannot be read: {error}")
        return {}
    if not isinstance(found, dict):
        problems.append(
            f"--recipe {path}: expected a mapping of keys, found {type(found).__name__}"
        )
        return {}
    return found


def _fields(
    asked: _Asked, seed: int | None, steps: int | None, problems: list[str]
) -> dict[str, Any]:
    """The fields that options set, by path."""
    from sweeps.search_space import field_path
    from sweeps.spec import parse_yaml

    found: dict[str, Any] = {}
    for setting in asked.settings:
        where, (key, equals, text) = f"--set {setting}", setting.partition("=")
        try:
            path = field_path(key)
            if not equals:
                problems.append(f"{where}: no value; write --set {key}=VALUE")
            elif path in found:
                problems.append(f"{where}: {path} is set twice")
            else:
                found[path] = parse_yaml(text)
        except yaml.YAMLError as error:
            problems.append(f"{where}: the value is not valid YAML: {error}")
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if asked.kind == "joint" and steps is not None:
        problems.append(
            "--steps: joint trains teacher.optim.steps and student.optim.steps together; --set them"
        )
        steps = None
    own = "student" if asked.kind == "joint" else asked.kind
    for option, path, value in (
        ("--seed", f"{own}.seed", seed),
        ("--steps", f"{own}.optim.steps", steps),
    ):
        if value is not None and path in found:
            problems.append(f"{option} {value}: {path} is also set by --set")
        elif value is not None:
            found[path] = value
    return found


def _parents(
    asked: _Asked,
    recipe: Recipe,
    folder: Path | None,
    files: dict[str, Path | None],
    problems: list[str],
) -> dict[str, Path]:
    """The model files that the stage is built from; each must be one of its kind."""
    from ractd_core.checkpoint import CheckpointError
    from ractd_core.stages import load_model, parent_kinds

    needed = parent_kinds(asked.kind, recipe)
    problems += [
        f"--{kind} {file}: this {asked.kind} is built from no {kind}"
        for kind, file in files.items()
        if file is not None and kind not in needed
    ]
    if folder is not None and not needed:
        problems.append(f"--parents {folder}: this {asked.kind} is built from no other stage")
    found = {}
    for kind in needed:
        where = folder or asked.out
        path = found[kind] = files[kind] or where / f"{kind}.safetensors"
        if files[kind] is None and not path.is_file():
            command = asked.command(kind, where)
            problems.append(
                f"{path}: no {kind} there yet; `{command}` trains it, or name one with --{kind} "
                "FILE"
            )
            continue
        try:
            load_model(path, kind)
        except CheckpointError as error:
            problems.append(str(error))
    return found


def _watch(kind: str, say: Callable[[str], None]) -> Callable[[Row], None]:
    """Says how far training is and, from the second row on, how long it will still take."""
    first: tuple[int, float] | None = None

    def report(row: Row) -> None:
        nonlocal first
        step, total, now = row["step"], row["total"], time.monotonic()
        line = f"{kind}: step {step:,} of {total:,}, loss {row['loss']:.4g}"
        if first is not None and step < total:
            left = (now - first[1]) / (step - first[0]) * (total - step)
            line += f", {left:,.0f} s left"
        first = first or (step, now)
        say(line)

    return report


def _tell(asked: _Asked, folder: StageFolder, model: Model) -> None:
    """What was trained, how well, and what to do with it."""
    from sweeps.jsonl import read_rows

    rows = read_rows(folder.outputs.metrics)
    about = model.about
    line = f"{folder.outputs.model}: {asked.kind} of {asked.dataset} "
    line += f"(fingerprint {about['fingerprint'][:12]})"
    if rows:
        seconds = sum(row["seconds"] for row in rows)
        last = rows[-1]
        line += f", {last['step']:,} steps in {seconds:.1f} s on {last['device']}, "
        line += f"loss {last['loss']:.4g}"
    typer.echo(line)
    if asked.kind == "reward":
        measured = about["measured"]
        held_out, others = (_r2(measured[key]) for key in ("held_out_r2", "r2"))
        typer.echo(f"R² on held-out episodes: {held_out}; on the others: {others}")
    typer.echo(f"next: {_next(asked, folder)}")


def _r2(share: float | None) -> str:
    """A share of the variance, which there is none of where all is worth the same."""
    return "none, as there are none or all are worth the same" if share is None else f"{share:.3g}"


def _next(asked: _Asked, folder: StageFolder) -> str:
    if asked.kind not in ("teacher", "reward"):
        return shlex.join(["ractd", "evaluate", str(folder.outputs.model)])
    other = "reward" if asked.kind == "teacher" else "teacher"
    there = (asked.out / f"{other}.safetensors").exists()
    return asked.command("student" if there else other, asked.out)
