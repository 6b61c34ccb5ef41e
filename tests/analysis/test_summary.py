"""The sentences of a report: sharing, speed-up, counts, protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis import load
from analysis.figures.timeline import timeline_info
from analysis.protocol import protocol_lines
from analysis.summary import (
    best_lines,
    count_line,
    failures_table,
    sharing_line,
    sharing_table,
    speed_up_lines,
)
from analysis.tables import benchmark_table

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder


def test_sharing(full: SweepBuilder) -> None:
    sweep = load(full.storage, ["quickstart"])
    table = sharing_table(sweep).set_index("name")
    assert table["uses"].to_dict() == {"reward-r": 8, "teacher-t160": 4, "teacher-t256": 4}
    assert table["saved_seconds"].to_dict() == {
        "reward-r": 7 * 15.0,
        "teacher-t160": 3 * 40.0,
        "teacher-t256": 3 * 40.0,
    }
    assert sharing_line(sweep) == (
        "sharing: 1 reward model and 2 teachers served 8 trials; "
        "95 s of device time spent, 345 s saved"
    )


def test_sharing_of_one_trial_and_of_a_lost_stage(builder: SweepBuilder) -> None:
    stages = {"teacher": builder.stage("teacher", "t", 7200.0), "reward": "reward-lost"}
    builder.trial(0, stages=stages)
    assert sharing_line(load(builder.storage, ["quickstart"])) == (
        "sharing: 1 reward model and 1 teacher served 1 trial; 2.0 h of device time spent, "
        "0 s saved (not counting 1 stage without manifest)"
    )


def test_a_stage_of_another_sweep_is_saved_and_not_spent(builder: SweepBuilder) -> None:
    teacher = builder.stage("teacher", "t", 3600.0, sweep="first")
    for number in range(3):
        builder.trial(number, stages={"teacher": teacher})
    # It failed before its first step.
    builder.trial(3, "failed", stages={"teacher": teacher}, steps=0)
    records = load(builder.storage, ["quickstart"])
    assert sharing_line(records) == (
        "sharing: 1 teacher served 3 trials; 0 s of device time spent, 3.0 h saved"
    )
    [shared] = timeline_info(records).shared
    assert (shared.uses, shared.spent, shared.saved) == (3, 0.0, 180.0)
    builder.stage("teacher", "t", 3600.0, sweep="quickstart")
    assert "60 min of device time spent, 2.0 h saved" in sharing_line(
        load(builder.storage, ["quickstart"])
    )


def test_stage_of_a_row_alone_is_not_shared(builder: SweepBuilder) -> None:
    builder.row("regression", stages={"regression": builder.stage("regression", "g")})
    sweep = load(builder.storage, ["quickstart"])
    assert len(sweep.stages) == 1
    assert sharing_line(sweep) == "sharing: no trial used a stage"


def test_speed_up(full: SweepBuilder) -> None:
    (line,) = speed_up_lines(load(full.storage, ["quickstart"]))
    assert "in 1 network call is 150x faster than the teacher's 158" in line
    assert "0.9 ms against 135 ms; median, batch 1, cpu" in line
    assert "published, in the abstract of arXiv 2506.07822: 142x" in line


def test_every_sampler_of_the_teacher_has_its_speed_up(builder: SweepBuilder) -> None:
    builder.row("teacher", nfe=158, latency=90.0)
    builder.row("teacher:ddim-20", nfe=20, latency=18.0)
    builder.row("ractd", latency=1.0)
    # Another number of the student's calls is another method.
    builder.row("ractd:2", nfe=2, latency=2.0)
    whole, few = speed_up_lines(load(builder.storage, ["quickstart"]))
    assert "90x faster than the teacher's 158" in whole
    assert "18x faster than teacher:ddim-20's 20" in few
    # 142x was published against the whole grid.
    assert "published" in whole
    assert "published" not in few


def test_speed_up_needs_like_measurements(builder: SweepBuilder) -> None:
    builder.row("teacher", nfe=158, latency=5.0, device="cuda")
    builder.row("ractd", latency=0.9)
    builder.row("ractd", key="r2", latency=None, device="cuda")
    latency = {"median": 0.0, "p95": 0.0, "batch": 1}
    builder.row("ractd", key="r3", latency_ms=latency, device="cuda")
    assert speed_up_lines(load(builder.storage, ["quickstart"])) == ()


def test_best_row_is_named(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0, 100.0], key="a")
    builder.row("ractd", [120.0, 120.0], key="b", training_seed=1)
    table = benchmark_table(load(builder.storage, ["quickstart"]))
    (line,) = best_lines(table)
    assert line.endswith("RACTD scores 120.0 [120.0, 120.0] over 2 fresh episodes")


def test_the_best_row_says_what_its_interval_is_over(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0, 100.0], training_seeds=(0, 1, 2))
    (line,) = best_lines(benchmark_table(load(builder.storage, ["quickstart"])))
    assert line.endswith("] over 3 training seeds, 6 fresh episodes")


def test_the_best_row_says_what_was_confirmed(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0], selection_score=120.0, confirmation_score=112.5)
    table = benchmark_table(load(builder.storage, ["quickstart"]))
    (line,) = best_lines(table)
    assert line.endswith("; selected with 120.0, confirmed with 112.5 (gap +7.5)")


def test_of_several_winners_the_best_confirmed_is_named(builder: SweepBuilder) -> None:
    for number, selected, confirmed, score in ((0, 150.0, 90.0, 100.0), (1, 140.0, 95.0, 80.0)):
        builder.confirmation(number, confirmed, selected)
        builder.row(
            "ractd",
            [score],
            # The names of folders say nothing.
            key=f"r{1 - number}",
            trial=f"{number:04d}abcd",
            selection_score=selected,
            confirmation_score=confirmed,
        )
    (line,) = best_lines(benchmark_table(load(builder.storage, ["quickstart"])))
    assert "RACTD scores 80.0" in line


def test_counts_and_failures(builder: SweepBuilder) -> None:
    for number in range(2):
        builder.trial(number, "failed", reason="out of\nmemory")
    builder.trial(2, "failed")
    builder.trial(3, "pruned")
    builder.row("ractd", status="failed", reason="worker died", evaluation=None)
    sweep = load(builder.storage, ["quickstart"])
    assert count_line(sweep) == (
        "trials: 0 completed, 1 pruned, 3 failed, 0 unfinished; final rows: 1 failed, 0 unfinished"
    )
    assert failures_table(sweep)[["count", "of", "reason"]].to_numpy().tolist() == [
        ["2", "trial", "out of memory"],
        ["1", "trial", "no reason recorded"],
        ["1", "final row", "worker died"],
    ]


def test_protocol_says_what_the_numbers_are(full: SweepBuilder) -> None:
    text = "\n".join(protocol_lines(load(full.storage, ["quickstart"])))
    assert "local/maze2d-umaze-v1 (task maze2d-umaze-v1, fingerprint f00dfeed)" in text
    assert 'rule "last" (its last weights\' score)' in text
    assert "the last weights play 50 episodes, seeds 10000 to 10049" in text
    assert "seeds 1000000 to 1000099; selection never saw them" in text
    assert "Training seeds: 1." in text
    assert "percentile bootstrap" in text
    assert "plain regression" in text
    assert "0 is a return of 23.85" in text


def test_training_seeds_are_said_by_method(builder: SweepBuilder) -> None:
    for method in ("ractd", "ctd"):
        builder.row(method, training_seeds=(0, 1, 2))
    caution = "One training run says nothing on how far another would land."
    text = "\n".join(protocol_lines(load(builder.storage, ["quickstart"])))
    assert "Training seeds: 3." in text
    assert caution not in text
    builder.row("teacher")
    text = "\n".join(protocol_lines(load(builder.storage, ["quickstart"])))
    assert f"Training seeds: 1 of teacher; 3 of ctd, ractd. {caution}" in text


def test_overlapping_seeds_are_called_out(builder: SweepBuilder) -> None:
    builder.trial(0)
    evaluation = {"score": 133.0, "std": 2.0, "episodes": 4, "first_seed": 10_049}
    builder.row("ractd", evaluation=evaluation | {"return_mean": 200.0})
    text = "\n".join(protocol_lines(load(builder.storage, ["quickstart"])))
    assert "USED FOR SELECTION" in text


def test_caveat_is_for_umaze_alone(builder: SweepBuilder) -> None:
    builder.data(task="maze2d-large-v1", dataset="local/maze2d-large-v1")
    text = "\n".join(protocol_lines(load(builder.storage, ["quickstart"])))
    assert "Caveat" not in text
    assert "Final rows: none yet" in text
    assert "no trial has been scored" in text
