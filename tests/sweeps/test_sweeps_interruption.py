"""Signals that a driver takes, and what a process that trains makes of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ractd_core.training import TrainingInterrupted
from sweeps import interruption
from sweeps.ending import INTERRUPT, Ending
from sweeps.interruption import Notices, PreemptedError, making_room


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(tmp_path: Path, number: signal.Signals) -> None:
    ending = Ending(tmp_path, grace=60)
    ending.listen()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)  # nothing runs: at once
    seen = []

    def work() -> None:
        with ending.graceful():
            signal.raise_signal(number)
            seen.append((ending.asked, Notices(tmp_path)()))
            signal.raise_signal(number)
            seen.append((False, False))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [(True, True)]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_ends_in_time_is_waited_for_and_what_does_not_is_not(tmp_path: Path) -> None:
    for grace, done in ((60.0, True), (0.1, False)):
        ending = Ending(tmp_path, grace=grace)
        assert not (tmp_path / INTERRUPT).exists(), "an earlier driver's is gone"
        ending.listen()
        ended: list[bool] = []
        with pytest.raises(KeyboardInterrupt):
            _work_for_half_a_second(ending, ended)
        assert bool(ended) is done


def _work_for_half_a_second(ending: Ending, ended: list[bool]) -> None:
    with ending.graceful():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.5)
        ended.append(True)


def test_a_sigterm_is_a_notice_while_training_and_then_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "_termination", interruption._Termination())
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    interruption._termination.heed()
    interruption._termination.heed()
    signal.raise_signal(signal.SIGTERM)
    assert ended == [signal.SIGTERM], "nothing trains"

    def train() -> None:
        with Notices(tmp_path) as interrupted:
            assert not interrupted()
            signal.raise_signal(signal.SIGTERM)
            assert interrupted()
            raise TrainingInterrupted("interrupted at step 3")

    with pytest.raises(PreemptedError, match="step 3"), making_room(tmp_path):
        train()
    assert len(ended) == 2, "it goes on to where it would have gone"


def test_a_driver_that_asks_is_no_reason_to_try_again(tmp_path: Path) -> None:
    (tmp_path / INTERRUPT).touch()
    with making_room(tmp_path):
        raise TrainingInterrupted("interrupted at step 3")
