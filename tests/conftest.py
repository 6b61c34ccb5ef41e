"""What must be so before any test module is imported."""

from __future__ import annotations

import pytest

from sweeps.embedded_ray import set_environment

# Ray reads its environment when it is first imported, and many modules import it.
set_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's how-to first: by far the longest test."""
    items.sort(key=lambda item: "every_command_of_the_how_to" not in item.name)
