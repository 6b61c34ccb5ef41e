"""A Ray cluster's dashboard over HTTP: who may ask, and what it answers."""

from __future__ import annotations

import ipaddress
import os
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from cluster.protocol import JobError

_SECONDS = 10.0
_REFUSED = (requests.codes.unauthorized, requests.codes.forbidden)


class Dashboard:
    """The dashboard at ``address``, ``http://HOST:8265``.

    The token is the one Ray would take: ``RAY_AUTH_TOKEN``, else the file that
    ``RAY_AUTH_TOKEN_PATH`` names, else ``~/.ray/auth_token``. It goes only to a cluster that asks
    for one. All calls raise :class:`JobError` if nothing answers within 10 s.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    @cached_property
    def auth_mode(self) -> str:
        """``token`` or ``disabled``, as the cluster was started; RAY_AUTH_MODE says it to Ray.

        Raises :class:`JobError` for a cluster on the network that lets in anybody, unless
        RAY_AUTH_MODE=disabled says that this is known.
        """
        if self._request("GET", "/api/version", {}).status_code in _REFUSED:
            return "token"
        if not _is_loopback(self.address) and os.environ.get("RAY_AUTH_MODE") != "disabled":
            raise JobError(
                f"the cluster at {self.address} runs what anybody sends who reaches it; start it "
                "with RAY_AUTH_MODE=token, or set RAY_AUTH_MODE=disabled here if its network is "
                "closed"
            )
        return "disabled"

    @cached_property
    def headers(self) -> dict[str, str]:
        """What makes a request ours; :class:`JobError` if the cluster wants a token we lack."""
        if self.auth_mode == "disabled":
            return {}
        token, source = _token()
        if not token:
            raise JobError(
                f"the cluster at {self.address} wants a token, and {source} has none; set "
                "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it"
            )
        headers = {"Authorization": f"Bearer {token}"}
        if self._request("GET", "/api/version", headers).status_code in _REFUSED:
            raise JobError(
                f"the cluster at {self.address} refuses the token from {source}; set the one that "
                "it was started with as RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it"
            )
        return headers

    def ray_version(self) -> str:
        """The cluster's version of Ray."""
        try:
            return str(self.ask("GET", "/api/version")["ray_version"])
        except (KeyError, TypeError) as error:
            raise self._stranger() from error

    def nodes(self) -> set[str]:
        """The addresses of the nodes that are alive."""
        try:
            summary = self.ask("GET", "/nodes?view=summary")["data"]["summary"]
            return {
                node["raylet"]["nodeManagerAddress"]
                for node in summary
                if node["raylet"]["state"] == "ALIVE"
            }
        except (KeyError, TypeError) as error:
            raise self._stranger() from error

    def ask(self, method: str, path: str) -> Any:
        """What the dashboard answers, parsed; :class:`JobError` with its own words if it cannot."""
        answer = self._request(method, path, self.headers)
        if not answer.ok:
            words = answer.text.strip().splitlines() or [answer.reason]
            raise JobError(
                f"the cluster at {self.address} answers {answer.status_code}: {words[-1]}"
            )
        try:
            return answer.json()
        except ValueError as error:
            raise self._stranger() from error

    def _stranger(self) -> JobError:
        return JobError(f"what answers at {self.address} is no Ray dashboard")

    def _request(self, method: str, path: str, headers: dict[str, str]) -> requests.Response:
        try:
            return requests.request(method, self.address + path, headers=headers, timeout=_SECONDS)
        except requests.RequestException as error:
            raise JobError(
                f"no Ray dashboard answers at {self.address} ({type(error).__name__}); is the "
                "cluster up, and does its dashboard listen where this machine reaches it "
                "(--dashboard-host, or a tunnel: ssh -L 8265:127.0.0.1:8265 HEAD)?"
            ) from error


def _token() -> tuple[str, str]:
    """The token, empty if there is none, and where it was looked for."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return os.environ["RAY_AUTH_TOKEN"].strip(), "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path.read_text().strip(), str(path)
    except OSError:
        return "", str(path)


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
