"""``ractd evaluate``: score a trained model on fresh episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeps.cli_errors import user_errors


def evaluate(
    model: Annotated[
        Path, typer.Argument(help="A teacher's, student's or regression's model.safetensors.")
    ],
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    first_seed: Annotated[
        int, typer.Option(min=0, help="Episode seeds count up from here; sweeps select below.")
    ] = 1_000_000,
    sampler: Annotated[
        Literal["heun", "euler", "ddim", "ddpm"], typer.Option(help="A teacher's.")
    ] = "heun",
    calls: Annotated[
        int | None, typer.Option(min=1, help="Network calls per plan or action.")
    ] = None,
    reward: Annotated[
        Path | None, typer.Option(help="A reward model.safetensors, to guide a teacher.")
    ] = None,
    guidance: Annotated[
        float, typer.Option(min=0, help="How strongly --reward pulls on the teacher's samples.")
    ] = 0.0,
    executed: Annotated[
        int, typer.Option(min=1, help="Actions of a window that are executed before the next.")
    ] = 1,
    csv: Annotated[Path | None, typer.Option(help="Write one line per episode here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Play a trained model on seeded episodes of its task and print its normalized score."""
    from analysis.stats import bootstrap_mean
    from ractd_core.config import Sampling
    from ractd_core.evaluate import evaluate as play
    from ractd_core.files import sha256, write_text
    from ractd_core.policy import Planner, make_policy
    from ractd_core.stages import load_model
    from ractd_core.tasks import TaskError, parse_dataset_name
    from sweeps.workers import device

    with user_errors():
        loaded = load_model(model, "teacher", "student", "regression", device=device())
        dataset = parse_dataset_name(loaded.about["dataset"])
        try:
            sampling = Sampling(method=sampler, calls=calls, guidance=guidance)
            guide = None if reward is None else load_model(reward, "reward", device=device())
            planner = Planner(loaded, device(), sampling, guide)
            policy = make_policy(planner, executed_actions=executed)
        except ValueError as error:
            raise TaskError(str(error)) from error
        seeds = range(first_seed, first_seed + episodes)
        result = play(policy, dataset, seeds)
        if csv is not None:
            write_text(csv, result.csv())
    interval = bootstrap_mean(result.scores)
    ends = (
        "no interval over one episode"
        if interval.low is None
        else f"[{interval.low:.1f}, {interval.high:.1f}], 95 % bootstrap interval over {episodes} "
        "episodes"
    )
    about = {
        "model": str(model),
        "model_sha256": sha256(model),
        "kind": loaded.about["kind"],
        "trained": loaded.about.get("trained"),
        "dataset": str(dataset),
        "fingerprint": loaded.about["fingerprint"],
        "network_calls": planner.calls,
        "reward_gradients": planner.gradients,
        "executed_actions": executed if planner.modelled == "actions" else None,
        "episodes": episodes,
        "first_seed": first_seed,
        "score": result.score,
        "interval": None if interval.low is None else [interval.low, interval.high],
        "return_mean": float(result.returns.mean()),
        "terminated": int(result.terminated.sum()),
        "device": planner.device.type,
    }
    if as_json:
        typer.echo(json.dumps(about, indent=1))
        return
    guided = f" and {planner.gradients} reward gradients" if planner.gradients else ""
    shared = f" per {executed} actions" if executed > 1 else ""
    typer.echo(
        f"{dataset} (fingerprint {about['fingerprint'][:12]}), {about['kind']} in {planner.calls} "
        f"network call{'s' if planner.calls > 1 else ''}{guided}{shared}: "
        f"normalized score {result.score:.1f} "
        f"{ends} (seeds from {first_seed}), mean return {about['return_mean']:.6g}, "
        f"{about['terminated']} terminated"
    )
