"""The command as its user types it, in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from sweeps.cli import app


def ractd(*arguments: str, code: int = 0) -> str:
    """What the command prints; it must end with ``code``, without a traceback."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output
