"""Records in, tables and figures out: reads what a sweep left on the storage and nothing else."""

from __future__ import annotations

from analysis.records import RecordError, Sweep, load_sweep
from analysis.report import Report, write_report

__all__ = ["RecordError", "Report", "Sweep", "load_sweep", "write_report"]
