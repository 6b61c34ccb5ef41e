"""A step's numbers depend on (seed, step) alone, whoever draws them and however many."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ractd_core.draws import Draws, generator

CPU = torch.device("cpu")


def sequence(draws: Draws) -> list[Tensor]:
    return [
        draws.normal(),
        draws.integers(7),
        draws.uniform(3),
        draws.normal(2, 2),
        draws.integers(100, 5),
        draws.uniform(),
    ]


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 6))
def test_the_shares_of_any_number_of_workers_make_up_the_whole(
    seed: int, step: int, share: int
) -> None:
    batch = 4 * share
    whole = sequence(Draws(seed, step, batch, CPU))
    assert [tuple(part.shape) for part in whole] == [
        (batch,),
        (batch,),
        (batch, 3),
        (batch, 2, 2),
        (batch, 5),
        (batch,),
    ]
    for workers in (1, 2, 4):
        parts = []
        for rank in range(workers):
            draws = Draws(seed, step, batch, CPU, rank=rank, workers=workers)
            assert draws.rows == batch // workers
            parts.append(sequence(draws))
        for index, expected in enumerate(whole):
            together = torch.empty_like(expected)
            for rank in range(workers):
                together[rank::workers] = parts[rank][index]
            assert torch.equal(together, expected)


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 2))
def test_parts_are_the_rows_in_turn_whatever_was_drawn_before(
    share: int, size: int, workers: int
) -> None:
    for rank in range(workers):
        draws = Draws(5, 2, workers * share, CPU, rank=rank, workers=workers)
        whole = sequence(draws)
        parts = draws.parts(size)
        assert [part.rows for part in parts] == [
            min(size, share - start) for start in range(0, share, size)
        ]
        drawn = [sequence(part) for part in parts]
        for index, expected in enumerate(whole):
            assert torch.equal(torch.cat([part[index] for part in drawn]), expected)


def test_numbers_do_not_depend_on_what_was_drawn_before() -> None:
    fresh = sequence(Draws(3, 17, 6, CPU))
    for step in (0, 16, 99):
        sequence(Draws(3, step, 6, CPU))
    torch.manual_seed(1)
    torch.randn(10)
    state = torch.get_rng_state()
    again = sequence(Draws(3, 17, 6, CPU))
    assert all(torch.equal(a, b) for a, b in zip(fresh, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_different_seeds_and_steps_give_different_numbers() -> None:
    pairs = itertools.product(range(25), range(25))
    drawn = {tuple(Draws(seed, step, 2, CPU).normal(2).flatten().tolist()) for seed, step in pairs}
    assert len(drawn) == 625


def test_streams_far_apart_differ_too() -> None:
    # The initial weights use a stream far beyond the steps, so as to share numbers with none.
    for stream in (1, 2**20, 2**31, 2**32, 2**40):
        first = torch.rand(4, generator=generator(5, 0))
        assert not torch.equal(first, torch.rand(4, generator=generator(5, stream)))


def test_numbers_have_their_distributions() -> None:
    draws = Draws(0, 0, 20_000, CPU)
    normal, uniform, integers = draws.normal(), draws.uniform(), draws.integers(5)
    assert abs(float(normal.mean())) < 0.03
    assert float(normal.std()) == pytest.approx(1, abs=0.03)
    assert 0 <= float(uniform.min()) < 0.001 < 0.999 < float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    counts = torch.bincount(integers, minlength=5)
    assert len(counts) == 5
    assert int((counts - 4000).abs().max()) < 300


def test_a_batch_with_fewer_rows_than_workers_is_refused() -> None:
    assert Draws(0, 0, 2, CPU, rank=1, workers=2).rows == 1
    with pytest.raises(ValueError, match="batch_size 1 is less than a row for each of 2 workers"):
        Draws(0, 0, 1, CPU, workers=2)
