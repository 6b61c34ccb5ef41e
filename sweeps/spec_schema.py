"""The JSON Schema of a spec, for editors: names, kinds of values, and what they mean.

What needs more than one key at a time, such as whether a horizon fits a network, is told by
:func:`sweeps.spec.parse_spec` alone.
"""

from __future__ import annotations

from typing import Any

from ractd_core.config import Recipe
from sweeps.spec import SweepSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def spec_schema() -> dict[str, Any]:
    """The schema: a spec that it accepts may still be refused; what it refuses always is."""
    schema, recipe = SweepSpec.model_json_schema(), Recipe.model_json_schema()
    parts = {**recipe.pop("$defs"), "Recipe": recipe}
    # Any part of a recipe can be given: what is left out is the task's own.
    partial = {
        name: {key: value for key, value in part.items() if key != "required"}
        for name, part in parts.items()
    }
    schema["$defs"] |= partial
    schema["properties"]["recipe"] = {"$ref": "#/$defs/Recipe", "default": {}}
    return {"$schema": DIALECT, **schema, "title": "RACTD sweep"}
