"""Which job went where: remembered on the machine that submitted it."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.places import AnyPlace, parse_place
from cluster.protocol import JobError, check_name


class Registry:
    """One JSON file per job under ``root``; no secrets are in them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, place: AnyPlace, storage: str) -> None:
        """Remember that job ``name`` runs at ``place`` and writes to ``storage``."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        part = path.with_suffix(".part")
        known = {"place": place.model_dump(mode="json"), "storage": storage}
        part.write_text(json.dumps(known, indent=1) + "\n")
        part.replace(path)

    def find(self, name: str) -> AnyPlace | None:
        """Where job ``name`` was submitted to from here, None if it was not."""
        return self.get(name)[0] if self._path(name).exists() else None

    def get(self, name: str) -> tuple[AnyPlace, str]:
        """Place and storage of job ``name``; JobError if it was not submitted from here."""
        path = self._path(name)
        try:
            known = json.loads(path.read_text())
            return parse_place(known["place"], str(path)), str(known["storage"])
        except FileNotFoundError as error:
            there = ", ".join(sorted(p.stem for p in self.root.glob("*.json"))) or "none"
            raise JobError(f"no job {name!r} was submitted from here; known: {there}") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise JobError(f"{path} is damaged; remove it and submit {name!r} again") from error

    def _path(self, name: str) -> Path:
        return self.root / f"{check_name(name)}.json"
