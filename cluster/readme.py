"""The README.md beside rendered files: what to install, and the three commands."""

from __future__ import annotations

from cluster.protocol import Job

_TEXT = """\
# {name}

Rendered by ractd {version}. The place has the project installed; only the spec travels.

Install: {install}.

| to | run here |
|---|---|
| start | `{start}` |
| watch | `{watch}` |
| stop | `{stop}` |

{resume} A sweep goes on from its records.
"""


def readme(job: Job, *, install: str, start: str, watch: str, stop: str, resume: str) -> str:
    """Markdown. ``install`` is a part of a sentence, ``resume`` a sentence."""
    return _TEXT.format(
        name=job.name,
        version=job.metadata.get("ractd", ""),
        install=install,
        start=start,
        watch=watch,
        stop=stop,
        resume=resume,
    )
