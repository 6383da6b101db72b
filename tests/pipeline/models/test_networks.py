"""The networks: what each option does, and that a start is the same wherever it happens."""

import math
from copy import deepcopy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from kantor.config import CriticNetwork, GeneratorNetwork
from kantor.models.networks.layers import Dropout, GroupDeviation, Residual
from kantor.models.networks.perceptron import PerceptronCritic, PerceptronGenerator
from kantor_kernels.testing import assert_close


def critic(seed: int = 1, *, outputs: int = 2, **settings: Any) -> PerceptronCritic:
    torch.manual_seed(seed)
    return PerceptronCritic(CriticNetwork.model_validate({"width": 16, "depth": 3} | settings), 2, 3, outputs).double()


def rows(count: int = 8) -> tuple[Tensor, Tensor]:
    x, c = torch.randn(2, count, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x, c[:, :2]


def matrices(module: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]


def test_a_critic_is_a_perceptron_by_default() -> None:
    kinds = [type(layer) for layer in critic().layers]
    assert kinds == [nn.Linear, nn.LeakyReLU] * 3 + [nn.Linear]


def test_residual_layers_add_to_what_they_were_given() -> None:
    f = critic(residual=True, activation="silu", norm="layer")
    assert [type(layer) for layer in f.layers] == [nn.Linear, nn.LayerNorm, nn.SiLU, Residual, Residual, nn.Linear]
    x, c = rows()
    h = f.layers[:3](torch.cat([x, c], 1))
    for block in (cast(Residual, f.layers[3]), cast(Residual, f.layers[4])):
        linear, norm, silu = block
        h = h + silu(norm(linear(h)))
    assert torch.allclose(f(x, c), f.layers[5](h), rtol=1e-14)


def test_hidden_features_are_what_the_last_layer_gets() -> None:
    f, (x, c) = critic(), rows()
    assert torch.equal(f.layers[-1](f.hidden(x, c)), f(x, c))


@pytest.mark.parametrize("initialisation", ["default", "kaiming", "xavier", "orthogonal"])
def test_initialisations(initialisation: str) -> None:
    torch.manual_seed(1)
    network = CriticNetwork.model_validate({"width": 256, "depth": 2, "initialisation": initialisation})
    f = PerceptronCritic(network, 0, 256, 256)
    w = matrices(f)[1]
    deviation = {"default": 1 / math.sqrt(3 * 256), "kaiming": math.sqrt(2 / (1.04 * 256))}.get(initialisation, 1 / 16)
    assert w.std().item() == pytest.approx(deviation, rel=0.02)
    if initialisation == "orthogonal":
        assert torch.allclose(w @ w.T, torch.eye(256), atol=1e-5)
    biases = [layer.bias for layer in f.modules() if isinstance(layer, nn.Linear)]
    assert all(bool((bias == 0).all()) for bias in biases) == (initialisation != "default")


# -------------------------------------------------------------------------------------------- spectral normalisation


def test_spectral_normalisation_bounds_the_largest_singular_value() -> None:
    f, (x, c) = critic(spectral_norm=True), rows()
    for _ in range(50):
        f(x, c)
    f.eval()
    for w in matrices(f):
        assert torch.linalg.matrix_norm(w, 2).item() == pytest.approx(1, rel=1e-3)


def test_a_spectrally_normalised_critic_has_slopes_of_at_most_one() -> None:
    f = critic(spectral_norm=True, activation="relu", outputs=1)
    x, c = rows(200)
    for _ in range(50):
        f(x, c)
    (slope,) = torch.autograd.grad(f.eval()(x.requires_grad_(), c).sum(), x)
    assert slope.norm(dim=1).max() <= 1.001


def test_a_start_with_spectral_normalisation_is_fixed_by_the_seed() -> None:
    first, second = (critic(4, spectral_norm=True).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert any(name.endswith("_u") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_generating_does_not_change_an_averaged_generator() -> None:
    torch.manual_seed(1)
    generator = PerceptronGenerator(GeneratorNetwork(width=16, depth=2, latent=4, spectral_norm=True), 0, 2)
    averaged = deepcopy(generator).requires_grad_(False).eval()
    z, c = torch.randn(8, 4), torch.empty(8, 0)
    before = {name: value.clone() for name, value in averaged.state_dict().items()}
    assert torch.equal(averaged(z, c), averaged(z, c))
    assert all(torch.equal(value, before[name]) for name, value in averaged.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ dropout


def test_dropout_leaves_units_out_and_keeps_the_mean() -> None:
    layer = Dropout(0.25, 400)
    layer.draw(torch.rand(50, 400, generator=torch.Generator().manual_seed(1)))
    out = layer(torch.ones(50, 400))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out == 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(layer.eval()(torch.ones(50, 400)), torch.ones(50, 400))


def test_a_row_has_one_mask_in_all_passes_of_an_update() -> None:
    f, (x, c) = critic(dropout=0.5), rows()
    assert f.dropped == 3 * 16
    f.draw(torch.rand(8, f.dropped, generator=torch.Generator().manual_seed(1)))
    once = f(x, c)
    both = f(torch.cat([x, x]), torch.cat([c, c]))
    firsts = f(x[0::2], c[0::2])
    # To rounding: a matrix library may sum a row differently beside other rows.
    assert_close("both", both, torch.cat([once, once]), rtol=1e-13, atol=1e-14)
    assert_close("firsts", firsts, once[0::2], rtol=1e-13, atol=1e-14)
    assert not torch.equal(once, f.eval()(x, c))


def test_dropout_without_a_mask_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no dropout mask has been drawn"):
        critic(dropout=0.5)(*rows())


# ------------------------------------------------------------------------------------------------ minibatch deviation


def test_the_deviation_of_a_group_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 2.0], [5.0, 4.0]], dtype=torch.float64)
    out = GroupDeviation(2)(x)
    # Deviations (1, 0) and (0, 1): the mean over units is a half in both groups.
    assert torch.equal(out[:, :2], x)
    assert torch.allclose(out[:, 2], torch.full((4,), 0.5).double(), atol=1e-4)


def test_groups_do_not_meet() -> None:
    f, (x, c) = critic(minibatch_std=4), rows()
    moved = x.clone()
    moved[5] += 1
    changed = (f(moved, c) != f(x, c)).any(1)
    assert changed.tolist() == [False] * 4 + [True] * 4


def test_a_group_that_agrees_has_finite_gradients() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    GroupDeviation(4)(x)[:, 3].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
