"""Which device a command computes on, and with how many threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: the accelerator, if there is one.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")]


def chosen_device(name: str, threads: int | None) -> torch.device:
    """The device called ``name``, torch using ``threads``; TaskError if it is not here."""
    import torch

    from ractd_core.tasks import TaskError
    from sweeps.workers import device, use_threads

    if threads is not None:
        use_threads(threads)
    if name == "cuda" and not torch.cuda.is_available():
        raise TaskError("--device cuda: torch finds no CUDA device here; leave it away for the CPU")
    return torch.device("cpu") if name == "cpu" else device()
