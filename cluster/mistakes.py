"""What is wrong with a cluster file: every mistake, its path, and what was found there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_TAGS = ("backend", "type")
"""Keys that say which model of a union a table is."""


def mistakes(error: ValidationError, annotation: Any, raw: object) -> list[str]:
    """One line per mistake of ``raw``, which should have been of the type ``annotation``."""
    lines = []
    items = error.errors()
    for item in items:
        inner = [other["loc"] for other in items if len(other["loc"]) > len(item["loc"])]
        if item["type"] == "too_short" and any(
            loc[: len(item["loc"])] == item["loc"] for loc in inner
        ):
            continue  # it is short because its items, told by themselves, are wrong
        *parents, last = item["loc"] or ("file",)
        _, models = _walk(annotation, raw, parents)
        names, _ = _walk(annotation, raw, item["loc"])
        shown = ".".join(names) or "file"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            keys = [key for model in models for key in model.model_fields]
            near = difflib.get_close_matches(str(last), keys, 1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(keys)}"
            lines.append(f"{shown}: unknown key; {hint}")
        elif item["type"] in ("union_tag_not_found", "union_tag_invalid"):
            context = item["ctx"]
            tag = ".".join([*names, context["discriminator"].strip("'")])
            expected = context.get("expected_tags") or _tags(annotation)
            lines.append(f"{tag}: expected one of {expected}, found {context.get('tag')!r}")
        elif item["type"] == "missing":
            lines.append(f"{shown}: missing")
        elif item["type"] == "value_error":
            lines.append(f"{shown}: {message}")
        else:
            lines.append(f"{shown}: {message}, found {item['input']!r}")
    return list(dict.fromkeys(lines))


def _walk(
    annotation: Any, raw: Any, location: tuple[str | int, ...] | list[str | int]
) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys to ``location``, without the names of union members, and the models there."""
    path: list[str] = []
    models = list(_models(annotation))
    for part in location:
        if isinstance(raw, dict) and part in [raw.get(tag) for tag in _TAGS]:
            models = [m for m in models if any(part in _literals(m, tag) for tag in _TAGS)]
            continue
        path.append(str(part))
        if isinstance(part, str):
            fields = [m.model_fields[part] for m in models if part in m.model_fields]
            models = [inner for field in fields for inner in _models(field.annotation)]
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None
    return path, models


def _tags(annotation: Any) -> str:
    names = [repr(n) for m in _models(annotation) for tag in _TAGS for n in _literals(m, tag)]
    return ", ".join(names)


def _literals(model: type[BaseModel], tag: str) -> tuple[Any, ...]:
    field = model.model_fields.get(tag)
    return get_args(field.annotation) if field else ()


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
