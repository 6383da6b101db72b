"""Objectives, and the terms added to them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kantor.config.base import Count, Decay, Name, NonNegative, Positive, Settings, known
from kantor.config.networks import CriticNetwork, Network

RealLabel = Annotated[float, Field(gt=0.5, le=1)]


class Penalty(Decay):
    """weight x E (|g| - target)^2, or weight / 2 x E |g|^2 centred at zero, g the critic's gradient by what it sees."""

    kind: Literal["gp", "lp", "r1", "r2", "r1r2"] = Field(
        default="gp",
        description="gp: at random points between real and generated rows (arXiv:1704.00028); lp: there, and of norms "
        "above the target alone (arXiv:1709.08894); r1, r2, r1r2: centred at zero, at real rows, at generated rows, at "
        "both (arXiv:1801.04406)",
    )
    weight: NonNegative = Field(
        default=10.0, description="lambda of gp and lp; gamma of r1, r2 and r1r2, half of which is the factor"
    )
    target: NonNegative = Field(default=1.0, description="the wanted gradient norm; 0 of r1, r2 and r1r2")

    @model_validator(mode="before")
    @classmethod
    def _one_way_to_say_it(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if "one_sided" in data:
            # How `kind: lp` was written while there were but two kinds.
            one_sided = data.pop("one_sided")
            if not isinstance(one_sided, bool):
                raise ValueError(f"one_sided must be true or false, got {one_sided!r}; better, write 'kind: lp'")
            if data.setdefault("kind", "lp" if one_sided else "gp") != ("lp" if one_sided else "gp"):
                raise ValueError(
                    f"one_sided: {str(one_sided).lower()} and kind: {data['kind']} contradict each other: remove "
                    "one_sided; 'kind: lp' is the one-sided penalty"
                )
        if data.get("kind") in _ZERO_CENTRED and data.setdefault("target", 0.0) != 0:
            raise ValueError(
                f"'{data['kind']}' is centred at zero and has no other target: remove target, or take 'kind: gp'"
            )
        return data

    @property
    def zero_centred(self) -> bool:
        """Whether it is taken at the rows themselves and not between them."""
        return self.kind in _ZERO_CENTRED

    @property
    def one_sided(self) -> bool:
        return self.kind == "lp"

    @property
    def factor(self) -> float:
        """What the penalty is multiplied by at the start: lambda, or gamma / 2."""
        return self.weight / 2 if self.zero_centred else self.weight


_ZERO_CENTRED = ("r1", "r2", "r1r2")
_SMOOTHING = "label of real events; below 1 (0.9): one-sided label smoothing (arXiv:1606.03498, section 3.4)"
_OPTIONAL = "on the critic's gradient; none: no penalty"
_EMBEDDING = "dimension of an embedding that a critic learns; none: the features (and conditions) themselves, no critic"


class AnyObjective(Settings):
    """What the rest of the configuration asks of every objective."""

    @property
    def critic_free(self) -> bool:
        """Whether the features themselves are compared."""
        return False

    @property
    def penalises(self) -> Penalty | None:
        """How the critic's gradient is penalised, row by row; None: it is not."""
        return None if self.critic_free else getattr(self, "penalty", None)

    @property
    def row_by_row(self) -> bool:
        """Whether the loss has the critic's gradient at single rows, which then must not be coupled."""
        return self.penalises is not None

    @property
    def draws(self) -> int:
        """Events that are generated from each row's conditions in one update."""
        return 1

    def check_critic(self, critic: CriticNetwork) -> None:
        """Raise `ValueError` where the objective means nothing with this critic."""

    def check_weights(self, signed: bool) -> None:
        """Raise `ValueError` where the objective means nothing with weights that may be negative."""


class AnyTerm(Settings):
    """What the rest of the configuration asks of every term."""

    @property
    def needs_critic(self) -> bool:
        return False

    def check_conditions(self, names: list[str], dataset: str) -> None:
        """Raise `ValueError` where the term needs conditions that the dataset does not have."""


class Gan(AnyObjective):
    """The minimax GAN (Goodfellow et al., arXiv:1406.2661)."""

    kind: Literal["gan"]
    real_label: RealLabel = Field(default=1.0, description=_SMOOTHING)
    penalty: Penalty | None = Field(default=None, description=_OPTIONAL)


class NsGan(AnyObjective):
    """The GAN with the non-saturating generator loss (Goodfellow et al., arXiv:1406.2661, section 3)."""

    kind: Literal["ns_gan"]
    real_label: RealLabel = Field(default=1.0, description=_SMOOTHING)
    penalty: Penalty | None = Field(default=None, description=_OPTIONAL)


class LsGan(AnyObjective):
    """Least-squares GAN with labels 0 and 1 (Mao et al., arXiv:1611.04076)."""

    kind: Literal["ls_gan"]
    penalty: Penalty | None = Field(default=None, description=_OPTIONAL)


class Hinge(AnyObjective):
    """GAN with the hinge loss (Lim and Ye, arXiv:1705.02894; Miyato et al., arXiv:1802.05957)."""

    kind: Literal["hinge"]
    penalty: Penalty | None = Field(default=None, description=_OPTIONAL)


class SnGan(AnyObjective):
    """GAN whose critic is spectrally normalised (Miyato et al., arXiv:1802.05957)."""

    kind: Literal["sn_gan"]
    loss: Literal["hinge", "non_saturating"] = Field(default="hinge", description="hinge, or that of ns_gan")

    def check_critic(self, critic: CriticNetwork) -> None:
        if not critic.spectral_norm:
            raise ValueError("sn_gan is defined by critic.spectral_norm: set it to true, or take 'ns_gan'")


class Wgan(AnyObjective):
    """Wasserstein GAN with weight clipping (Arjovsky et al., arXiv:1701.07875)."""

    kind: Literal["wgan"]
    clip: Positive = Field(default=0.01, description="c: after each update the critic's parameters are cut to [-c, c]")

    def check_critic(self, critic: CriticNetwork) -> None:
        if critic.spectral_norm:
            raise ValueError(
                "critic.spectral_norm divides the weights by their norm, so that clipping them changes nothing but "
                "their rounding: take objective 'sn_gan', or set spectral_norm to false"
            )
        if critic.norm == "layer":
            raise ValueError(
                f"critic.norm = layer rescales what weights of at most {self.clip:g} let through, so that "
                "clipping bounds no slope: set norm to none, or take objective 'wgan_gp'"
            )


class WganGp(AnyObjective):
    """Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028)."""

    kind: Literal["wgan_gp"]
    penalty: Penalty = Penalty()


class R3Gan(AnyObjective):
    """R3GAN: a critic of pairs of a real and a generated event, with R1 and R2 (Huang et al., arXiv:2501.05441)."""

    kind: Literal["r3gan"]
    penalty: Penalty = Field(
        default=Penalty(kind="r1r2", weight=0.01, schedule="cosine", final=0.1),
        description="see above; a section without `kind` is r1r2",
    )

    @field_validator("penalty", mode="before")
    @classmethod
    def _both_sides(cls, penalty: Any) -> Any:
        if isinstance(penalty, dict) and not {"kind", "one_sided"} & penalty.keys():
            return {"kind": "r1r2", **penalty}
        return penalty


class Cramer(AnyObjective):
    """Cramér GAN (Bellemare et al., arXiv:1705.10743): the critic embeds, energy distances compare."""

    kind: Literal["cramer"]
    critic: Literal["energy", "surrogate"] = Field(
        default="energy",
        description="energy: two real and two generated samples, unbiased; surrogate: the paper's Algorithm 1",
    )
    pairs: Literal["partners", "all"] = Field(
        default="partners", description="compare each row with its partner, or with all rows of the batch"
    )
    embedding: Count = Field(default=64, description="dimension of the critic's output h")
    penalty: Penalty = Penalty()

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.critic == "surrogate" and self.pairs == "all":
            raise ValueError(
                "the surrogate is Algorithm 1 of arXiv:1705.10743, which compares partners; "
                "take 'critic: energy' for all pairs, or 'pairs: partners'"
            )
        return self

    def check_weights(self, signed: bool) -> None:
        if signed and self.critic == "surrogate":
            raise ValueError(
                "the surrogate critic with weights that may be negative: the weights of a batch's pairs can add up to "
                "zero, and its terms do not cancel; set signed_weights to clip or drop, or take 'critic: energy'"
            )


class Matching(AnyObjective):
    """Statistics over all pairs, compared without a critic or in an embedding that one learns."""

    embedding: Count | None = Field(default=None, description=_EMBEDDING)
    penalty: Penalty = Field(default=Penalty(), description="of the learned embedding's witness; see below")

    @property
    def critic_free(self) -> bool:
        return self.embedding is None


class EnergyMatching(Matching):
    """Energy distance over all pairs: of the features, with no critic, or of an embedding that a critic learns."""

    kind: Literal["energy"]


class Kernels(Settings):
    """A kernel, averaged over its scales."""

    kernel: Literal["gaussian", "laplacian", "rational_quadratic"] = "rational_quadratic"
    scales: Annotated[list[Positive], Field(min_length=1)] = Field(
        default=[0.2, 0.5, 1.0, 2.0, 5.0],
        description="s of exp(-d^2 / 2 s^2) and exp(-d / s), alpha of (1 + d^2 / 2 alpha)^-alpha; "
        "d in standard deviations of the features",
    )


class MmdMatching(Matching, Kernels):
    """MMD^2 over all pairs: of the features (arXiv:1502.02761), or of a learned embedding (arXiv:1801.01401)."""

    kind: Literal["mmd"]


class MmdGan(AnyObjective, Kernels):
    """MMD GAN: a critic embeds, the MMD of the embeddings compares (Bińkowski et al., arXiv:1801.01401)."""

    kind: Literal["mmd_gan"]
    embedding: Count = Field(default=16, description="dimension of the critic's output h")
    scaled: Positive | None = Field(
        default=None,
        description="lambda of the gradient-scaled MMD^2 / (lambda + 1 + c E |dh/dx|^2), which has no penalty "
        "(arXiv:1805.11565); none: not scaled. Its cost grows with the embedding",
    )
    penalty: Penalty | None = Field(default=Penalty(), description="of the witness; none where `scaled` is given")

    @model_validator(mode="before")
    @classmethod
    def _scaled_or_penalised(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        scaled = data.get("scaled") is not None
        if scaled and data.get("penalty") is not None:
            raise ValueError("scaled bounds the critic's gradient, and so does a penalty: remove one of them")
        if not scaled and "penalty" in data and data["penalty"] is None:
            raise ValueError("nothing bounds the critic's gradient: give a penalty, or 'scaled'")
        return data | {"penalty": None} if scaled else data

    @model_validator(mode="after")
    def _kernel_has_a_slope(self) -> Self:
        if self.scaled is not None and self.kernel == "laplacian":
            raise ValueError("scaled needs a kernel that is smooth at distance 0: take gaussian or rational_quadratic")
        return self

    @property
    def row_by_row(self) -> bool:
        return True


class Engression(AnyObjective):
    """Energy score of two events generated for each row's conditions, no critic (Shen et al., arXiv:2307.00835)."""

    kind: Literal["engression"]

    @property
    def critic_free(self) -> bool:
        return True

    @property
    def draws(self) -> int:
        return 2


Objective = Annotated[
    Gan
    | NsGan
    | LsGan
    | Hinge
    | SnGan
    | Wgan
    | WganGp
    | R3Gan
    | Cramer
    | EnergyMatching
    | MmdMatching
    | MmdGan
    | Engression,
    Field(discriminator="kind"),
]


class MmdTerm(AnyTerm, Kernels):
    """weight x MMD^2 between what the critic would see of real and generated events (FAT-GAN, arXiv:2001.11103)."""

    kind: Literal["mmd"]
    weight: Positive = Field(default=1.0, description="eta, the factor in front of the term")
    estimator: Literal["all_pairs", "linear"] = Field(
        default="all_pairs", description="all pairs of the batch, or each row with its partner alone (FAT-GAN's code)"
    )
    squared: bool = Field(default=False, description="weight x (MMD^2)^2, as FAT-GAN's code has it")


class FeatureMatching(AnyTerm):
    """weight x |E phi(x) - E phi(x~)|^2, phi the critic's last hidden layer (Salimans et al., arXiv:1606.03498)."""

    kind: Literal["feature_matching"]
    weight: Positive = Field(default=1.0, description="factor in front of the term")

    @property
    def needs_critic(self) -> bool:
        return True


class Constrainer(AnyTerm):
    """weight x |MSE(real) - MSE(generated)| of regressors of the conditions (Erdmann et al., arXiv:1807.01954)."""

    kind: Literal["constrainer"]
    weight: Positive = Field(default=0.01, description="kappa, the factor in front of the term")
    conditions: list[Name] = Field(default=[], description="conditions to be regressed; none named: all")
    network: Network = Field(default=Network(width=64, depth=3), description="of width 64 and depth 3; keys as above")
    steps: Count = Field(default=2000, description="updates on real events, of the training's batch, before all else")
    learning_rate: Positive = Field(default=1e-3, description="learning rate of its Adam")

    def check_conditions(self, names: list[str], dataset: str) -> None:
        if not names:
            raise ValueError(f"a constrainer regresses conditions, and dataset '{dataset}' has none: remove it")
        for condition in self.conditions:
            known(condition, names, "conditions")


Term = Annotated[MmdTerm | FeatureMatching | Constrainer, Field(discriminator="kind")]
