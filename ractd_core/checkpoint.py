"""Tensors and JSON in one safetensors file, written atomically; nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ractd_core.files import FileError, write_bytes

_KEY = "ractd"


class CheckpointError(FileError):
    """A checkpoint that is absent, truncated, or not what was expected."""


def save_checkpoint(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write ``tensors`` and the JSON value ``about`` to ``path``, whole or not at all."""
    flat = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_bytes(path, save(flat, metadata={_KEY: json.dumps(about)}))


def load_checkpoint(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on ``device``, and the JSON value of a file by :func:`save_checkpoint`.

    Raises :class:`CheckpointError` naming the file if it is absent, truncated or foreign.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            about = json.loads((file.metadata() or {})[_KEY])
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, about
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error})") from error
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} was not written by this program") from error


def with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with every key under ``prefix.``."""
    return {f"{prefix}.{key}": value for key, value in state.items()}


def under_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of ``tensors`` under ``prefix.``, without it."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
