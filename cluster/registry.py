"""Which job went where: remembered on the machine that submitted it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.places import AnyPlace, parse_place
from cluster.protocol import GRACE, JobError, check_name


class Registry:
    """One JSON file per job under ``root``; no secrets are in them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, place: AnyPlace, storage: str, grace: float = GRACE) -> None:
        """Remember that job ``name`` runs at ``place`` and writes to ``storage``.

        It may take ``grace`` seconds to end by itself.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        part = path.with_suffix(".part")
        known = {"place": place.model_dump(mode="json"), "storage": storage, "grace": grace}
        part.write_text(json.dumps(known, indent=1) + "\n")
        part.replace(path)

    def find(self, name: str) -> AnyPlace | None:
        """Where job ``name`` was submitted to from here, None if it was not."""
        return self.get(name)[0] if self._path(name).exists() else None

    def get(self, name: str) -> tuple[AnyPlace, str]:
        """Place and storage of job ``name``; JobError if it was not submitted from here."""
        known = self._known(name)
        return parse_place(known["place"], str(self._path(name))), str(known["storage"])

    def grace(self, name: str) -> float:
        """Seconds that job ``name`` may take to end; JobError as :meth:`get`."""
        return float(self._known(name)["grace"])

    def _known(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        try:
            known = json.loads(path.read_text())
            return {"grace": GRACE, "place": known["place"], "storage": known["storage"], **known}
        except FileNotFoundError as error:
            there = ", ".join(sorted(p.stem for p in self.root.glob("*.json"))) or "none"
            raise JobError(f"no job {name!r} was submitted from here; known: {there}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(f"{path} is damaged; remove it and submit {name!r} again") from error

    def _path(self, name: str) -> Path:
        return self.root / f"{check_name(name)}.json"
