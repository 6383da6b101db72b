"""What is measured: operations at the shapes that matter, with contenders and with the check that must pass first."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kantor_kernels import backends
from kantor_kernels.benchmark import critics, opponents
from kantor_kernels.critic_step import Perceptron, mlp_critic_step
from kantor_kernels.critic_step.functional import Layers
from kantor_kernels.gradient_penalty import explain_penalty, gradient_penalty
from kantor_kernels.pairwise import Energy, Gaussian, Kernel, Laplacian, mmd
from kantor_kernels.pairwise import reference as pairwise_reference
from kantor_kernels.pairwise.functional import Pairs
from kantor_kernels.sliced import sliced_energy_distance
from kantor_kernels.sliced.functional import Directions
from kantor_kernels.testing import assert_close

Result = tuple[Tensor, ...]
# Rows of the small problem on which values are compared with the definition.
SMALL = 257
# Above this many pairs the float64 value at the full shape is not computed; slopes of some rows always are.
CHECKED_PAIRS = 3e8
# An opponent only has to compute the same thing: of how well it does so, nothing is claimed.
LOOSE = 2e-2
# More than float32 loses of a pre-activation of order 1 in four layers: kinks must be further away.
KINK = 1e-5


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Attributes:
        name: a backend of this library, or the opponent.
        ours: whether it is of this library.
        call: computes the case once: the value, then its derivatives.
        small: the same on the first few rows, None for an opponent.
        needs: bytes beyond the arguments, roughly, where that may be too many.
        missing: why it cannot run here; empty where it can.
    """

    name: str
    ours: bool
    call: Callable[[], Result]
    small: Callable[[], Result] | None = None
    needs: int = 0
    missing: str = ""


@dataclass(frozen=True)
class Case(ABC):
    """One computation at one shape."""

    size: int

    op = ""
    mode = "value + gradient"
    dtype = "float32"

    @property
    @abstractmethod
    def case(self) -> str:
        """What is computed."""

    @property
    @abstractmethod
    def shape(self) -> str:
        """All sizes."""

    @property
    def operations(self) -> float | None:
        """Fused multiply-adds in float32 that the operation cannot do without; None where others bound it."""
        return None

    @abstractmethod
    def contenders(self, device: torch.device) -> list[Contender]:
        """Everything that computes the case, with its inputs on the device."""

    @abstractmethod
    def check(self, contender: Contender, device: torch.device) -> None:
        """Compare a contender with the float64 definition.

        Raises:
            AssertionError: it is wrong.
        """


@dataclass(frozen=True)
class PairwiseCase(Case):
    """Squared MMD of two samples of `size` rows, and its gradient by the first one."""

    d: int
    kernel: Kernel
    every_backend: bool = True
    torch_compile: bool = False

    op = "pairwise"

    @property
    def case(self) -> str:
        name = "energy distance" if isinstance(self.kernel, Energy) else f"{type(self.kernel).__name__} MMD"
        return f"{name}, D = {self.d}"

    @property
    def shape(self) -> str:
        return f"N = M = {self.size}, D = {self.d}"

    @property
    def operations(self) -> float | None:
        # 3 D + 3 a pair with slopes, x with y and with itself; 2 D + 2 without, y with itself, each pair once.
        return None if self.d == 1 else self.size**2 * (2 * (3 * self.d + 3) + (self.d + 1))

    def samples(self, device: torch.device) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x_ND, y_ND = (torch.randn(self.size, self.d, generator=generator) for _ in range(2))
        return x_ND.to(device).requires_grad_(), (y_ND + 0.1).to(device)

    def contenders(self, device: torch.device) -> list[Contender]:
        x_ND, y_ND = self.samples(device)
        few_ND = x_ND.detach()[:SMALL].requires_grad_()

        def ours(backend: str) -> Contender:
            def value(x: Tensor, y: Tensor) -> Tensor:
                return mmd(x, y, kernel=self.kernel, backend=backend)

            return Contender(
                backend, True, lambda: _with_slope(value, x_ND, y_ND), lambda: _with_slope(value, few_ND, y_ND[:SMALL])
            )

        names = backends.possible(self.op, Pairs(device, x_ND.dtype, self.d, self.kernel.radial))
        found = [ours(name) for name in (names if self.every_backend else names[:1])]
        if self.d == 1:
            axis = torch.ones(1, 1, device=device)
            found.append(
                Contender(
                    "sort", False, lambda: _with_slope(lambda x, y: opponents.eager_sliced(x, y, axis), x_ND, y_ND)
                )
            )
            return found

        def eager(x: Tensor, y: Tensor) -> Tensor:
            return opponents.eager_mmd(x, y, self.kernel)

        needs = 4 * 4 * self.size**2
        found.append(Contender("torch.cdist", False, lambda: _with_slope(eager, x_ND, y_ND), needs=needs))
        if self.torch_compile:
            missing = backends.why_not_compile(device) or ""
            maybe_compiled = eager if missing else torch.compile(eager, dynamic=False)
            found.append(
                Contender(
                    "torch.compile",
                    False,
                    lambda: _with_slope(maybe_compiled, x_ND, y_ND),
                    needs=needs,
                    missing=missing,
                )
            )
        loss, missing = opponents.geomloss_mmd(self.kernel)
        call = (lambda: _with_slope(loss, x_ND, y_ND)) if loss is not None else tuple
        found.append(Contender("geomloss, KeOps", False, call, missing=missing))
        return found

    def check(self, contender: Contender, device: torch.device) -> None:
        x_ND, y_ND = (t.detach() for t in self.samples(device))
        value, slope_ND = contender.call()
        rows = torch.arange(0, self.size, max(1, self.size // self._checked_rows()), device=device)
        exact_RD, scale = self._slopes(x_ND.double(), y_ND.double(), rows)
        if not contender.ours:
            assert_close("gradient", slope_ND[rows], exact_RD, atol=LOOSE * float(exact_RD.abs().max()))
            return
        plain_RD, _ = self._slopes(x_ND, y_ND, rows)
        assert_close("gradient", slope_ND[rows], exact_RD, baseline=plain_RD, atol=1e-6 * scale)
        if self.d == 1 or self.size**2 <= CHECKED_PAIRS:
            double = mmd(x_ND.double(), y_ND.double(), kernel=self.kernel, backend="torch")
            assert_close("value", value, double, rtol=1e-6, atol=1e-6)
        assert contender.small is not None
        small = contender.small()
        few = x_ND[:SMALL], y_ND[:SMALL]
        exact, plain = (
            _with_slope(
                lambda x, y: pairwise_reference.mmd(x, y, None, None, self.kernel, "v"),
                few[0].to(t).requires_grad_(),
                few[1].to(t),
            )
            for t in (torch.float64, torch.float32)
        )
        _compare(small, exact, plain)

    def _checked_rows(self) -> int:
        return max(2, min(32, int(1e7 / (self.size * self.d))))

    def _slopes(self, x_ND: Tensor, y_ND: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        """The gradient by some rows of x, by the definition, and the size of the terms whose difference it is."""
        row_RD = x_ND[rows].clone().requires_grad_()
        within_RD, across_RD = (
            torch.autograd.grad(
                pairwise_reference.kernel_potential(row_RD, other, None, self.kernel, True, False).sum(), row_RD
            )[0]
            * (2 / self.size)
            for other in (x_ND, y_ND)
        )
        return within_RD - across_RD, float(within_RD.abs().max())


@dataclass(frozen=True)
class SlicedCase(Case):
    """The sliced energy distance of two samples of `size` rows, and its gradient by the first one."""

    d: int = 8
    directions: int = 64

    op = "sliced"

    @property
    def case(self) -> str:
        return f"sliced energy distance, D = {self.d}, {self.directions} directions"

    @property
    def shape(self) -> str:
        return f"N = M = {self.size}, D = {self.d}, P = {self.directions}"

    def _ours(self, x_ND: Tensor, y_ND: Tensor, directions: int, backend: str) -> Result:
        def value(x: Tensor, y: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(1)
            return sliced_energy_distance(
                x, y, n_slices=directions, orthogonal=True, generator=generator, backend=backend
            )

        return _with_slope(value, x_ND, y_ND)

    def contenders(self, device: torch.device) -> list[Contender]:
        x_ND, y_ND = PairwiseCase(self.size, self.d, Energy()).samples(device)
        few_ND = x_ND.detach()[:SMALL].requires_grad_()

        def ours(backend: str) -> Contender:
            return Contender(
                backend,
                True,
                lambda: self._ours(x_ND, y_ND, self.directions, backend),
                lambda: self._ours(few_ND, y_ND[:SMALL], self.directions, backend),
            )

        direction_PD = nn.functional.normalize(
            torch.randn(self.directions, self.d, generator=torch.Generator().manual_seed(1)), dim=1
        ).to(device)
        found = [ours(name) for name in backends.possible(self.op, Directions(device))]

        def eager(x: Tensor, y: Tensor) -> Tensor:
            return opponents.eager_sliced(x, y, direction_PD)

        # Autograd keeps the sorted projections of every direction.
        needs = self.directions * 2 * self.size * 24
        found.append(Contender("sort", False, lambda: _with_slope(eager, x_ND, y_ND), needs=needs))
        return found

    def check(self, contender: Contender, device: torch.device) -> None:
        if contender.small is None:
            # Other directions, another estimate: the same function is compared with the definition for D = 1.
            return
        x_ND, y_ND = (t.detach() for t in PairwiseCase(self.size, self.d, Energy()).samples(device))
        exact, plain = (
            self._ours(x_ND[:SMALL].to(t).requires_grad_(), y_ND[:SMALL].to(t), self.directions, "reference")
            for t in (torch.float64, torch.float32)
        )
        _compare(contender.small(), exact, plain)
        whole = self._ours(x_ND.requires_grad_(), y_ND, 2, contender.name)
        double = self._ours(x_ND.detach().double().requires_grad_(), y_ND.double(), 2, "torch")
        assert_close("value of two directions", whole[0], double[0], rtol=1e-5, atol=1e-7)


@dataclass(frozen=True)
class PenaltyCase(Case):
    """The gradient penalty of a batch of `size`, and its gradient by the critic's parameters."""

    critic: str = "8-128x4-1, leaky ReLU"

    op = "gradient_penalty"

    @property
    def case(self) -> str:
        return f"gradient penalty, critic {self.critic}"

    @property
    def shape(self) -> str:
        return f"B = {self.size}"

    def _inputs(self, device: torch.device) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        critic, features = critics.made(self.critic, generator), critics.CRITICS[self.critic][0]

        def draw(size: int) -> tuple[Tensor, Tensor, Tensor]:
            real, fake = (torch.randn(size, features, generator=generator) for _ in range(2))
            return real, fake, torch.rand(size, 1, generator=generator)

        rows = draw(self.size)
        while bool((near_B := _near_a_kink(critic, *rows)).any()):
            for drawn, again in zip(rows, draw(int(near_B.sum())), strict=True):
                drawn[near_B] = again
        real, fake, eps = (drawn.to(device) for drawn in rows)
        return critic.to(device), real, fake, eps

    def contenders(self, device: torch.device) -> list[Contender]:
        critic, real, fake, eps = self._inputs(device)
        parameters = list(critic.parameters())

        def call(penalty: Callable[[], Tensor]) -> Result:
            value = penalty()
            # A bias may have no influence on the penalty at all.
            slopes = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
            return value.detach(), *slopes

        def ours() -> Tensor:
            return gradient_penalty(critic, real, fake, eps=eps)

        chosen = explain_penalty(critic, real).backend
        eager = Contender(
            "double backward", False, lambda: call(lambda: opponents.eager_penalty(critic, real, fake, eps))
        )
        return [Contender(chosen, True, lambda: call(ours), lambda: call(ours)), eager]

    def check(self, contender: Contender, device: torch.device) -> None:
        exact, plain = (self.definition(device, dtype) for dtype in (torch.float64, torch.float32))
        _compare(contender.call(), exact, plain, atol=1e-5 if contender.ours else LOOSE)

    def definition(self, device: torch.device, dtype: torch.dtype) -> Result:
        """The result by double backward in this dtype."""
        critic, real, fake, eps = self._inputs(device)
        critic, (real, fake, eps) = copy.deepcopy(critic).to(dtype), (each.to(dtype) for each in (real, fake, eps))
        value = gradient_penalty(critic, real, fake, eps=eps, backend="reference")
        parameters = list(critic.parameters())
        slopes = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return value.detach(), *slopes


@dataclass(frozen=True)
class CriticStepCase(PenaltyCase):
    """Loss of a Wasserstein critic with gradient penalty on a batch of `size`, and all its parameter gradients."""

    with_compiled: bool = False

    op = "critic_step"
    mode = "loss + gradients"

    @property
    def case(self) -> str:
        return "WGAN-GP critic step, critic 8-128x4-1"

    @property
    def shape(self) -> str:
        return f"B = {self.size}, leaky ReLU"

    def contenders(self, device: torch.device) -> list[Contender]:
        critic, real, fake, eps = self._inputs(device)
        parameters, perceptron = list(critic.parameters()), Perceptron.of(critic)
        assert perceptron is not None

        def ours(backend: str) -> Contender:
            def call() -> Result:
                step = mlp_critic_step(perceptron, real, fake, eps=eps, backend=backend)
                return step.loss, *step.gradients

            return Contender(backend, True, call, call)

        def eager() -> Result:
            loss = opponents.eager_critic_loss(critic, real, fake, eps)
            return loss.detach(), *torch.autograd.grad(loss, parameters)

        found = [ours(name) for name in backends.possible(self.op, Layers.of(perceptron))]
        if not self.with_compiled:
            found = [contender for contender in found if contender.name != "compiled"]
        return [*found, Contender("double backward", False, eager)]

    def definition(self, device: torch.device, dtype: torch.dtype) -> Result:
        critic, *rows = self._inputs(device)
        real, fake, eps = (each.to(dtype) for each in rows)
        step = mlp_critic_step(copy.deepcopy(critic).to(dtype), real, fake, eps=eps, backend="reference")
        return step.loss, *step.gradients


@torch.no_grad()
def _near_a_kink(critic: nn.Module, real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """(B,): whether rounding could put a row on the other side of a kink, where its gradient differs for good."""
    h = torch.cat([real, fake, eps * real + (1 - eps) * fake])
    near_B = torch.zeros(len(real), dtype=torch.bool)
    for layer in critic if isinstance(critic, nn.Sequential) else ():
        if isinstance(layer, nn.LeakyReLU):
            near_B |= (h.abs() < KINK).any(1).view(3, -1).any(0)
        h = layer(h)
    return near_B


def _with_slope(value: Callable[[Tensor, Tensor], Tensor], x_ND: Tensor, y_MD: Tensor) -> Result:
    found = value(x_ND, y_MD)
    return found.detach(), torch.autograd.grad(found, x_ND)[0]


def _compare(result: Result, exact: Result, plain: Result, atol: float = 2e-6) -> None:
    """The error may be twice that of the definition in the same dtype, plus atol times the largest number."""
    for index, (ours, double, single) in enumerate(zip(result, exact, plain, strict=True)):
        name = "value" if index == 0 else f"derivative {index}"
        assert_close(name, ours, double, baseline=single, atol=atol * max(1e-3, float(double.abs().max())))


CASES: tuple[Case, ...] = (
    *(PairwiseCase(n, 8, Energy(), torch_compile=True) for n in (1_000, 4_000, 16_000)),
    *(PairwiseCase(n, 64, Energy(), torch_compile=True) for n in (1_000, 4_000)),
    *(PairwiseCase(n, 256, Energy()) for n in (1_000, 4_000)),
    PairwiseCase(60_000, 4, Energy(), every_backend=False),
    *(PairwiseCase(n, 1, Energy()) for n in (10_000, 100_000, 1_000_000)),
    *(PairwiseCase(n, 8, Gaussian(8**0.5)) for n in (1_000, 4_000, 16_000)),
    *(PairwiseCase(n, 8, Laplacian(8**0.5)) for n in (1_000, 4_000, 16_000)),
    *(SlicedCase(n) for n in (10_000, 100_000, 1_000_000)),
    *(PenaltyCase(n, critic) for critic in critics.CRITICS for n in (64, 512, 4_096)),
    *(CriticStepCase(n, with_compiled=True) for n in (64, 512, 4_096)),
)
# The same code in seconds, to see that it runs: nothing is concluded from so short calls.
QUICK_CASES: tuple[Case, ...] = (
    *(PairwiseCase(n, 8, Energy()) for n in (300, 1_000)),
    *(PairwiseCase(n, 1, Energy()) for n in (1_000, 10_000)),
    PairwiseCase(1_000, 8, Gaussian(8**0.5)),
    *(SlicedCase(n, directions=16) for n in (1_000, 10_000)),
    *(PenaltyCase(64, critic) for critic in critics.CRITICS),
    *(CriticStepCase(n) for n in (64, 512)),
)
