"""A tracker by its name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from sweeps.trackers.protocol import Tracker, TrackerError


class Kind(StrEnum):
    """The trackers there are; each is an extra of its name."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


def make_tracker(kind: Kind, out: Path, sweep: str, uri: str | None) -> Tracker:
    """The tracker ``kind`` for ``sweep``, with its files in ``out``.

    Raises :class:`TrackerError` if its package is not installed, and for a ``uri`` where there is
    no server to choose.
    """
    if uri and kind is not Kind.MLFLOW:
        raise TrackerError(f"--uri is the address of an MLflow server; {kind} takes --out only")
    try:
        # Only what is asked for: each brings a package that the others do without.
        if kind is Kind.TENSORBOARD:
            from sweeps.trackers.to_tensorboard import TensorBoardTracker

            return TensorBoardTracker(out, sweep)
        if kind is Kind.MLFLOW:
            from sweeps.trackers.to_mlflow import MlflowTracker

            return MlflowTracker(out, sweep, uri)
        from sweeps.trackers.to_wandb import WandbTracker

        return WandbTracker(out, sweep)
    except ModuleNotFoundError as error:
        raise TrackerError(
            f"{kind} is not installed ({error.name} is missing): pip install 'ractd[{kind}]'"
        ) from error
