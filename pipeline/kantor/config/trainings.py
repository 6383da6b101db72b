"""Trainings: data, transforms, networks, objective, optimisers."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kantor.config.base import ColumnName, Count, Name, Positive, Settings, parsed
from kantor.config.coordinates import AnyCoordinates
from kantor.config.networks import CriticNetwork, GeneratorNetwork
from kantor.config.objectives import Objective, Penalty, Term
from kantor.config.presets import OBJECTIVES, PRESETS, merged
from kantor.config.transforms import Transform


class Decay(Settings):
    """A factor that falls from one while progress goes from 0 to 1."""

    schedule: Literal["constant", "linear", "cosine", "exponential"] = Field(
        default="constant", description="how the value falls over the run"
    )
    final: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="fraction left in the end; none: 0, or 0.01 of an exponential"
    )

    @model_validator(mode="after")
    def _exponentials_never_reach_zero(self) -> Self:
        if self.schedule == "exponential" and self.final == 0:
            raise ValueError("an exponential never reaches zero: give a 'final' above 0, or take 'linear' or 'cosine'")
        return self


class InstanceNoise(Decay):
    """Normal noise on what the critic sees, real and generated alike (Sønderby et al., arXiv:1610.04490)."""

    deviation: Positive = Field(description="standard deviation at the start [standard deviations of a feature]")
    schedule: Literal["constant", "linear", "cosine", "exponential"] = Field(
        default="linear", description="how the deviation falls"
    )
    steps: Count | None = Field(default=None, description="generator updates over which it falls; none: the whole run")


class HeadStart(Settings):
    """More critic updates while the generator is young (Arjovsky et al.'s code: 100 during 25 generator updates)."""

    steps: Count = Field(default=25, description="generator updates that it lasts")
    n_critic: Count = Field(default=100, description="critic updates per generator update meanwhile")


class Optimiser(Decay):
    """What all optimisers have."""

    learning_rate: Positive = Field(default=2e-4, description="learning rate at the start")
    warm_up: Annotated[int, Field(ge=0)] = Field(
        default=0, description="generator updates over which the learning rate rises linearly from near zero"
    )
    clip_norm: Positive | None = Field(
        default=None, description="gradients of a larger norm are scaled down to it; none: never"
    )


class Adam(Optimiser):
    """Adam (Kingma and Ba, arXiv:1412.6980)."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.0, 0.9), description="decay of the running means of gradient and squared gradient"
    )


class RmsProp(Optimiser):
    """RMSProp (Hinton, Coursera lecture 6e, 2012)."""

    kind: Literal["rmsprop"]
    alpha: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.99, description="decay of the running mean of the squared gradient"
    )


AnyOptimiser = Annotated[Adam | RmsProp, Field(discriminator="kind")]


class Training(Settings):
    """One model to train: data, transforms, networks, objective, optimisers."""

    preset: Literal["fat_gan", "wgan_gp_toy", "rich"] | None = Field(
        default=None, exclude=True, description="a published recipe, whose keys stand where this training has none"
    )
    dataset: Name = Field(description="name of the dataset")
    transforms: dict[ColumnName, Annotated[list[Transform], Field(min_length=1)]] = Field(
        default={},
        description="chain of transforms of each feature or condition; a column not named here is standardised",
    )
    coordinates: list[AnyCoordinates] = Field(
        default=[],
        description="maps of several features together, which then have no chain of their own (docs/coordinates.md)",
    )
    critic_features: dict[str, str] = Field(
        default={},
        description="derived features the critic also sees: name -> expression of the columns in physical units; an "
        "expression of arrays may give several (docs/arrays.md)",
    )
    critic_observables: list[str] = Field(
        default=[],
        description="observables of the dataset's physics that the critic also sees, such as [E_tot, 'width_*']; for "
        "physics whose observables are expressions (showers)",
    )
    signed_weights: Literal["keep", "clip", "drop"] = Field(
        default="keep", description="negative weights are used as they are, set to zero, or their rows are left out"
    )
    generator: GeneratorNetwork = GeneratorNetwork()
    critic: CriticNetwork = CriticNetwork()
    objective: Objective
    terms: list[Term] = Field(default=[], description="what is added to the generator's loss")
    instance_noise: InstanceNoise | None = Field(default=None, description="noise on what the critic sees; see below")
    n_critic: Annotated[int, Field(ge=0)] = Field(
        default=5, description="critic updates per generator update; 0 where there is no critic"
    )
    head_start: HeadStart | None = Field(default=None, description="more critic updates at first; see below")
    batch: Annotated[int, Field(gt=0, multiple_of=2)] = Field(
        default=512, description="rows per update, over all ranks together; rows come in pairs"
    )
    steps: Count = Field(default=4000, description="generator updates")
    critic_optimiser: AnyOptimiser = Adam()
    generator_optimiser: AnyOptimiser = Adam()
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.999,
        description="decay of the moving average of the generator's weights, which is what is kept; 0: none",
    )
    precision: Literal["float32", "float64"] = "float32"
    autocast: Literal["none", "bfloat16"] = Field(
        default="none", description="matrix products of the networks in bfloat16, on GPUs alone"
    )
    log_every: Count = Field(default=50, description="generator updates between two lines of metrics")
    checkpoint_every: Count = Field(default=500, description="generator updates between two checkpoints")
    keep_checkpoints: Count = Field(
        default=2, description="how many of the latest checkpoints stay; the best one stays too"
    )
    evaluate_every: Count = Field(
        default=500, description="generator updates between two evaluations of the energy distance"
    )
    evaluate_rows: Annotated[int, Field(ge=10)] = Field(
        default=4000, description="rows of the validation split used to choose the best checkpoint"
    )
    evaluate_classifier: bool = Field(
        default=False,
        description="evaluations also measure how well a classifier tells generated from validation events, for the "
        "curve of its AUC against time",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="the generator that is kept: the latest within one error of the least energy distance, or the last",
    )
    patience: Count | None = Field(
        default=None,
        description="stop after so many evaluations in a row without an improvement larger than its error; none: never",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """The user's keys over those of the preset over those of the objective."""
        if not isinstance(data, dict):
            return data
        if data.get("preset") in PRESETS:
            preset = PRESETS[data["preset"]]
            if data.get("coordinates"):
                # Columns with coordinates have no chains, and the preset's were meant for columns as they are.
                preset = {key: value for key, value in preset.items() if key != "transforms"}
            # Dropped once it is merged, so that equal settings written differently stay equal.
            data = merged(preset, {key: value for key, value in data.items() if key != "preset"})
        objective = data.get("objective")
        # With an embedding, matching is adversarial, and the schema's defaults are meant.
        if isinstance(objective, dict) and not objective.get("embedding"):
            data = merged(OBJECTIVES.get(str(objective.get("kind")), {}), data)
        for name in ("critic_optimiser", "generator_optimiser"):
            if isinstance(data.get(name), dict):
                data = {**data, name: {"kind": "adam", **data[name]}}
        return data

    @field_validator("critic_features")
    @classmethod
    def _features_parse(cls, features: dict[str, str]) -> dict[str, str]:
        parsed(features.values())
        return features

    @model_validator(mode="after")
    def _a_feature_is_transformed_once(self) -> Self:
        taken = [name for each in self.coordinates for name in each.mapped]
        twice = [name for name in taken if taken.count(name) > 1 or name in self.transforms]
        if twice:
            raise ValueError(
                f"coordinates: '{twice[0]}' stands there and in 'transforms' or twice: each feature is transformed once"
            )
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        kind, critic_free = self.objective.kind, self.objective.critic_free
        if critic_free and self.n_critic > 0:
            raise ValueError(
                f"n_critic = {self.n_critic}, but '{kind}' on features has no critic: set n_critic to 0, "
                "or give the objective an 'embedding' for a critic to learn"
            )
        if not critic_free and self.n_critic == 0:
            raise ValueError(f"n_critic = 0, but the critic of '{kind}' has to learn: set n_critic to 1 or more")
        if critic_free and (needy := [term.kind for term in self.terms if term.needs_critic]):
            raise ValueError(f"terms: {needy[0]} needs a critic, and '{kind}' on features has none: remove it")
        if critic_free and self.head_start is not None:
            raise ValueError(f"head_start: '{kind}' on features has no critic to be ahead: remove it")
        if critic_free and getattr(self.objective, "penalty", None) != Penalty():
            raise ValueError(
                f"objective.penalty: '{kind}' on features has no critic to penalise: remove it, or give an 'embedding'"
            )
        if self.critic.minibatch_std and self.objective.penalised:
            raise ValueError(
                f"critic.minibatch_std couples the rows of a batch, and the gradient penalty of '{kind}' is defined "
                "row by row: set minibatch_std to 0, or take an objective without penalty"
            )
        if self.critic.minibatch_std and self.batch % self.critic.minibatch_std:
            raise ValueError(
                f"batch = {self.batch} is no multiple of critic.minibatch_std = {self.critic.minibatch_std}, "
                "the rows of a group: change one of them"
            )
        self.objective.check_critic(self.critic)
        if self.autocast != "none" and self.precision == "float64":
            raise ValueError("autocast to bfloat16 with precision float64 contradicts itself: change one of them")
        if self.keep == "last" and self.patience is not None:
            raise ValueError(
                "patience looks for the best generator, which 'keep: last' does not keep: remove one of them"
            )
        for name in ("critic_optimiser", "generator_optimiser"):
            if getattr(self, name).warm_up >= self.steps:
                raise ValueError(f"{name}.warm_up lasts {self.steps} steps, the whole run, or longer: shorten it")
        return self
