"""What must be so before any test module is imported."""

from __future__ import annotations

from sweeps.embedded_ray import set_environment

# Ray reads its environment when it is first imported, and many modules import it.
set_environment()
