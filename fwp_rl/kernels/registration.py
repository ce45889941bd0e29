"""How an op becomes ``torch.ops.fwp_rl.<op>``: schemas, kernels, shapes and gradient.

Registered by hand rather than by ``torch.library.custom_op``, which takes three times as long a
call; autograd, ``torch.compile`` and ``opcheck`` know the op all the same.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["Kernel", "register"]

Kernel = Callable[..., tuple[Tensor, ...]]

LIBRARY = torch.library.Library("fwp_rl", "FRAGMENT")

MODULES = {"CPU": "numba_cpu", "CUDA": "cuda"}


def register(
    package: str,
    *,
    tensors: Mapping[str, bool],
    options: Collection[str],
    outputs: Collection[str],
    saved: Collection[str],
    results: Callable[[Sequence[Any]], tuple[Tensor, ...]],
    gradients: Callable[[Sequence[Any]], tuple[Tensor, ...]],
) -> Kernel:
    """Register the op of a package; see ``Op``, which calls this, for what the package has.

    tensors    name → whether it may be None; all but "reset" have a gradient
    options    names of the strings that follow the tensors
    outputs    what has a gradient
    saved      what the backward pass gets beside the inputs
    results    inputs → the outputs and what is saved, yet to be filled
    gradients  inputs → the gradients of the tensors but "reset", yet to be filled
    returns    the op without its saved outputs, which a table of backends wants

    Three schemas: ``<op>`` returns what is saved too, for autograd keeps for the backward pass what
    an op returns. ``<op>_inference`` returns the outputs alone and passes autograd by, which takes
    longer than the arithmetic of an acting step. ``<op>_backward`` is an op too: torch.compile does
    not look into an op, and would stumble over the kernel. The gradient horizon is an argument of
    the first and the last; what was exported before there was one goes without.
    """
    op = package.rpartition(".")[2]
    differentiable = [n for n, name in enumerate(tensors) if name != "reset"]
    names, count = list(tensors), len(tensors)

    def listed(names: Iterable[str], prefix: str = "") -> list[str]:
        return [f"Tensor {prefix}{name}" for name in names]

    inputs = ", ".join(
        [f"Tensor{'?' * optional} {name}" for name, optional in tensors.items()]
        + [f"str {name}" for name in options]
    )
    made, kept = listed(outputs, "out_"), listed(saved)
    cotangents = listed(outputs, "grad_")
    wanted = listed((names[n] for n in differentiable), "grad_of_")
    LIBRARY.define(f"{op}({inputs}, int horizon=0) -> ({', '.join(made + kept)})")
    LIBRARY.define(f"{op}_inference({inputs}) -> ({', '.join(made)})")
    LIBRARY.define(
        f"{op}_backward({inputs}, int horizon, {', '.join(kept + cotangents)})"
        f" -> ({', '.join(wanted)})"
    )
    forward_op, inference_op, backward_op = (
        getattr(torch.ops.fwp_rl, op + suffix).default for suffix in ("", "_inference", "_backward")
    )

    end_of_inputs = count + len(options)
    end_of_saved = end_of_inputs + 1 + len(saved)

    def without_saved(forward: Kernel) -> Kernel:
        return lambda *arguments: forward(*arguments)[: len(outputs)]

    def implement(key: str, name: str) -> None:
        module = cache(lambda: import_module(f"{package}.{name}"))

        def forward(*arguments: Any) -> tuple[Tensor, ...]:
            made = results(arguments)
            module().forward(arguments[:end_of_inputs], made)
            return made

        def backward(*arguments: Any) -> tuple[Tensor, ...]:
            made, horizon = gradients(arguments), arguments[end_of_inputs]
            module().backward(
                arguments[:end_of_inputs],
                arguments[end_of_inputs + 1 : end_of_saved],
                arguments[end_of_saved:],
                made,
                horizon if horizon < len(arguments[0]) else 0,
            )
            return made

        LIBRARY.impl(op, forward, key)
        LIBRARY.impl(f"{op}_inference", without_saved(forward), key)
        LIBRARY.impl(f"{op}_backward", backward, key)

    for key, name in MODULES.items():
        implement(key, name)
    LIBRARY.impl(f"{op}_inference", torch.library.fallthrough_kernel, "Autograd")

    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        return results(arguments)

    def fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
        return gradients(arguments)

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[count:]  # and the horizon
        ctx.save_for_backward(*inputs[:count], *output[len(outputs) :])
        ctx.mark_non_differentiable(*output[len(outputs) :])

    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if forward_ad._current_level >= 0:
            _refuse_transforms(op, cotangents)
        stored = ctx.saved_tensors  # once: torch.utils.checkpoint recomputes them for one reading
        given, kept = stored[:count], stored[count:]
        found = backward_op(*given, *ctx.options, *kept, *cotangents[: len(outputs)])
        of_inputs: list[Tensor | None] = [None] * (end_of_inputs + 1)
        for n, gradient in zip(differentiable, found, strict=True):
            if given[n] is not None:
                of_inputs[n] = gradient
        return tuple(of_inputs)

    def refuse(ctx: Any, *cotangents: Tensor) -> None:
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
            return tuple(forward_op(*arguments)[: len(outputs)])
        return tuple(inference_op(*arguments[:end_of_inputs]))

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
