"""Derivatives of registered operators, also under PyTorch's function transforms and in forward mode, and at once.

`torch.library` registers a reverse rule alone: under `torch.func.grad` it fails, and in forward mode the derivative is
zero without a word. While a transform is active, an operator is therefore called through an `autograd.Function` with
the same reverse rule, a forward rule and a rule for `vmap`, which are made of such operators again.

A call through `torch.library` costs 0.1 to 0.3 ms of dispatch, as much as the sums of a hundred rows. Where nobody
looks into it, neither a compiler nor a mode of dispatch nor a tensor's own class, the function is called through an
`autograd.Function` with the same reverse rule.

Source: https://docs.pytorch.org/docs/stable/notes/extending.func.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def active() -> bool:
    """Whether a transform of `torch.func` or a level of forward mode is active."""
    if torch.compiler.is_compiling():
        level = torch._C._functorch.maybe_current_level()  # pyright: ignore[reportAttributeAccessIssue]
        if level is not None or forward_ad._current_level >= 0:
            # The compiler would take the operators as they are: the transform has to run uncompiled.
            torch._dynamo.graph_break()
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def traced() -> bool:
    """Whether the call is compiled, or inside of a transform: both look into it, and give no values."""
    return torch.compiler.is_compiling() or active()


def with_derivatives(
    operator: Any,
    context: Callable[[Any, tuple[Any, ...], Any], Sequence[Tensor | None]],
    reverse: Callable[..., Any],
    forward: Callable[..., Any],
    *,
    shared: Sequence[int] = (),
) -> Callable[..., Any]:
    """Register an operator's derivatives; gives the function to call it by.

    Args:
        operator: of `torch.library.custom_op`, all of whose tensors begin with one batch dimension.
        context: context(ctx, inputs, output) sets attributes of ctx and returns what is to be saved.
        reverse: reverse(ctx, *cotangents), as of `register_autograd`.
        forward: forward(ctx, saved, *tangents) with what was saved, and a tangent or None for each input: the tangents
            of the outputs.
        shared: places of tensors without a batch dimension, which `vmap` cannot map over.
    """

    def save_for_reverse(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*context(ctx, inputs, output))

    def compute_and_save(ctx: Any, *inputs: Any) -> Any:
        # In one function: a `setup_context` has its arguments bound by name at every call, which takes 0.1 ms.
        output = operator._init_fn(*inputs)
        save_for_reverse(ctx, inputs, output)
        return output

    def save_for_both(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        saved = context(ctx, inputs, output)
        ctx.set_materialize_grads(False)  # no tangent, instead of one of zeros
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    def forward_of_outer_levels(ctx: Any, *tangents: Any) -> Any:
        # PyTorch switches forward mode off here, which would leave out the derivatives of outer levels; switched on
        # again, those of this level have to be taken off, which are what is computed.
        saved = [None if value is None else forward_ad.unpack_dual(value).primal for value in ctx.saved_tensors]
        with forward_ad._set_fwd_grad_enabled(True):
            return forward(ctx, saved, *tangents)

    def mapped(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        if any(in_dims[place] is not None for place in shared):
            raise NotImplementedError(f"{operator._qualname} cannot be mapped over what its whole batch shares")
        joined = [
            _joined(value, dim, info.batch_size) if isinstance(value, Tensor) and place not in shared else value
            for place, (value, dim) in enumerate(zip(inputs, in_dims, strict=True))
        ]
        return _parted(call(*joined), info.batch_size, len(joined[0]))

    parts = {
        "forward": operator,
        "setup_context": save_for_both,
        "backward": reverse,
        "jvp": forward_of_outer_levels,
        "vmap": mapped,
    }
    rule = _rule(operator._name, **parts)
    eager = _rule(operator._name, forward=compute_and_save, backward=reverse)

    def call(*inputs: Any) -> Any:
        if active():
            return rule.apply(*inputs)
        return eager.apply(*inputs) if _plain(inputs) else operator(*inputs)

    operator.register_autograd(reverse, setup_context=save_for_reverse)
    return call


def _rule(name: str, **parts: Callable[..., Any]) -> Any:
    return type(name, (torch.autograd.Function,), {key: staticmethod(part) for key, part in parts.items()})


def _plain(inputs: Sequence[object]) -> bool:
    """Whether a call is what it looks like: nobody records it, and its tensors are nothing but tensors."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack():
        return False
    return all(type(value) in _TENSORS for value in inputs if isinstance(value, Tensor))


_TENSORS = (Tensor, torch.nn.Parameter)


def constant(value: Tensor, message: str, *of: Tensor | None) -> Tensor:
    """The value, which depends on these tensors in a way whose derivative is not known: asking for it is an error.

    Args:
        message: of the NotImplementedError.
    """
    result = _Constant.apply(value, message, *of)
    assert isinstance(result, Tensor)
    return result


class _Constant(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, message: str, *of: Tensor | None) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.message = inputs[1]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise NotImplementedError(ctx.message)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(ctx.message)


def _joined(value: Tensor, dim: int | None, size: int) -> Tensor:
    """(B, ...), mapped over at `dim` or not at all, as (V B, ...)."""
    mapped = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _parted(outputs: Any, size: int, joined: int) -> Any:
    """The outputs as (V, B, ...) with their mapped dimensions; those without rows are placeholders."""
    if isinstance(outputs, Tensor):
        return outputs.unflatten(0, (size, joined // size)), 0
    whole = [output.shape[:1] == (joined,) for output in outputs]
    parted = tuple(
        output.unflatten(0, (size, joined // size)) if mapped else output
        for output, mapped in zip(outputs, whole, strict=True)
    )
    return parted, tuple(0 if mapped else None for mapped in whole)
