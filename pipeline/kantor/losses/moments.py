"""Kernel distances over all pairs of a batch: moment matching without a critic, or on the embedding of one.

Shapes: B rows of this rank, N of all ranks, D critic features, O outputs of the critic.

    MMD^2 = sum a_i a_j k(x_i, x_j) + sum b_i b_j k(y_i, y_j) - 2 sum a_i b_j k(x_i, y_j),

each sum over i != j and divided by that of its weights: unbiased, and the energy distance for k = -d. The last sum has
no i = j either, since a generated event shares the conditions of the real one in its row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kantor import config
from kantor.losses.base import Batch, CriticLoss, Objective, bare
from kantor.losses.closed_form import Step, closed_form, perceptron_of
from kantor.losses.penalty import points, taken, with_penalty
from kantor.losses.reduction import check_total, gathered, of_generated, penalty_coefficients, world_size
from kantor_kernels import Energy, Gaussian, Kernel, Laplacian, RationalQuadratic, kernel_witness


class AllPairs(Objective):
    """L_G = MMD^2 of h(x) and h(x~);  L_C = -L_G + lambda GP.

    The penalty acts on the witness f(x) = E k(h(x), h(real)) - E k(h(x), h(generated)), the row whose neighbourhood
    x_hat lies in left out of both (Bellemare et al., arXiv:1705.10743, for k = -d, the energy critic; Binkowski et
    al., arXiv:1801.01401, eq. (3) and section 3.1, for others).
    """

    output_bias = False

    def __init__(self, kernel: Kernel, embedding: int, penalty: config.Penalty) -> None:
        self.kernel, self.outputs, self.penalty = kernel, embedding, penalty

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        compare = _Comparison(self.kernel, batch)
        c_B = penalty_coefficients(batch.weights, batch.eps[:, 0])
        where = points(self.penalty, batch.eps, c_B, of_generated(batch, c_B))
        perceptron = perceptron_of(critic)
        if perceptron is not None:
            return closed_form(critic, perceptron, batch, Step(compare, self.penalty, where, None))
        # One forward for both halves: data parallelism wants one pass through the wrapper and one backward.
        both = critic(torch.cat([batch.real, batch.fake]), torch.cat([batch.conditions] * 2))
        real_BO, fake_BO = both.chunk(2)

        distance, found = real_BO.new_zeros(()), []
        for each in where:
            # The slope of f is q . dh/dx with q = df/dh, so that only h has to be differentiated forwards.
            with torch.no_grad():
                x_BD = each.eps * batch.real + (1 - each.eps) * batch.fake
            distance, q_BO = compare.compare(real_BO, fake_BO, bare(critic)(x_BD, batch.conditions))

            def f(x_BD: Tensor, c_BC: Tensor, q_BO: Tensor = q_BO) -> Tensor:
                return (q_BO * bare(critic)(x_BD, c_BC)).sum(-1)

            found.append(taken(self.penalty, f, batch, slice(None), each))
        return with_penalty(self.penalty, batch, -distance, distance, found)

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        # Nothing flows back through the real rows.
        with torch.no_grad():
            real_BO = critic(batch.real, batch.conditions)
        return all_pairs(real_BO, critic(batch.fake, batch.conditions), batch, self.kernel)


@dataclass(frozen=True)
class _Comparison:
    """MMD^2 of the embeddings of a batch and the slope of its witness."""

    kernel: Kernel
    batch: Batch

    def compare(self, real_BO: Tensor, fake_BO: Tensor, between_BO: Tensor) -> tuple[Tensor, Tensor]:
        x_NO, y_NO = gathered(real_BO), gathered(fake_BO)
        weights = _joined_weights(self.batch)
        for w_N in weights:
            if w_N is not None:
                # The slope at a point is divided by the weights of all rows but its own.
                check_total(w_N.sum() - w_N, w_N.abs().sum())
        found = kernel_witness(x_NO, y_NO, *weights, at=between_BO, rows=len(real_BO), kernel=self.kernel)
        return world_size() * found.mmd, found.slope


class Matching(Objective):
    """L_G = MMD^2 of the events themselves, conditions beside the features; there is no critic.

    Generative moment matching (Li et al., arXiv:1502.02761, eq. (3)); with k = -d the energy distance.
    """

    outputs = 0
    output_bias = False

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def critic_loss(self, critic: nn.Module, batch: Batch) -> CriticLoss:
        raise NotImplementedError("there is no critic to train")

    def generator_loss(self, critic: nn.Module, batch: Batch) -> Tensor:
        real_BO, fake_BO = critic(batch.real, batch.conditions), critic(batch.fake, batch.conditions)
        return all_pairs(real_BO, fake_BO, batch, self.kernel)


def matching(settings: config.EnergyMatching | config.MmdMatching) -> AllPairs | Matching:
    kernel = Energy() if isinstance(settings, config.EnergyMatching) else make_kernel(settings)
    if settings.embedding is None:
        return Matching(kernel)
    return AllPairs(kernel, settings.embedding, settings.penalty)


def make_kernel(settings: config.Kernels) -> Kernel:
    match settings.kernel:
        case "gaussian":
            return Gaussian(settings.scales)
        case "laplacian":
            return Laplacian(settings.scales)
        case "rational_quadratic":
            return RationalQuadratic(settings.scales)


def all_pairs(real_BO: Tensor, fake_BO: Tensor, batch: Batch, kernel: Kernel) -> Tensor:
    """This rank's share of MMD^2 over all pairs of different rows of the joined batch.

    Each rank pairs its rows with those of all ranks, held constant: so every pair is met from both of its ends.
    """
    x_NO, y_NO = (_beside_others(rows) for rows in (real_BO, fake_BO))
    found = kernel_witness(x_NO, y_NO, *_joined_weights(batch), rows=len(real_BO), kernel=kernel)
    return world_size() * found.mmd


def pair_weights(batch: Batch) -> tuple[Tensor, Tensor]:
    """Weights of real and of generated rows, 1 where there are none."""
    ones_B = torch.ones_like(batch.eps[:, 0])
    a_B, b_B = (ones_B if found_B is None else found_B for found_B in (batch.weights, batch.generated_weights))
    return a_B, b_B


def _beside_others(rows: Tensor) -> Tensor:
    """This rank's rows and, held constant, those of the others."""
    if world_size() == 1:
        return rows
    return torch.cat([rows, gathered(rows.detach())[len(rows) :]])


def _joined_weights(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Weights of real and generated rows of all ranks, this one's first; None where all are equal.

    Raises:
        TrainingError: the weights of rows or of pairs add up to nothing.
    """
    if batch.weights is None and batch.generated_weights is None:
        return None, None
    a_N, b_N = (gathered(weights_B) for weights_B in pair_weights(batch))
    for w_N in (a_N, b_N):
        check_total(w_N.sum(), w_N.abs().sum())
    for u_N, w_N in ((a_N, a_N), (b_N, b_N), (a_N, b_N)):
        check_total(*_pair_totals(u_N, w_N))
    return a_N, b_N


def _pair_totals(u_N: Tensor, w_N: Tensor) -> tuple[Tensor, Tensor]:
    """sum_{i != j} u_i w_j, and the same of absolute weights."""
    total = u_N.sum() * w_N.sum() - (u_N * w_N).sum()
    u_N, w_N = u_N.abs(), w_N.abs()
    return total, u_N.sum() * w_N.sum() - (u_N * w_N).sum()
