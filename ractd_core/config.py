"""One typed model per stage; unknown keys are errors, and all errors are reported at once.

Where the paper (arXiv 2506.07822) and its released code differ, the choice is a named option.
Names: ``sigma`` is the noise level; the paper's loss weights α, β, σ are ``ctm_weight``,
``dsm_weight`` and ``reward_weight``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
CONV_GROUPS = 8
"""Groups of channels that a convolutional reward model normalizes together."""


class Config(BaseModel):
    """Base of all configuration: immutable, and an unknown key is an error.

    A part that is given in part keeps the rest of its owner's default, so ``{"optim": {"steps":
    9}}`` in a reward model's configuration leaves its batch size at the reward model's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        filled = dict(value)
        for name, info in cls.model_fields.items():
            if isinstance(info.default, Config) and isinstance(value.get(name), dict):
                filled[name] = merged(info.default.model_dump(), value[name])
        return filled


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, table by table."""
    both = {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in over.items()
    }
    return {**base, **both}


class WindowConfig(Config):
    """What the networks generate: windows of ``horizon`` states (mazes) or actions (all others).

    States are conditioned on the window's first and last one, actions on the last ``history``
    observations. ``padding="hold"`` starts a window at any step and fills what lies beyond the end
    of the episode with its last position at zero velocity, or its last action; ``"none"`` keeps
    windows inside an episode.
    """

    horizon: Positive = 160
    history: Positive = 1
    padding: Literal["hold", "none"] = "hold"


class NoiseConfig(Config):
    """EDM noise levels (Karras et al. 2022, table 1) and preconditioning.

    ``boundary`` scalings meet the consistency boundary condition at ``sigma_min`` (Song et al.
    2023, appendix C) and are what the released code uses for the teacher too.
    """

    sigma_min: PositiveFloat = 0.02
    sigma_max: PositiveFloat = 80.0
    sigma_data: PositiveFloat = 0.5
    rho: PositiveFloat = 7.0
    bins: Annotated[int, Field(ge=2)] = 80
    preconditioning: Literal["boundary", "edm"] = "boundary"
    init_noise: Literal["unit", "sigma_max"] = "unit"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        return self


class Sampling(Config):
    """How windows are sampled, in ``calls`` network calls each.

    A teacher's ``method``: ``heun`` (two calls per step) and ``euler`` on EDM's noise levels,
    ``ddim`` and ``ddpm`` (ancestral) on DDPM's. A student jumps ``calls`` times from falling noise
    levels. Null ``calls`` are the teacher's whole grid of bins, and one jump.

    ``guidance`` w pulls a teacher's samples from its data's density p(x) towards
    p(x)·exp(w R(x)), by the gradient of a reward model at every call; 0 is none.
    """

    method: Literal["heun", "euler", "ddim", "ddpm"] = "heun"
    calls: Positive | None = None
    guidance: NonNegative = 0.0


class UNetConfig(Config):
    """The temporal U-Net: one level per entry of ``widths``, on patches of ``patch`` states."""

    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 64)
    patch: Positive = 8
    kernel_size: Positive = 5
    groups: Positive = 8
    embed_dim: Annotated[int, Field(ge=4, multiple_of=2)] = 32

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        problems = []
        if self.kernel_size % 2 == 0:
            problems.append(f"kernel_size must be odd, found {self.kernel_size}")
        bad = [width for width in self.widths if width % self.groups]
        if bad:
            problems.append(f"widths {bad} are not multiples of groups={self.groups}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def horizon_multiple(self) -> int:
        """Horizons must be a multiple of this: patches, halved once per level but the last."""
        return int(self.patch * 2 ** (len(self.widths) - 1))


class OptimConfig(Config):
    """AdamW, cosine schedule after a linear warm-up, gradient clipping, EMA for evaluation.

    Null ``grad_clip`` clips nothing; ``ema_decay`` 0 evaluates the weights themselves.
    """

    steps: Positive
    batch_size: Positive = 64
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegative = 1e-6
    betas: tuple[Fraction, Fraction] = (0.95, 0.999)
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    grad_clip: PositiveFloat | None = 1.0
    ema_decay: Fraction = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"


Distance = Literal["mse", "pseudo_huber", "squared_pseudo_huber"]
Times = Literal["lognormal", "mixed"]


class TeacherConfig(Config):
    """EDM teacher. ``times="mixed"`` is the student's sampler, which also sees high noise.

    ``reward_weight`` adds the student's reward term to the teacher's own loss, on all states of a
    plan; the paper's teacher has none, and its Table 5 compares.
    """

    optim: OptimConfig = OptimConfig(steps=1200)
    reward_weight: NonNegative = 0.0
    network: UNetConfig = UNetConfig()
    noise: NoiseConfig = NoiseConfig()
    times: Times = "mixed"
    distance: Distance = "mse"
    dropout: Fraction = 0.0
    seed: Annotated[int, Field(ge=0)] = 0


class RewardConfig(Config):
    """Return-to-go model of single states (mazes) or of actions in their states.

    ``network`` is the residual MLP that was released, or the convolutions that the paper describes,
    which read whole windows. ``members`` of it are trained, each from weights of its own.
    ``target`` is what they predict: the discounted ``return``, or, of actions, their ``advantage``
    over ``advantage_steps`` steps, by how much these went better than a state's value, which is
    learned beside it, had promised. ``truncation`` says what an episode cut by time is worth beyond
    its end: ``zero`` as released, or ``hold``, its last reward for ever, which agrees with windows
    that hold the last position. ``termination_penalty`` is taken off the last reward of an episode
    that terminated. ``held_out`` is the share of episodes that accuracy is measured on.
    """

    optim: OptimConfig = OptimConfig(steps=600, batch_size=256, weight_decay=1e-3)
    network: Literal["mlp", "conv"] = "mlp"
    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64, 128)
    members: Positive = 1
    target: Literal["return", "advantage"] = "return"
    advantage_steps: Positive = 50
    discount: Annotated[float, Field(gt=0, lt=1)] = 0.99
    truncation: Literal["zero", "hold"] = "hold"
    termination_penalty: NonNegative = 0.0
    held_out: Fraction = 0.1
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _groups(self) -> Self:
        bad = [width for width in self.widths if width % CONV_GROUPS]
        if self.network == "conv" and bad:
            raise ValueError(
                f"widths {bad} are not multiples of {CONV_GROUPS}, the groups of a conv network"
            )
        return self


class CollapseConfig(Config):
    """What ends a student's training as diverged; null watches for nothing.

    ``saturation``: the share of entries of predicted plans, or of predicted actions that would be
    executed, beyond the data's range, less the data's own. ``gain``: by how many standard
    deviations of its predictions, over the data's states or over actions in the same state, the
    reward model prefers the student's windows to the data's: far beyond what it was trained on, it
    is wrong. ``loss``: how many times the first reported DSM loss.
    """

    saturation: Annotated[float, Field(gt=0, lt=1)] | None = 0.3
    gain: PositiveFloat | None = 2.0
    loss: Annotated[float, Field(gt=1)] | None = 10.0


class StudentConfig(Config):
    """One-step student: L = α·CTM + β·DSM + σ·reward (paper, equation 9).

    The network is the teacher's plus a stop-time embedding. ``reward_at`` scores the DSM prediction
    (released code) or the one-step sample from pure noise (paper). ``solver_steps`` is how many
    bins the teacher may cross in the CTM target; ``target_ema`` 0 makes the target network the
    current weights.

    ``reward_states`` states of each plan are drawn for the reward sum, which keeps the estimate
    unbiased and the step cheap; null scores every state, as convolutions do in any case. Of a
    window of actions only the first, which is executed, is scored. ``reward_scale="gradient"``
    divides the reward by the mean size of its gradient over the data, so that one σ pulls alike on
    all of them. ``pessimism`` takes so many standard deviations of an ensemble off its mean. With a
    ``trust_radius`` the reward pulls an entry no further than that from the teacher's own
    prediction at the same noise, in units of half the data's range; from pure noise that prediction
    is the mean of all samples, so ``reward_at="noise"`` has no such region.
    """

    optim: OptimConfig = OptimConfig(steps=400)
    ctm_weight: NonNegative = 1.0
    dsm_weight: NonNegative = 1.0
    reward_weight: NonNegative = 1e-4
    reward_at: Literal["dsm", "noise"] = "dsm"
    reward_states: Positive | None = 16
    reward_scale: Literal["none", "gradient"] = "none"
    pessimism: NonNegative = 0.0
    trust_radius: PositiveFloat | None = None
    solver_steps: Positive = 1
    target_ema: Fraction = 0.0
    times: Times = "mixed"
    distance: Distance = "mse"
    dropout: Fraction = 0.0
    collapse: CollapseConfig = CollapseConfig()
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.ctm_weight == self.dsm_weight == 0:
            raise ValueError("ctm_weight and dsm_weight are both 0: nothing ties plans to the data")
        if self.trust_radius is not None and self.reward_at == "noise":
            raise ValueError(
                f"trust_radius {self.trust_radius:g} is around the teacher's prediction, which "
                "from pure noise is the mean of all samples: set reward_at to dsm, or trust_radius "
                "to null"
            )
        return self


class RegressionConfig(Config):
    """The baseline without diffusion: a maze's plan from its ends, elsewhere behaviour cloning."""

    optim: OptimConfig = OptimConfig(steps=800)
    network: UNetConfig = UNetConfig()
    seed: Annotated[int, Field(ge=0)] = 0


class PolicyConfig(Config):
    """How trained models act; no stage's training reads it.

    ``executed_actions`` of each window of actions are executed before the next is planned; a maze's
    plan is made once, and is executed whole. ``guidance`` (:class:`Sampling`) is that of guided
    teachers; its default, which is also Diffuser's scale, helps a little on maze2d-umaze, where 0.3
    hurts and 1 halves the score.
    """

    executed_actions: Positive = 1
    guidance: NonNegative = 0.1


class Recipe(Config):
    """Everything that defines what is trained on a given dataset, and how it then acts."""

    window: WindowConfig = WindowConfig()
    teacher: TeacherConfig = TeacherConfig()
    reward: RewardConfig = RewardConfig()
    student: StudentConfig = StudentConfig()
    regression: RegressionConfig = RegressionConfig()
    policy: PolicyConfig = PolicyConfig()

    @model_validator(mode="after")
    def _horizon_fits(self) -> Self:
        problems = [
            f"horizon {self.window.horizon} does not fit the {stage} network: it must be a "
            f"multiple of {network.horizon_multiple} (patch {network.patch}, "
            f"{len(network.widths)} levels)"
            for stage, network in (
                ("teacher", self.teacher.network),
                ("regression", self.regression.network),
            )
            if self.window.horizon % network.horizon_multiple
        ]
        if self.student.pessimism and self.reward.members == 1:
            problems.append(
                f"student.pessimism {self.student.pessimism:g} is about the disagreement of an "
                "ensemble: set reward.members to 2 or more"
            )
        if self.policy.executed_actions > self.window.horizon:
            problems.append(
                f"executed_actions {self.policy.executed_actions} are more than a window of "
                f"horizon {self.window.horizon} has"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
