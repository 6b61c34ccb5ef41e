"""Every table that sweeps have something to show in."""

from __future__ import annotations

from pathlib import Path

from analysis.records import Records
from analysis.schema import WEIGHTS
from analysis.table import Table, write_table
from analysis.tables_ablation import calls_table, reward_place_table, setting_table
from analysis.tables_published import published_table
from analysis.tables_scores import choices_table, score_table
from analysis.tables_tasks import tasks_table
from analysis.tables_timing import timing_table


def all_tables(records: Records) -> tuple[Table, ...]:
    """Benchmark, all tasks, choices, ablations, timing and published figures; none without a row.

    An ablation of a weight or the horizon is there if trials on one dataset differ in it.
    """
    found = records.trials.groupby(["sweep", "dataset"])
    settings = [each for each in (*WEIGHTS, "horizon") if (found[each].nunique() > 1).any()]
    tables = (
        score_table(records),
        tasks_table(records),
        choices_table(records),
        *(setting_table(records, setting) for setting in settings),
        calls_table(records),
        reward_place_table(records),
        timing_table(records),
        published_table(records),
    )
    return tuple(table for table in tables if table.rows)


def write_tables(records: Records, folder: Path) -> dict[str, dict[str, Path]]:
    """Write every table in Markdown, LaTeX, CSV and HTML; paths by table and suffix.

    OSError where `folder` cannot be written.
    """
    return {table.name: write_table(table, folder) for table in all_tables(records)}
