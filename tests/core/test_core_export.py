"""Exported files run without the project and do what the planner does."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from ractd_core import export
from ractd_core.checkpoint import CheckpointError
from ractd_core.config import NoiseConfig, Sampling, UNetConfig
from ractd_core.data.normalizer import LimitsNormalizer, Normalizers
from ractd_core.export import ExportError, export_policy, load_onnx
from ractd_core.files import STAGE_SCHEMA
from ractd_core.policy import Planner, RecedingHorizon
from ractd_core.stages import Model, load_model
from ractd_core.stages.model import build_network

CPU = torch.device("cpu")
NETWORK = {"widths": [8], "patch": 4, "groups": 4, "embed_dim": 8}

ISOLATED = """
import sys

class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ractd_core", "sweeps", "cluster", "analysis", {others}):
            raise ImportError(name + " must not be needed")

sys.meta_path.insert(0, Nobody())
try:
    import ractd_core
except ImportError:
    pass
else:
    raise SystemExit("the project can be imported")
"""
WITH_ONNXRUNTIME = """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
for batch in (1, 9):
    inputs = {name: np.load(f"{name}-{batch}.npy") for name in ("observations", "noise")}
    np.save(f"{batch}.npy", session.run(None, inputs)[0])
"""
WITH_TORCH = """
import numpy as np
import torch

policy = torch.export.load(sys.argv[1]).module()
for batch in (1, 9):
    given = [np.load(f"{name}-{batch}.npy") for name in ("observations", "noise")]
    np.save(f"{batch}.npy", policy(*map(torch.from_numpy, given)).numpy())
"""


def untrained(
    path: Path, kind: str, modelled: str, horizon: int, network: dict[str, Any], **noise: Any
) -> Path:
    """A model file with random weights, stop times included, on data of uneven ranges."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    about = {
        "schema": STAGE_SCHEMA,
        "kind": kind,
        "dataset": "made/maze2d-umaze-v1" if modelled == "states" else "made/hopper-medium-v2",
        "fingerprint": "ab" * 32,
        "modelled": modelled,
        "observation_dims": 4 if modelled == "states" else 11,
        "action_dims": 2 if modelled == "states" else 3,
        "context": 2,
        "horizon": horizon,
        "network": UNetConfig.model_validate(NETWORK | network).model_dump(mode="json"),
        "noise": NoiseConfig.model_validate(noise).model_dump(mode="json"),
    }
    net = build_network(about)
    for name, parameter in net.named_parameters():
        if ".stop." in name:
            nn.init.normal_(parameter, std=0.2)
    ranges = [rng.uniform(0.1, 20, int(str(about[f"{k}_dims"]))) for k in ("observation", "action")]
    normalizers = Normalizers(*(LimitsNormalizer(-span, 2 * span) for span in ranges))
    Model(net, normalizers, about).save(path)
    return path


def given(planner: Planner, batch: int) -> dict[str, Tensor]:
    """Observations over the data's range and noise, from another stream than the export's."""
    source = torch.Generator().manual_seed(1000 + batch)
    seen = torch.rand(batch, planner.context, planner.observation_dims, generator=source)
    size = (batch, planner.draws, planner.horizon, planner.dims)
    return {
        "observations": planner.normalizers.observations.unnormalize(2 * seen - 1),
        "noise": torch.randn(size, generator=source),
    }


def planned(planner: Planner, inputs: dict[str, Tensor]) -> Tensor:
    return planner.plan(inputs["observations"], inputs["noise"])


def run_isolated(script: str, others: str, file: Path, folder: Path) -> None:
    """Run ``script`` on ``file`` in ``folder``, where nothing of the project can be imported."""
    code = ISOLATED.replace("{others}", others) + script
    run = subprocess.run(
        [sys.executable, "-I", "-c", code, str(file)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def package(
    action_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The exported student of actions, and its card."""
    folder = tmp_path_factory.mktemp("export") / "deep/er/out"
    return folder, export_policy(action_models["student"], folder)


@pytest.mark.parametrize(
    ("script", "others", "file"),
    [
        (WITH_ONNXRUNTIME, "'torch', 'onnx'", "policy.onnx"),
        (WITH_TORCH, "", "policy.pt2"),
    ],
)
def test_the_files_reproduce_the_policys_actions_without_this_projects_code(
    script: str,
    others: str,
    file: str,
    package: tuple[Path, dict[str, Any]],
    action_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    planner = Planner.load(action_models["student"], CPU)
    for batch in (1, 9):
        for name, value in given(planner, batch).items():
            np.save(tmp_path / f"{name}-{batch}.npy", value.numpy())
    run_isolated(script, others, package[0] / file, tmp_path)
    for batch in (1, 9):
        expected = planned(planner, given(planner, batch)).numpy()
        np.testing.assert_allclose(np.load(tmp_path / f"{batch}.npy"), expected, atol=1e-5)


def test_the_onnx_file_has_standard_operators_and_constant_noise_levels(
    package: tuple[Path, dict[str, Any]],
) -> None:
    nodes = onnx.load(package[0] / "policy.onnx").graph.node
    assert {node.domain for node in nodes} == {""}
    operators = {node.op_type for node in nodes}
    assert {"MatMul", "LayerNormalization", "Sigmoid"} <= operators
    slow = {"Conv", "ConvTranspose", "InstanceNormalization", "Softplus"}
    assert not operators & (slow | {"Sin", "Log"})


def test_an_episode_played_by_the_card_alone_has_the_policys_actions(
    package: tuple[Path, dict[str, Any]], action_models: dict[str, Path]
) -> None:
    folder, card = package
    graph = load_onnx(folder / "policy.onnx")
    planner = Planner.load(action_models["student"], CPU)
    policy = RecedingHorizon(planner, lanes=1)
    seen = np.random.default_rng(0).normal(size=(5, 1, 11))
    policy.start(np.arange(1), seen[0], None, [7])
    noise = planner.noise(7, 0, 64)
    context = card["inputs"]["observations"]["shape"][1]
    assert context == 2
    for step, observation in enumerate(seen):
        past = [seen[max(0, step - back), 0] for back in reversed(range(context))]
        window = graph(torch.tensor(np.array([past]), dtype=torch.float32), noise[step : step + 1])
        np.testing.assert_allclose(window[:, 0], policy.act(observation), atol=1e-5)


# No normalization groups of one or two numbers, in which rounding is all there is.
CASES = [
    ("student", "states", 16, {"patch": 1, "widths": [4, 8]}, {}, 1),
    ("student", "actions", 16, {"patch": 8, "groups": 1}, {"init_noise": "sigma_max"}, 2),
    ("regression", "states", 8, {"patch": 2}, {}, None),
]


@pytest.mark.parametrize(("kind", "modelled", "horizon", "network", "noise", "calls"), CASES)
def test_every_kind_of_network_schedule_and_window_exports(
    kind: str,
    modelled: str,
    horizon: int,
    network: dict[str, Any],
    noise: dict[str, Any],
    calls: int | None,
    tmp_path: Path,
) -> None:
    model = untrained(tmp_path / "model", kind, modelled, horizon, network, **noise)
    card = export_policy(model, tmp_path / "out", calls=calls)
    planner = Planner.load(model, CPU, Sampling(calls=calls))
    graphs = {
        "onnx": load_onnx(tmp_path / "out/policy.onnx"),
        "torch": export.load_torch(tmp_path / "out/policy.pt2"),
    }
    for batch in (1, 3, 40):
        inputs = given(planner, batch)
        expected = planned(planner, inputs)
        spread = expected.flatten(0, 1).std(0) if batch > 1 else torch.ones(1)
        assert bool((spread > 0).all()), "the windows say nothing"
        for graph in graphs.values():
            found = graph(inputs["observations"], inputs["noise"])
            difference = (found - expected).abs() / (2 * planner.output.scale)
            assert float(difference.max()) <= 1e-5
    assert (card["calls"], card["kind"], card["modelled"]) == (calls or 1, kind, modelled)
    assert card["inputs"]["noise"]["shape"] == ["batch", calls or 1, horizon, planner.dims]
    assert ("regression" in card["inputs"]["noise"]["use"]) == (kind == "regression")


def test_the_card_says_what_the_files_are(
    package: tuple[Path, dict[str, Any]], action_models: dict[str, Path]
) -> None:
    folder, card = package
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["card.json", "policy.onnx", "policy.pt2"]
    )
    assert json.loads((folder / "card.json").read_text()) == card
    for about in card["files"].values():
        content = (folder / about["file"]).read_bytes()
        assert about["sha256"] == hashlib.sha256(content).hexdigest()
        assert str(Path(export.__file__).parents[1]).encode() not in content
        assert 0 <= about["largest_difference"] <= 1e-5
    planner = Planner.load(action_models["student"], CPU)
    inputs = given(planner, 200)
    windows = planned(planner, {**inputs, "noise": 50 * inputs["noise"]})
    for name, value in inputs.items():
        assert card["inputs"][name]["shape"] == ["batch", *value.shape[1:]]
    assert card["outputs"]["windows"]["shape"] == ["batch", *windows.shape[1:]]
    limits = card["outputs"]["windows"]["range"]
    assert bool((windows >= torch.tensor(limits["low"]) - 1e-5).all())
    assert bool((windows <= torch.tensor(limits["high"]) + 1e-5).all())
    assert card["dataset"] == "local/hopper-medium-v2"
    assert card["score"] is None
    assert card["executed_actions"] == 1
    assert "execute windows[:, 0], then" in card["how_to_act"]


def test_the_card_says_how_many_actions_the_score_is_of(
    action_models: dict[str, Path], tmp_path: Path
) -> None:
    model = action_models["student"]
    fingerprint = load_model(model).about["fingerprint"]
    record = SCORE | {
        "dataset": "local/hopper-medium-v2",
        "fingerprint": fingerprint,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "executed_actions": 4,
    }
    score = tmp_path / "score.json"
    score.write_text(json.dumps(record))
    with pytest.raises(ExportError, match="way to act: executed_actions 4, not 1"):
        export_policy(model, tmp_path / "one", formats=["torch"], score=score)
    card = export_policy(
        model, tmp_path / "four", formats=["torch"], executed_actions=4, score=score
    )
    assert (card["executed_actions"], card["score"]["score"]) == (4, 12.5)
    assert "execute windows[:, :4] one after the other, then" in card["how_to_act"]
    horizon = card["outputs"]["windows"]["shape"][1]
    with pytest.raises(ExportError, match=str(horizon)):
        export_policy(model, tmp_path / "many", executed_actions=horizon + 1)


SCORE = {
    "kind": "student",
    "dataset": "local/maze2d-umaze-v1",
    "network_calls": 1,
    "executed_actions": None,
    "episodes": 3,
    "first_seed": 9,
    "score": 12.5,
    "interval": [1.0, 20.0],
    "return_mean": 33.0,
}


def test_a_score_comes_along_if_it_is_the_models(models: dict[str, Path], tmp_path: Path) -> None:
    fingerprint = load_model(models["student"]).about["fingerprint"]
    own = hashlib.sha256(models["student"].read_bytes()).hexdigest()
    record = SCORE | {"fingerprint": fingerprint, "model_sha256": own}
    file = tmp_path / "score.json"
    file.write_text(json.dumps(record))
    card = export_policy(models["student"], tmp_path / "out", formats=["torch"], score=file)
    assert card["score"]["score"] == 12.5
    assert card["score"]["episodes"] == 3
    for change, message in (
        ({"network_calls": 2}, "way to act: network_calls 2, not 1"),
        ({"fingerprint": "cd"}, "way to act: fingerprint cd"),
        ({"model_sha256": "ab"}, "another model or way to act: model_sha256 ab"),
        ({"executed_actions": 4}, "way to act: executed_actions 4, not None"),
    ):
        file.write_text(json.dumps(record | change))
        with pytest.raises(ExportError, match=message):
            export_policy(models["student"], tmp_path / "no", score=file)
    for text, message in (
        (json.dumps(SCORE), "lacks fingerprint, model_sha256: expected what"),
        ("[]", "lacks kind"),
        ("{", "not valid JSON"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            export_policy(models["student"], tmp_path / "no", score=file)
    with pytest.raises(ExportError, match="cannot be read"):
        export_policy(models["student"], tmp_path / "no", score=tmp_path / "absent")
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    models: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="holds a teacher"):
        export_policy(models["teacher"], out)
    with pytest.raises(CheckpointError, match="holds a reward model"):
        export_policy(models["reward"], out)
    with pytest.raises(ExportError, match="a regression takes one call, found calls 2"):
        export_policy(models["regression"], out, calls=2)
    with pytest.raises(ExportError, match="executed whole, found executed_actions 2"):
        export_policy(models["student"], out, executed_actions=2)
    with pytest.raises(ExportError, match="unknown format 'tflite', expected onnx or torch"):
        export_policy(models["student"], out, formats=["tflite"])
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    with pytest.raises(ExportError, match="is there already"):
        export_policy(models["student"], out)
    assert out.read_text() == "mine"


def test_a_folder_in_use_is_left_alone_and_an_empty_one_is_filled(
    models: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_policy(models["student"], out, formats=["torch"])
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert sorted(path.name for path in before) == ["card.json", "policy.pt2"]
    with pytest.raises(ExportError, match="not an empty folder"):
        export_policy(models["regression"], out, formats=["torch"])
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_file_that_strays_from_the_planner_is_refused(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Planner.load(models["student"], CPU)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(1.001)
    monkeypatch.setitem(
        export._SAVE, "torch", lambda _, path: torch.export.save(export.trace(other), path)
    )
    with pytest.raises(ExportError, match=r"policy\.pt2 strays from the planner by"):
        export_policy(models["student"], tmp_path / "out", formats=["torch"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_nonsense_numbers_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(models["student"])
    for parameter in model.network.parameters():
        parameter.fill_(torch.nan)
    model.save(tmp_path / "model")
    with pytest.raises(ExportError, match="strays from the planner by nan"):
        export_policy(tmp_path / "model", tmp_path / "out", formats=["torch"])


KILLED = """
import os, signal, sys
from pathlib import Path
from ractd_core import export

def killed(program, path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

export._SAVE["torch"] = killed
export.export_policy(Path(sys.argv[1]), Path(sys.argv[2]), formats=["torch"])
"""


def test_a_killed_export_leaves_no_package(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(models["student"]), str(out)], check=False
    )
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    export_policy(models["student"], out, formats=["torch"])
    assert (out / "card.json").is_file()


def test_an_interrupted_export_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(export._SAVE, "torch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_policy(models["student"], tmp_path / "out", formats=["torch"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"{package}.*pip install 'ractd\[export\]'"):
        export_policy(models["student"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
