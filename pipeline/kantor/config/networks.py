"""Generators and critics."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from kantor.config.base import Count, NonNegative, Settings


class Network(Settings):
    """A multilayer perceptron."""

    width: Count = Field(default=128, description="units per hidden layer")
    depth: Count = Field(default=4, description="number of hidden layers")
    activation: Literal["leaky_relu", "relu", "silu", "tanh", "softplus"] = "leaky_relu"
    slope: NonNegative = Field(default=0.2, description="negative slope of leaky_relu")
    norm: Literal["none", "layer"] = Field(default="none", description="normalisation of the hidden layers")
    residual: bool = Field(default=False, description="every hidden layer but the first adds to what it was given")
    spectral_norm: bool = Field(
        default=False, description="divide every weight matrix by its largest singular value (arXiv:1802.05957)"
    )
    initialisation: Literal["default", "kaiming", "xavier", "orthogonal"] = Field(
        default="default",
        description="of the weight matrices (default: PyTorch's; the others set the biases to zero)",
    )

    @field_validator("norm", mode="before")
    @classmethod
    def _no_batch_norm(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lower().replace("_", "") in {"batch", "batchnorm"}:
            raise ValueError(
                "BatchNorm couples the rows of a batch: the per-sample gradient penalty is then undefined, and ranks "
                "would not give the gradient of the joined batch. Use 'layer' or 'none'"
            )
        return value


class GeneratorNetwork(Network):
    """The generator: (latent noise, conditions) -> transformed features."""

    latent: Count = Field(default=64, description="dimension of the standard normal noise")


class CriticNetwork(Network):
    """The critic: (what it sees of an event, conditions) -> score or embedding."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="probability that a hidden unit is left out of an update"
    )
    minibatch_std: Annotated[int, Field(ge=0, multiple_of=2)] = Field(
        default=0,
        description="rows of the groups whose mean standard deviation the last layer also sees (arXiv:1710.10196); "
        "0: none",
    )
    pack: Count = Field(
        default=1,
        description="events that the critic judges together, side by side, 2 to 4 against lost modes (PacGAN, "
        "arXiv:1712.04086), without conditions; 1: each by itself",
    )
