"""Records in, tables and figures out: reads what a sweep left on the storage and nothing else."""

from __future__ import annotations

from analysis.records import RecordError, Records, load
from analysis.report import Report, write_report
from analysis.tables_all import write_tables

__all__ = ["RecordError", "Records", "Report", "load", "write_report", "write_tables"]
