"""How an op becomes ``torch.ops.fwp_rl.<op>``: schemas, kernels, shapes and gradient.

Registered by hand rather than by ``torch.library.custom_op``, which takes three times as long a
call; autograd, ``torch.compile`` and ``opcheck`` know the op all the same.
"""

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["register"]

Kernel = Callable[..., tuple[Tensor, ...]]

LIBRARY = torch.library.Library("fwp_rl", "FRAGMENT")

MODULES = {"CPU": "numba_cpu", "CUDA": "cuda"}


def register(package: str, *, inputs: str, outputs: str, saved: str, fake: Kernel) -> Kernel:
    """Register the op of a package, and its backward pass as ``<op>_backward``.

    package  ``__name__`` of the op's package; its last part names the op. The package's modules
             ``numba_cpu`` and ``cuda``, each imported at its first use, have

                 forward(*inputs) -> (*outputs, *saved)
                 backward(*inputs, *saved, *gradients of the outputs) -> gradients of the inputs

             one gradient for each tensor but ``reset``, contiguous, of its tensor's shape and
             dtype; for an optional tensor that is None, one of shape (0,)
    inputs   the schema, tensors first: "Tensor q, Tensor? beta, Tensor? reset, bool delta"
    outputs  what has a gradient: "y, state"
    saved    what the backward pass gets beside the inputs: "u"
    fake     forward without the work: ``(*outputs, *saved)`` of the right shapes and dtypes
    returns  the op without its saved outputs, which a table of backends wants
    """
    op = package.rpartition(".")[2]
    kinds, names = zip(*(argument.split() for argument in inputs.split(", ")), strict=True)
    tensors = [name for kind, name in zip(kinds, names, strict=True) if "Tensor" in kind]
    differentiable = [name for name in tensors if name != "reset"]
    results, kept = outputs.split(", "), saved.split(", ")

    LIBRARY.define(f"{op}({inputs}) -> ({_listed('out_', results)}, {_listed('', kept)})")
    LIBRARY.define(f"{op}_inference({inputs}) -> ({_listed('out_', results)})")
    LIBRARY.define(
        f"{op}_backward({inputs}, {_listed('', kept)}, {_listed('grad_', results)}) -> "
        f"({_listed('grad_of_', differentiable)})"
    )
    forward_op, inference_op, backward_op = (
        getattr(torch.ops.fwp_rl, op + suffix).default for suffix in ("", "_inference", "_backward")
    )

    def without_saved(forward: Kernel) -> Kernel:
        return lambda *arguments: forward(*arguments)[: len(results)]

    for key, module in MODULES.items():
        forward = _on_first_use(f"{package}.{module}", "forward")
        LIBRARY.impl(op, forward, key)
        LIBRARY.impl(f"{op}_inference", without_saved(forward), key)
        LIBRARY.impl(f"{op}_backward", _on_first_use(f"{package}.{module}", "backward"), key)
    LIBRARY.impl(f"{op}_inference", torch.library.fallthrough_kernel, "Autograd")

    def fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
        given = dict(zip(tensors, arguments, strict=False))
        nothing = arguments[0].new_empty((0,))
        return tuple(
            nothing.clone() if given[name] is None else given[name].new_empty(given[name].shape)
            for name in differentiable
        )

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[len(tensors) :]
        ctx.save_for_backward(*inputs[: len(tensors)], *output[len(results) :])
        ctx.mark_non_differentiable(*output[len(results) :])

    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if forward_ad._current_level >= 0:
            _refuse_transforms(op, gradients)
        stored = ctx.saved_tensors  # once: torch.utils.checkpoint recomputes them for one reading
        given, kept = stored[: len(tensors)], stored[len(tensors) :]
        wanted = backward_op(*given, *ctx.options, *kept, *gradients[: len(results)])
        gradient = dict(zip(differentiable, wanted, strict=True))
        missing = {name for name, x in zip(tensors, given, strict=True) if x is None}
        return tuple(None if name in missing else gradient.get(name) for name in names)

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(
            f"{op}: the fused kernels have no gradient of a gradient, expected one gradient only; "
            'take backend="reference" for more'
        )

    torch.library.register_fake(f"fwp_rl::{op}", fake, lib=LIBRARY)
    torch.library.register_fake(f"fwp_rl::{op}_inference", without_saved(fake), lib=LIBRARY)
    torch.library.register_fake(f"fwp_rl::{op}_backward", fake_backward, lib=LIBRARY)
    torch.library.register_autograd(f"fwp_rl::{op}", backward, setup_context=save, lib=LIBRARY)
    torch.library.register_autograd(f"fwp_rl::{op}_backward", refuse, lib=LIBRARY)

    def fused(*arguments: Any) -> tuple[Tensor, ...]:
        if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
            _refuse_transforms(op, arguments)
        if torch.is_grad_enabled():
            return tuple(forward_op(*arguments)[: len(results)])
        return tuple(inference_op(*arguments))

    return fused


def _refuse_transforms(op: str, arguments: Iterable[Any]) -> None:
    """Raise where a derivative is asked for that the fused kernels do not have.

    torch would leave out a tangent without a word where no argument requires a gradient: the
    derivative would be zero.
    """
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        what = "forward-mode derivatives (torch.func.jvp, jacfwd, torch.autograd.forward_ad)"
    elif torch._C._are_functorch_transforms_active() and any(x.requires_grad for x in tensors):
        what = "gradients inside of torch.func (grad, vjp, jacrev)"
    else:
        return  # vmap alone, say
    raise NotImplementedError(
        f"{op}: the fused kernels have no {what}, expected torch.autograd.grad or backward(); "
        'take backend="reference" for these'
    )


def _listed(prefix: str, names: Iterable[str]) -> str:
    return ", ".join(f"Tensor {prefix}{name}" for name in names)


def _on_first_use(module: str, function: str) -> Kernel:
    @cache
    def load() -> Kernel:
        return getattr(import_module(module), function)  # type: ignore[no-any-return]

    return lambda *arguments: load()(*arguments)
