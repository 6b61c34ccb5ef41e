"""What must be so before any test module is imported."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

from sweeps.embedded_ray import set_environment

# Ray reads its environment when it is first imported, and many modules import it.
set_environment()

# A shell starts what goes to the background deaf to Ctrl-C, which the tests' own children hear.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What a busy machine takes for an example says nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's how-to first: by far the longest test."""
    items.sort(key=lambda item: "every_command_of_the_how_to" not in item.name)
