"""Why a student scores as it does: how right its reward model is, and what its teacher covers.

These are the questions that the method's reviewers asked. All is measured on a few hundred windows
chosen by a fixed seed, so a student is diagnosed in seconds, and always to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ractd_core.config import Recipe, Sampling
from ractd_core.data.flat import DataError, FlatDataset, returns_to_go
from ractd_core.data.normalizer import LimitsNormalizer
from ractd_core.data.windows import Windows, make_windows
from ractd_core.draws import generator
from ractd_core.losses import beyond, reward_inputs
from ractd_core.models.value import RewardModel
from ractd_core.policy import Planner
from ractd_core.stages import Model

_SEED = 0
_PAIRS = 4096
_WINDOWS = 512
_PER_CALL = 512
"""Windows that a network sees at once."""

_STATES, _DRAWS = 48, 12
_NEAREST = 3
_SAME = 0.1
"""Plans are the same within this, root mean square over normalized dimensions: 5 % of the data's
range."""
_TEACHER = Sampling(method="heun", calls=20)
"""Of mixtures of two Gaussians in 1 and 6 dimensions, started from sigma_max, it covers what the
whole grid does to 0.05; ten calls of DDIM miss up to half of that."""
_POSITION = slice(0, 2)
"""Where a maze state (x, y, vx, vy) holds its position."""

Diagnostics = dict[str, float | None]


def diagnose(
    student: Model,
    reward: Model,
    teacher: Model,
    data: FlatDataset,
    played: FlatDataset,
    recipe: Recipe,
    device: torch.device,
) -> Diagnostics:
    """What is there to know of a ``student`` of ``recipe``, whose own episodes are ``played``.

    None stands for a number that does not exist. The reward model R, as the student's loss reads
    it:

    - ``reward_r2_train``, ``reward_r2_held_out``: R² on windows of the data, from R's file.
    - ``reward_r2_own``, ``reward_rank_own``, ``reward_bias_own``: R² of its predictions on the
      student's own episodes, their rank correlation (Spearman) with the discounted returns-to-go
      that followed, and mean prediction less mean return, over ``reward_pairs_own`` steps. Returns
      follow the rule that R was trained on, also where the step limit cut an episode. Of
      predictions of the advantage only ranks are compared: they have another unit.
    - ``gain``: mean R of the windows that the student makes in the data's states less that of the
      data's, in R's standard deviations over states, or over actions in the same state. Large where
      the returns do not follow: R is exploited.
    - ``saturated``, ``saturated_data``: the share of those windows' entries, and of the data's, at
      or beyond the ends of the data's range: of plans, or of the action that is executed.
    - ``disagreement``, ``disagreement_data``: the mean standard deviation of R's members on both,
      in the unit of ``gain``; None for one member.

    What the ``teacher`` covers (:func:`covered`), started as it is played:

    - ``coverage_all``, ``coverage_high``: the share of the data's first actions (mazes: plans'
      positions) that lie among its samples for the same conditioning, over all episodes and over
      those of the highest tenth of returns.
    - ``coverage_all_own``, ``coverage_high_own``: the share of its own further samples that do.
      A teacher that has learned the data reaches this and, but by chance, no more.
    """
    measured = reward.about["measured"]
    windows = make_windows(data, recipe.window, student.normalizers, device)
    high = torch.tensor(_high_returns(data))[windows.starts.cpu()]
    numbers = {
        "reward_r2_train": measured["r2"],
        "reward_r2_held_out": measured["held_out_r2"],
        **_on_own_episodes(reward, played, recipe, device),
        **_on_own_windows(student, reward, windows, device),
        **_coverage(teacher, windows, high, device),
    }
    return {
        key: None if value is None or not math.isfinite(value) else float(value)
        for key, value in numbers.items()
    }


def agreement(predicted: NDArray[np.float64], realised: NDArray[np.float64]) -> Diagnostics:
    """R², Spearman's rank correlation and bias of predictions, (n,) each.

    R² is None where everything realised is the same, the correlation where either side is.
    """
    variance = realised.var()
    r2 = 1 - ((predicted - realised) ** 2).mean() / variance if variance else None
    ranks = [_ranks(values) for values in (predicted, realised)]
    left, right = (each - each.mean() for each in ranks)
    spread = left.std() * right.std()
    rank = (left * right).mean() / spread if spread else None
    return {"r2": r2, "rank": rank, "bias": (predicted - realised).mean()}


def covered(samples: Tensor, points: Tensor) -> Tensor:
    """Whether each of ``points`` (n, dims) lies among its ``samples`` (n, draws, dims): (n,) bool.

    It does if it is no further from some sample than the samples are from their third nearest
    neighbour, or than plans may differ and be the same. This is the recall of Kynkäänniemi et al.
    (2019, equation 1) under each conditioning, but with one radius, the samples' median: a ball of
    its own round a stray sample covers all that lies between it and the others (Naeem et al. 2020,
    section 3.1).
    """
    among = torch.cdist(samples, samples, compute_mode="donot_use_mm_for_euclid_dist")
    # The nearest of all is the sample itself.
    nearest = among.kthvalue(_NEAREST + 1, dim=2).values
    radius = nearest.median(dim=1).values.clamp_min(_SAME * samples.shape[2] ** 0.5)
    distance = (points[:, None] - samples).norm(dim=2)
    return distance.min(dim=1).values <= radius


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, the mean one for equal values."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _high_returns(data: FlatDataset) -> NDArray[np.bool_]:
    """For every row, whether its episode's return is among the highest tenth (rows,)."""
    returns = np.add.reduceat(data.rewards.astype(np.float64), data.bounds[:-1])
    return np.repeat(returns >= np.quantile(returns, 0.9), np.diff(data.bounds))


def _some(windows: Tensor, most: int, stream: int) -> Tensor:
    """At most ``most`` of the numbers ``windows``, by chance."""
    return windows[torch.randperm(len(windows), generator=generator(_SEED, stream))[:most]]


@torch.no_grad()
def _said(reward: Model, x: Tensor, cond: Tensor) -> Tensor:
    """What R's members say of windows, as a reward loss reads it: (members, batch, scored)."""
    model = reward.network
    assert isinstance(model, RewardModel)
    x = x.clamp(-1.0, 1.0)
    parts = []
    for window, given in _batches(x, cond):
        if reward.about["modelled"] == "states":
            parts.append(model(window))
        else:
            read = window if model.whole else window[:, :1]
            newest = given[:, -reward.about["observation_dims"] :]
            parts.append(model(reward_inputs(read, newest))[..., :1])
    return torch.cat(parts, dim=1)


def _on_own_episodes(
    reward: Model, played: FlatDataset, recipe: Recipe, device: torch.device
) -> Diagnostics:
    config, about = recipe.reward, reward.about
    own = recipe.window.model_copy(update={"horizon": about["horizon"], "history": 1})
    try:
        windows = make_windows(played, own, reward.normalizers, device)
    except DataError:
        # Without padding, and no episode is as long as the windows that R reads.
        unknown: Diagnostics = {f"reward_{key}_own": None for key in ("r2", "rank", "bias")}
        return unknown | {"reward_pairs_own": 0.0}
    index = _some(torch.arange(len(windows)), _PAIRS, 0).to(device)
    said = _said(reward, *windows.at(index)).mean(0)[:, :1].cpu()
    returns = returns_to_go(played, config.discount, config.truncation, config.termination_penalty)[
        windows.starts[index].cpu()
    ]
    low, high = np.array(about["return_scale"])[:, None]
    predicted = LimitsNormalizer(low, high).unnormalize(said).squeeze(1)
    found = agreement(predicted.double().numpy(), returns.astype(np.float64))
    if about["target"] == "advantage":
        found |= {"r2": None, "bias": None}
    return {f"reward_{key}_own": value for key, value in found.items()} | {
        "reward_pairs_own": float(len(index))
    }


def _on_own_windows(
    student: Model, reward: Model, windows: Windows, device: torch.device
) -> Diagnostics:
    x0, cond = windows.at(_some(torch.arange(len(windows)), _WINDOWS, 1).to(device))
    made = _sample(student, Planner(student, device), cond, 2)
    unit = max(reward.about["measured"]["spread"], 1e-6)
    theirs, own = (_said(reward, x, cond) / unit for x in (x0, made))
    several = len(own) > 1
    executed = 1 if student.about["modelled"] == "actions" else None
    return {
        "gain": float(own.mean() - theirs.mean()),
        "saturated": float(beyond(made[:, :executed])),
        "saturated_data": float(beyond(x0[:, :executed])),
        "disagreement": float(own.std(0).mean()) if several else None,
        "disagreement_data": float(theirs.std(0).mean()) if several else None,
    }


def _coverage(teacher: Model, windows: Windows, high: Tensor, device: torch.device) -> Diagnostics:
    """Of windows whose episodes' returns are ``high`` (len(windows),), and of all.

    The others are drawn apart, so that all cost no more than twice the few.
    """
    # Without padding, the best episodes may all be too short for a window.
    best, rest = (
        _shares(teacher, windows, among.nonzero().squeeze(1), device)
        if among.any()
        else (None, None)
        for among in (high, ~high)
    )
    share = float(high.float().mean())
    found: Diagnostics = {}
    for name, of_best, of_rest in zip(("", "_own"), best, rest, strict=True):
        found[f"coverage_high{name}"] = of_best
        parts = ((share, of_best), (1 - share, of_rest))
        found[f"coverage_all{name}"] = sum(weight * of for weight, of in parts if of is not None)
    return found


def _shares(
    teacher: Model, windows: Windows, among: Tensor, device: torch.device
) -> tuple[float, float]:
    """What share of some windows lies among the teacher's samples, and what of its own further."""
    x0, cond = windows.at(_some(among, _STATES, 3).to(device))
    planner = Planner(teacher, device, _TEACHER)
    each = cond.repeat_interleave(_DRAWS + 1, dim=0)
    sampled = _compared(_sample(teacher, planner, each, 4), planner)
    sampled = sampled.reshape(len(cond), _DRAWS + 1, -1)
    samples, further = sampled[:, :-1], sampled[:, -1]
    data, own = (covered(samples, x).float().mean() for x in (_compared(x0, planner), further))
    return float(data), float(own)


def _batches(left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(left, _PER_CALL), torch.split(right, _PER_CALL), strict=True)


def _compared(x: Tensor, planner: Planner) -> Tensor:
    """The part of windows that is executed, flat: plans' positions, or first actions."""
    return x[..., _POSITION].flatten(1) if planner.modelled == "states" else x[:, 0]


def _sample(model: Model, planner: Planner, cond: Tensor, stream: int) -> Tensor:
    """A normalized window (batch, horizon, dims) for each of ``cond``, as it would be played."""
    shape = (len(cond), planner.draws, planner.horizon, planner.dims)
    noise = torch.randn(shape, generator=generator(_SEED, stream)).to(planner.device)
    given = cond.reshape(len(cond), planner.context, planner.observation_dims)
    seen = planner.normalizers.observations.unnormalize(given)
    windows = torch.cat([planner.plan(each, z) for each, z in _batches(seen, noise)])
    own = model.normalizers
    of = own.observations if planner.modelled == "states" else own.actions
    return of.normalize(windows)
