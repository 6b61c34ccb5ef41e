"""Versions of what results depend on; light enough to be asked for on every node."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_REPORTED = ("ractd", "torch", "ray", "optuna", "gymnasium", "gymnasium-robotics", "mujoco")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _REPORTED}}


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is not the same, as ``"torch 2.12.0 instead of 2.13.0"``.

    Python's last number, and what follows a ``+`` (torch for CUDA, or for CPUs only), may differ.
    """
    return [
        f"{name} {found.get(name, 'not known')} instead of {wanted}"
        for name, wanted in expected.items()
        if _compared(name, found.get(name, "")) != _compared(name, wanted)
    ]


def _compared(name: str, number: str) -> str:
    return number.rpartition(".")[0] if name == "python" else number.partition("+")[0]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
