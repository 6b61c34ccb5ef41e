"""A student or regression as files that run without this project: ONNX and ``torch.export``.

A package is a folder with ``policy.onnx``, ``policy.pt2`` and ``card.json``. Both graphs are the
planner's own :meth:`~ractd_core.policy.Planner.windows`, normalizers, noise levels and clipping
included, for any batch size::

    observations (batch, context, obs_dim)      data units, float32
    noise        (batch, draws, horizon, dims)  standard normal, float32
      -> windows (batch, horizon, dims)         data units, float32

What is written is read again and compared with the planner before it is put in place.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ractd_core.config import Sampling
from ractd_core.files import FileError, new_folder, read_json, sha256, write_json
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import Model, load_model

Graph = Callable[[Tensor, Tensor], Tensor]
"""Windows from observations and noise, as the module says."""

EXPORT_SCHEMA = 1
FILES = {"onnx": "policy.onnx", "torch": "policy.pt2"}
"""File of each format."""
CARD = "card.json"
TOLERANCE = 1e-5
"""Largest difference from the planner, as a share of the range of the window's dimension."""

_BATCHES = (1, 2, 7, 64)
_BATCH = {0: torch.export.Dim("batch")}
_DYNAMIC = {"observations": _BATCH, "noise": _BATCH}
_HOW_TO_ACT = {
    "actions": "observations are the last ones seen, oldest first (an episode's first one repeated "
    "before its start); execute {actions}, then ask again with fresh noise",
    "states": "observations are the present state and the goal at rest (x, y, vx, vy); windows are "
    "plans to track, one per episode: at step i = 1, 2, ... apply the force (windows[:, i, :2] - "
    "position) + (windows[:, i, 2:] - velocity); after the plan's end hold its last position, with "
    "velocity 0",
}


class ExportError(FileError):
    """A model that cannot be exported, or a folder or score file that cannot be used."""


def export_policy(
    model: Path,
    folder: Path,
    *,
    formats: Sequence[str] = tuple(FILES),
    calls: int | None = None,
    executed_actions: int = 1,
    score: Path | None = None,
) -> dict[str, Any]:
    """Write the package of a student's or regression's file to ``folder`` and return its card.

    ``calls`` network calls make a window (default 1), of which the card says to execute the first
    ``executed_actions``; ``score`` is a file of ``ractd evaluate --json``. Nothing is left behind
    unless all of it is right. Raises :class:`ExportError` for a teacher, an unknown format, a
    folder in use, a score of another model or way to act, more actions than a window has, a missing
    package, or a graph that strays from the planner by more than :data:`TOLERANCE`;
    :class:`~ractd_core.checkpoint.CheckpointError` for a file that is no model.
    """
    strange = [kind for kind in formats if kind not in FILES]
    if strange:
        raise ExportError(f"unknown format {strange[0]!r}, expected {' or '.join(FILES)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} is there already and not an empty folder; name another")
    loaded = load_model(model, "teacher", "student", "regression")
    if loaded.about["kind"] == "teacher":
        raise ExportError(
            f"{model} holds a teacher, whose windows take dozens of network calls; export a "
            "student of it, which takes one"
        )
    try:
        planner = Planner(loaded, torch.device("cpu"), Sampling(calls=calls))
        make_policy(planner, executed_actions=executed_actions)  # refuses what it cannot execute
    except ValueError as error:
        raise ExportError(f"{model}: {error}") from error
    executed = executed_actions if planner.modelled == "actions" else None
    scored = None if score is None else _score(score, model, loaded, planner, executed)
    if "onnx" in formats:
        require_onnx()
    program = trace(planner)
    with new_folder(folder) as part:
        files: dict[str, Any] = {}
        for kind in dict.fromkeys(formats):
            path = part / FILES[kind]
            _SAVE[kind](program, path)
            files[kind] = {
                "file": path.name,
                "sha256": sha256(path),
                "largest_difference": _checked(kind, path, planner),
            }
        card = _card(loaded, planner, executed, files, scored)
        write_json(part / CARD, card)
    if read_json(folder / CARD) != card:
        raise ExportError(f"{folder} was filled by another export in the meantime; name another")
    return card


class _Windows(nn.Module):
    """A planner as a module, for its weights to be found."""

    def __init__(self, planner: Planner) -> None:
        super().__init__()
        self.network, self.normalizers = planner.network, planner.normalizers
        self._windows = planner.windows

    def forward(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Windows in data units."""
        return self._windows(observations, noise)


def trace(planner: Planner) -> ExportedProgram:
    """The planner's windows as a graph, on its device, for any batch size."""
    with torch.no_grad():
        program = torch.export.export(
            _Windows(planner),
            _inputs(planner, 2, seed=0),
            dynamic_shapes=_DYNAMIC,
        )
    for node in program.graph.nodes:
        # The place of this project's code on this machine is nobody's business.
        node.meta.pop("stack_trace", None)
    return program


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a traced planner as one ONNX file."""
    # Needs a package that not everyone has installed.
    from ractd_core.export_layers import TRANSLATIONS

    with _quiet():
        torch.onnx.export(
            program,
            (),
            path,
            input_names=["observations", "noise"],
            output_names=["windows"],
            dynamic_shapes=_DYNAMIC,
            external_data=False,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )


def load_onnx(path: Path, threads: int | None = None) -> Graph:
    """An ONNX file in onnxruntime on the CPU, by ``threads`` (default: its own choice)."""
    onnxruntime = require_onnx()
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def windows(observations: Tensor, noise: Tensor) -> Tensor:
        inputs = {"observations": observations.numpy(), "noise": noise.numpy()}
        return torch.from_numpy(session.run(["windows"], inputs)[0])

    return windows


def require_onnx() -> Any:
    """The module ``onnxruntime``; :class:`ExportError` names the command that installs it."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ExportError(
            f"ONNX needs packages that are not installed ({error}): pip install 'ractd[export]'"
        ) from error


def save_torch(program: ExportedProgram, path: Path) -> None:
    """Write a traced planner as a ``torch.export`` package."""
    torch.export.save(program, path)


def load_torch(path: Path) -> Graph:
    """A ``torch.export`` package, on the device it was traced on."""
    graph: Graph = torch.export.load(path).module()
    return graph


_SAVE: dict[str, Callable[[ExportedProgram, Path], None]] = {
    "onnx": save_onnx,
    "torch": save_torch,
}
_LOAD: dict[str, Callable[[Path], Graph]] = {"onnx": load_onnx, "torch": load_torch}


def _inputs(planner: Planner, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Observations over the data's range and a quarter beyond it at either end, and noise."""
    source = torch.Generator().manual_seed(seed)
    shape = (batch, planner.context, planner.observation_dims)
    spread = (3 * torch.rand(shape, generator=source) - 1.5).to(planner.device)
    size = (batch, planner.draws, planner.horizon, planner.dims)
    z = torch.randn(size, generator=source).to(planner.device)
    return planner.normalizers.observations.unnormalize(spread), z


def _checked(kind: str, path: Path, planner: Planner) -> float:
    """The largest difference between the file's windows and the planner's.

    It is a share of the range that the data have in the window's dimension.
    """
    graph, scale = _LOAD[kind](path), planner.output.scale
    worst = 0.0
    for seed, batch in enumerate(_BATCHES):
        observations, z = _inputs(planner, batch, seed)
        found, expected = graph(observations, z), planner.plan(observations, z)
        difference = float(((found - expected).abs() / (2 * scale)).max())
        # Not max(): that forgets a NaN.
        worst = worst if difference <= worst else difference
    if not worst <= TOLERANCE:
        raise ExportError(
            f"{path.name} strays from the planner by {worst:.2g} of the data's range, more than "
            f"{TOLERANCE:g}; nothing was written. Please report it with the model's header"
        )
    return worst


def _score(
    path: Path, file: Path, model: Model, planner: Planner, executed: int | None
) -> dict[str, Any]:
    """The evaluation record at ``path``, if it is of the model ``file`` acting as the card says."""
    try:
        record = read_json(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({error})") from error
    expected = {key: model.about[key] for key in ("kind", "dataset", "fingerprint")}
    expected |= {"model_sha256": sha256(file), "network_calls": planner.calls}
    expected["executed_actions"] = executed
    kept = ("score", "interval", "return_mean", "episodes", "first_seed")
    missing = [
        key for key in (*expected, *kept) if not isinstance(record, dict) or key not in record
    ]
    if missing:
        raise ExportError(
            f"{path} lacks {', '.join(missing)}: expected what `ractd evaluate MODEL --json` prints"
        )
    wrong = [f"{k} {record[k]}, not {v}" for k, v in expected.items() if record[k] != v]
    if wrong:
        raise ExportError(f"{path} is the score of another model or way to act: {'; '.join(wrong)}")
    return {key: record[key] for key in kept}


def _card(
    model: Model,
    planner: Planner,
    executed: int | None,
    files: dict[str, Any],
    score: dict[str, Any] | None,
) -> dict[str, Any]:
    about = model.about
    actions = "windows[:, 0]" if executed == 1 else f"windows[:, :{executed}] one after the other"
    seen, out = planner.normalizers.observations, planner.output

    def limits(low: Tensor, scale: Tensor) -> dict[str, list[float]]:
        return {"low": low.tolist(), "high": (low + 2 * scale).tolist()}

    return {
        "schema": EXPORT_SCHEMA,
        "project": f"ractd {version('ractd')}",
        "torch": str(torch.__version__),
        "task": about["dataset"].split("/")[1],
        "dataset": about["dataset"],
        "fingerprint": about["fingerprint"],
        "kind": about["kind"],
        "modelled": planner.modelled,
        "calls": planner.calls,
        "inputs": {
            "observations": {
                "shape": ["batch", planner.context, planner.observation_dims],
                "dtype": "float32",
                "units": "the data's",
                "normalized_range": limits(seen.low, seen.scale),
            },
            "noise": {
                "shape": ["batch", planner.draws, planner.horizon, planner.dims],
                "dtype": "float32",
                "units": "independent standard normal numbers",
                "use": "ignored by this regression: zeros will do"
                if about["kind"] == "regression"
                else "scaled inside the graph, whose start is "
                f"{about['noise']['init_noise']} noise",
            },
        },
        "outputs": {
            "windows": {
                "shape": ["batch", planner.horizon, planner.dims],
                "dtype": "float32",
                "units": "the data's",
                "range": limits(out.low, out.scale),
            }
        },
        "executed_actions": executed,
        "how_to_act": _HOW_TO_ACT[planner.modelled].replace("{actions}", actions),
        "files": files,
        "tolerance": {
            "largest_difference_allowed": TOLERANCE,
            "of": "the range of the data in the window's dimension",
            "batch_sizes": list(_BATCHES),
        },
        "score": score,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what torch's exporter would tell its developers."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
