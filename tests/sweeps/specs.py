"""Specs from a few words."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from sweeps.spec import SpecError, SweepSpec, parse_spec


def parse(*tasks: str, **changes: Any) -> SweepSpec:
    """A small spec of ``tasks`` with other keys as given."""
    raw = {
        "name": "small",
        "tasks": list(tasks),
        "trials": 4,
        "search": {"sigma": {"low": 0.0, "high": 1.0}},
        "first_trials": [],
        **changes,
    }
    return parse_spec(yaml.safe_dump(raw), "spec.yaml")


def problems(*tasks: str, **changes: Any) -> list[str]:
    """What is wrong with it, a line each."""
    with pytest.raises(SpecError) as caught:
        parse(*tasks, **changes)
    return str(caught.value).split("\n  ")[1:]
