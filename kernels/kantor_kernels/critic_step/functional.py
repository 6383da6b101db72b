"""One step of a perceptron critic in closed form: the documented public function."""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kantor_kernels import backends
from kantor_kernels.arguments import (
    check_choice,
    check_flags,
    check_generator,
    check_optional_tensors,
    check_tensors,
    finite_number,
    given,
)
from kantor_kernels.backends import InModule
from kantor_kernels.critic_step import reference, tiled
from kantor_kernels.critic_step.problem import (
    COMPARED,
    LOSSES,
    PENALTY,
    AdamState,
    Comparison,
    CriticStep,
    Descent,
    Loss,
    Perceptron,
    Rows,
    read,
)
from kantor_kernels.samples import check_shares

# Layers whose activations fit on a processor; wider ones are what matrix libraries are good at.
WIDEST = 256


class Layers(NamedTuple):
    """What is asked of a perceptron's step or of its values.

    `sizes` are those of the input and of each layer; `compared`: by a `Comparison`.
    """

    device: torch.device
    dtype: torch.dtype
    sizes: tuple[int, ...]
    straight: bool
    compared: bool = False

    @classmethod
    def of(cls, perceptron: Perceptron, *, compared: bool = False) -> Layers:
        first = perceptron.weights[0]
        sizes = perceptron.inputs, *(len(weight) for weight in perceptron.weights)
        return cls(first.device, first.dtype, sizes, perceptron.straight, compared)


_OWN_LOSSES = "it knows its own losses alone"


def _beyond_triton(problem: Layers) -> str | None:
    if problem.compared:
        return _OWN_LOSSES
    if len(problem.sizes) > 2 and max(problem.sizes) <= WIDEST and problem.dtype == torch.float32:
        return None
    return (
        f"it takes at least two layers of at most {WIDEST} units in float32, "
        f"got sizes {list(problem.sizes)} in {problem.dtype}"
    )


def _not_worth_compiling(problem: Layers) -> str | None:
    if problem.device.type != "cuda" or max(problem.sizes) <= WIDEST or problem.dtype != torch.float32:
        return f"compiling for tens of seconds is for layers of more than {WIDEST} units in float32 on CUDA devices"
    if torch.cuda.is_current_stream_capturing():
        return "nothing can be compiled while the caller records a graph"
    return None


def _bends(problem: Layers) -> str | None:
    return None if problem.straight else "it is for activations that are straight but for kinks"


OPERATION = backends.register(
    "critic_step",
    InModule("triton", "kantor_kernels.critic_step.triton", "triton", ("cuda",), _beyond_triton),
    InModule(
        "compiled",
        "kantor_kernels.critic_step.compiled",
        limits=lambda problem: _OWN_LOSSES if problem.compared else backends.why_not_compile(problem.device),
        unasked=_not_worth_compiling,
    ),
    InModule("cpu", "kantor_kernels.critic_step.cpu", "numba", ("cpu",)),
    InModule("torch", tiled),
    InModule("reference", reference),
)
FORWARD = backends.register(
    "mlp_forward",
    InModule("cpu", "kantor_kernels.critic_step.cpu", "numba", ("cpu",), _bends),
    InModule("reference", reference),
)

DESCENT = backends.register(
    "mlp_critic_descent",
    InModule("cpu", "kantor_kernels.critic_step.cpu_descent", "numba", ("cpu",), _bends),
    InModule("reference", reference),
)


def mlp_critic_step(
    critic: nn.Module | Perceptron,
    real: Tensor,
    fake: Tensor,
    *,
    conditions: Tensor | None = None,
    loss: str | Comparison = "wasserstein",
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    coefficients: Tensor | None = None,
    fake_coefficients: Tensor | None = None,
    penalty_coefficients: Tensor | None = None,
    backend: str = "auto",
) -> CriticStep:
    """The loss of a penalised perceptron critic and all its parameter gradients, without an autograd graph.

    loss = -distance + weight GP, GP = sum_p c_p (|g_p| - target)^2, g_p the gradient of f by x_hat, the conditions held
    fixed and not interpolated. With h the critic, and a, b, c the coefficients:

    - "wasserstein" (one output): distance = sum a h(real) - sum b h(fake), f = h.
    - "energy": rows 2k and 2k + 1 are pairs r1, r2 and g1, g2; distance = sum a (|h(r1) - h(g2)| + |h(r2) - h(g1)|
      - |h(g1) - h(g2)| - |h(r1) - h(r2)|), f(x) = |h(x) - h(g2)| - |h(x) - h(r2)| between r1 and g1.
    - "surrogate": f(x) = |h(x) - h(fake')| - |h(x)| with fake' the partner's generated row, distance = sum a f(real)
      - sum b f(fake).
    - a `Comparison`: its distance, and an f of its slope. Autograd differentiates the comparison by the embeddings,
      nothing goes through the layers.

    Sources: Gulrajani et al., arXiv:1704.00028, Algorithm 1; Bellemare et al., arXiv:1705.10743, Algorithm 1.

    Args:
        critic: an `nn.Sequential` of Linear layers with one kind of activation (LeakyReLU, ReLU, SiLU, Tanh, Softplus)
            between them, each once and without hooks, or a `Perceptron`. Its input is a row and, beside it, its
            conditions.
        real: (B, D); B even for "energy" and "surrogate".
        fake: (B, D), same dtype and device.
        conditions: (B, C), of both rows.
        loss: "wasserstein", "energy", "surrogate", or an object with the method of a `Comparison`.
        weight: of the penalty.
        target: the norm that costs nothing.
        one_sided: penalise only norms above the target.
        eps: (P,) or (P, 1) in [0, 1], x_hat = eps real + (1 - eps) fake; None draws it uniformly. P = B, or B / 2 for
            "energy".
        generator: draws eps.
        coefficients: a, (B,), or (B / 2,) for "energy"; None: equal ones that add up to one. They are used as they are:
            with globally normalised coefficients, ranks of a data-parallel run add up to the step of the joined batch.
        fake_coefficients: b of "wasserstein" and "surrogate"; None: as `coefficients`.
        penalty_coefficients: c, (P,); None: equal ones that add up to one.
        backend: "auto", "reference" (double backward), "torch", "compiled" (by PyTorch's compiler; on CUDA devices as a
            CUDA graph), "cpu", "triton" (at least two layers of at most 256 units, in float32). "auto" takes "cpu" on
            CPUs; on CUDA devices "triton" where it can, "compiled" for wider layers in float32, else "torch".

    Returns:
        A `CriticStep`; the gradients are new tensors.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: the critic is no such perceptron, shapes, dtypes or devices disagree, an empty batch, eps outside of
            [0, 1] (looked at on CPUs), a backend that is unknown or cannot run.
    """
    perceptron = _perceptron("critic", critic, "gradient_penalty takes any critic")
    compare = None if isinstance(loss, str) or not hasattr(loss, "compare") else loss
    kind = COMPARED if compare is not None else loss
    if compare is None:
        check_choice("loss", kind, LOSSES)
    elif coefficients is not None or fake_coefficients is not None:
        raise ValueError("a Comparison has its own coefficients: pass those of the penalty alone")
    assert isinstance(kind, str)
    check_flags(one_sided=one_sided)
    what = Loss(kind, finite_number("weight", weight), finite_number("target", target), one_sided, compare)
    rows = _rows(real, fake, conditions, kind, eps, generator, coefficients, fake_coefficients, penalty_coefficients)
    _check(perceptron, rows, kind)
    chosen, _ = backends.choose(OPERATION, backend, Layers.of(perceptron, compared=compare is not None))
    return chosen.run("critic_step", perceptron, rows, what)


def mlp_critic_descent(
    critic: nn.Module | Perceptron,
    real: Tensor,
    fake: Tensor,
    adam: AdamState,
    *,
    eps: Tensor,
    coefficients: Tensor,
    penalty_coefficients: Tensor,
    fake_coefficients: Tensor | None = None,
    conditions: Tensor | None = None,
    loss: str = "wasserstein",
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    backend: str = "auto",
) -> Descent:
    """Several updates of a penalised perceptron critic by Adam, each on rows of its own, in one call.

    Update u is `mlp_critic_step` of row u of every argument, and Adam (Kingma and Ba, arXiv:1412.6980, Algorithm 1) by
    its gradients. Parameters and moments are changed in place. Before an update whose loss or gradient is not finite it
    stops, and nothing of that update is done.

    Args:
        critic: as of `mlp_critic_step`.
        real: (U, B, D); B even for "energy" and "surrogate".
        fake: (U, B, D), same dtype and device.
        adam: moments, steps done, learning rate.
        eps: (U, P) in [0, 1], P = B, or B / 2 for "energy".
        coefficients: a, (U, P).
        penalty_coefficients: c, (U, P).
        fake_coefficients: b, (U, P); None: as `coefficients`.
        conditions: (U, B, C), of both rows.
        loss: "wasserstein", "energy" or "surrogate".
        weight, target, one_sided: as of `mlp_critic_step`.
        backend: "auto", "cpu" (ReLU and LeakyReLU) or "reference" (double backward). "auto" takes "cpu" where it can.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: as `mlp_critic_step`, or moments that are not like the parameters.
    """
    perceptron = _perceptron("critic", critic, "use a torch.optim.Adam for any other")
    check_tensors(real=real, fake=fake, eps=eps, coefficients=coefficients, penalty_coefficients=penalty_coefficients)
    check_optional_tensors(fake_coefficients=fake_coefficients, conditions=conditions)
    check_choice("loss", loss, LOSSES)
    check_flags(one_sided=one_sided)
    b = coefficients if fake_coefficients is None else fake_coefficients
    rows = Rows(real, fake, conditions, eps, coefficients, b, penalty_coefficients)
    if real.ndim != 3 or fake.ndim != 3 or any(part is not None and len(part) != len(real) for part in rows):
        raise ValueError("real and fake must be (U, B, D), and all rows of as many updates")
    check_shares("eps", eps)
    # The rest of one update, as of all.
    one = rows.each(itemgetter(0))
    _check(perceptron, _rows(*one[:3], loss, one.eps, None, one.coefficients, None, one.penalty_coefficients), loss)
    if b.shape != coefficients.shape:
        raise ValueError(f"fake_coefficients must be {tuple(coefficients.shape)}, got {tuple(b.shape)}")
    for moments in (adam.means, adam.squares):
        if [(m.shape, m.dtype) for m in moments] != [(p.shape, p.dtype) for p in perceptron.parameters()]:
            raise ValueError("the moments are not like the parameters, in their order")
    chosen, _ = backends.choose(DESCENT, backend, Layers.of(perceptron))
    what = Loss(loss, finite_number("weight", weight), finite_number("target", target), one_sided)
    return chosen.run("descend", perceptron, rows.each(torch.detach), what, adam)


def why_not_descend_at_once(perceptron: Perceptron) -> str | None:
    """Why `mlp_critic_descent` is not compiled for a perceptron; None where it is."""
    return None if "cpu" in backends.possible(DESCENT, Layers.of(perceptron)) else "it is compiled for CPUs alone"


def penalty_alone(
    perceptron: Perceptron,
    real: Tensor,
    fake: Tensor,
    eps: Tensor,
    coefficient_B: Tensor,
    target: float,
    one_sided: bool,
    backend: str = "auto",
) -> CriticStep:
    """The penalty of a perceptron with one output, and its gradients: a step without distance, arguments as checked.

    Args:
        real, fake: (B, D), all inputs of the perceptron.
        eps: (B, ...), one number a row.
        coefficient_B: of the rows, as they are.
        target, one_sided: as of `mlp_critic_step`.
        backend: of `mlp_critic_step`, but for the reference, which is that of `gradient_penalty`.
    """
    eps_B = eps.detach().flatten()
    rows = Rows(real.detach(), fake.detach(), None, eps_B, coefficient_B, coefficient_B, coefficient_B)
    chosen, _ = backends.choose(OPERATION, backend, Layers.of(perceptron))
    return chosen.run("critic_step", perceptron, rows, Loss(PENALTY, 1.0, target, one_sided))


@torch.no_grad()
def mlp_forward(network: nn.Module | Perceptron, x: Tensor, *, backend: str = "auto") -> Tensor:
    """What a perceptron gives, without an autograd graph.

    Args:
        network: as the critic of `mlp_critic_step`.
        x: (N, I), same dtype and device.
        backend: "auto", "reference" (PyTorch's layers), "cpu" (ReLU and LeakyReLU). "auto" takes "cpu" where it can.

    Returns:
        (N, O). With "cpu", a row's values do not depend on the rows beside it.

    Raises:
        TypeError: x is no tensor.
        ValueError: the network is no such perceptron, x does not fit it, or the backend cannot run.
    """
    perceptron = _perceptron("network", network, "call it under torch.no_grad() instead")
    check_tensors(x=x)
    first = perceptron.weights[0]
    if x.ndim != 2 or x.shape[1] != perceptron.inputs or x.dtype != first.dtype or x.device != first.device:
        raise ValueError(
            f"x must be (N, {perceptron.inputs}) in {first.dtype} on {first.device}, "
            f"got {tuple(x.shape)} in {x.dtype} on {x.device}"
        )
    chosen, _ = backends.choose(FORWARD, backend, Layers.of(perceptron))
    return chosen.run("values", perceptron, x)


def _perceptron(name: str, network: object, cure: str) -> Perceptron:
    if isinstance(network, Perceptron):
        return network
    if not isinstance(network, nn.Module):
        raise TypeError(f"{name} must be an nn.Sequential or a Perceptron, got {given(network)}")
    found = read(network)
    if isinstance(found, str):
        raise ValueError(f"{name} must be a perceptron, got a {type(network).__name__}: {found}; {cure}")
    return found


def _rows(
    real: Tensor,
    fake: Tensor,
    conditions: Tensor | None,
    loss: str,
    eps: Tensor | None,
    generator: torch.Generator | None,
    coefficients: Tensor | None,
    fake_coefficients: Tensor | None,
    penalty_coefficients: Tensor | None,
) -> Rows:
    check_tensors(real=real, fake=fake)
    check_optional_tensors(
        conditions=conditions,
        eps=eps,
        coefficients=coefficients,
        fake_coefficients=fake_coefficients,
        penalty_coefficients=penalty_coefficients,
    )
    check_generator(generator)
    if real.ndim != 2 or real.shape != fake.shape or len(real) == 0:
        raise ValueError(f"real and fake must be (B, D), not empty, got {tuple(real.shape)} and {tuple(fake.shape)}")
    if loss in ("energy", "surrogate") and len(real) % 2:
        raise ValueError(f"the rows of the {loss} loss come in pairs, got {len(real)}")
    if loss == "energy" and fake_coefficients is not None:
        raise ValueError("the energy loss has one coefficient for each pair: pass `coefficients` alone")
    points = len(real) // 2 if loss == "energy" else len(real)
    if eps is None:
        device = real.device if generator is None else generator.device
        eps = torch.rand(points, generator=generator, device=device, dtype=torch.float32).to(real.device, real.dtype)
    elif eps.shape not in ((points,), (points, 1)):
        raise ValueError(f"eps must be ({points},) or ({points}, 1), got {tuple(eps.shape)}")
    else:
        check_shares("eps", eps)
    equal = real.new_full((points,), 1 / points) if coefficients is None or penalty_coefficients is None else real
    a = equal if coefficients is None else coefficients.detach()
    b = a if fake_coefficients is None else fake_coefficients.detach()
    c = equal if penalty_coefficients is None else penalty_coefficients.detach()
    for name, value in (("coefficients", a), ("fake_coefficients", b), ("penalty_coefficients", c)):
        if value.shape != (points,):
            raise ValueError(f"{name} must be ({points},), got {tuple(value.shape)}")
    conditions = None if conditions is None else conditions.detach()
    return Rows(real.detach(), fake.detach(), conditions, eps.detach().flatten(), a, b, c)


def _check(perceptron: Perceptron, rows: Rows, loss: str) -> None:
    inputs = rows.real.shape[1]
    if rows.conditions is not None:
        if rows.conditions.ndim != 2 or len(rows.conditions) != len(rows.real):
            raise ValueError(f"conditions must be ({len(rows.real)}, C), got {tuple(rows.conditions.shape)}")
        inputs += rows.conditions.shape[1]
    if inputs != perceptron.inputs:
        raise ValueError(f"the critic takes {perceptron.inputs} inputs, a row and its conditions have {inputs}")
    if loss == "wasserstein" and perceptron.outputs != 1:
        raise ValueError(f"a Wasserstein critic has one output, got {perceptron.outputs}")
    dtype, device = perceptron.weights[0].dtype, perceptron.weights[0].device
    for name, value in zip(Rows._fields, rows, strict=True):
        if value is not None and (value.dtype != dtype or value.device != device):
            raise ValueError(f"{name} is {value.dtype} on {value.device}, the critic {dtype} on {device}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the closed form is for float32 and float64, got {dtype}")
