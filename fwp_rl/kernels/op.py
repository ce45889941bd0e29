"""One description per op, and what follows from it: schema, checks, fake outputs, gradient, the
table of backends, and random arguments for tests and benchmarks (``samples``).

What a call needs of a description is worked out at import: an acting step takes some ten
microseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from operator import eq
from typing import Any, Final

import torch
from torch import Tensor

from fwp_rl.kernels import cuda_driver
from fwp_rl.kernels.dispatch import choose_backend
from fwp_rl.kernels.errors import BackendError
from fwp_rl.kernels.horizon import in_effect
from fwp_rl.kernels.inputs import (
    HALF,
    Argument,
    check_arguments,
    check_state,
    forms_of,
    groups_of,
    in_float32,
)
from fwp_rl.kernels.registration import Kernel, register
from fwp_rl.registry import suggestion

__all__ = ["OPS", "Op"]

# Asked once: torch.compile of torch 2.10 and 2.11 cannot trace the question.
_AUTOCAST = tuple(x for x in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(x))

OPS: Final[dict[str, "Op"]] = {}
"""Name → op, of all ops that were imported."""


class Op:
    """What is known of an op, in one place.

    package      ``__name__`` of the op's package, which has the op's name. So has the function that
                 users call, ``run``: it gives its arguments to ``apply``. The package's modules
                 ``numba_cpu`` and ``cuda``, each imported at its first use, have

                     forward(inputs, results) -> None
                     backward(inputs, saved, cotangents, gradients, horizon) -> None

                 which fill the results (outputs, then what is saved) and the gradients. ``inputs``
                 are the tensors and then the options, in the description's order. What is to be
                 filled is contiguous; there is a gradient for each tensor but ``reset``, of its
                 tensor's shape and dtype, for a tensor that is None of shape (0,). ``horizon`` is
                 less than the number of steps, and 0 for exact gradients: ``horizon.cuts`` says
                 where it ends them
    inputs       name → sizes, in the order in which the backends take them. Sizes are letters, each
                 for what is one number wherever it stands, or numbers: "T B H K"; a "?" before them
                 marks what may be None. The parts of the state begin with B and stand together;
                 what all columns share, such as slow weights, begins with neither T nor B. Sizes in
                 parentheses are a group: all tensors that could have it do, or none. The ranks tell
                 in which of its forms an op is called
    outputs      name → sizes: y, of the first input's dtype, then the parts of the state by their
                 names in ``inputs``, each of its own
    saved        name → sizes, of the state's dtype: what the backward pass gets beside the inputs;
                 a size may be a formula, "V+2*K+4"
    options      name → the strings that it may be; the backends take them after the tensors
    only         name → (option, value) that it goes with: an optional input that has to be given
                 then, something saved that is empty else
    barred       name → (option, value) that an optional input does not go with
    reference    the op in plain torch: ``(*tensors, *options, horizon) -> outputs``
    chunkwise    the same over chunks of steps, where there is such a form
    cuda_limits  letter → the largest size that the CUDA kernels take
    draw         name → what makes such an input of normal numbers, in ``samples``
    sweeps       how often the passes, forward and backward, go over the matrices of the state, or
                 over its vectors where it has none, multiplying and adding
    """

    def __init__(
        self,
        package: str,
        *,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        saved: Mapping[str, str],
        options: Mapping[str, tuple[str, ...]] | None = None,
        only: Mapping[str, tuple[str, str]] | None = None,
        barred: Mapping[str, tuple[str, str]] | None = None,
        reference: Kernel,
        chunkwise: Kernel | None = None,
        cuda_limits: Mapping[str, int],
        draw: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        sweeps: tuple[int, int],
    ) -> None:
        self.package, self.name = package, package.rpartition(".")[2]
        self.inputs, self.outputs, self.saved = inputs, outputs, saved
        self.options, self.only, self.barred = options or {}, only or {}, barred or {}
        self.cuda_limits, self.draw, self.sweeps = cuda_limits, draw or {}, sweeps
        self.groups = groups_of(inputs.values())
        self.forms = forms_of(inputs)
        self.arguments = self.forms[()]
        self._grouped = tuple(n for n, sizes in enumerate(inputs.values()) if "(" in sizes)
        self._by_ranks = {
            tuple(len(form[n].letters) for n in self._grouped): form for form in self.forms.values()
        }
        self.state = tuple(x.name for x in self.arguments if x.state)
        self._places = {name: n for n, name in enumerate((*inputs, *self.options))}
        self._state_place = self._places[self.state[0]]
        self._known = tuple((self._places[x], x, known) for x, known in self.options.items())
        self._needed = tuple(
            (self._places[name], name, self._places[option], value)
            for name, (option, value) in self.only.items()
            if name in inputs
        )
        self._barred = tuple(
            (self._places[name], name, self._places[option], value)
            for name, (option, value) in self.barred.items()
        )
        places = {
            letter: (n, axis)
            for n, argument in reversed([*enumerate(self.arguments)])
            for axis, letter in enumerate(argument.letters)
            if letter.isalpha() and not argument.optional
        }
        self.axes = sorted(places, key=lambda letter: places[letter])
        self._size_tensors = sorted({n for n, _ in places.values()})
        self._size_places = [
            (self._size_tensors.index(n), self._axis(n, axis))
            for n, axis in sorted(places.values())
        ]
        self.gradients_of = {name: sizes for name, sizes in inputs.items() if name != "reset"}
        self._differentiable = tuple(self._places[name] for name in self.gradients_of)
        self._recipes = tuple(self._recipe(name) for name in (*outputs, *saved))
        fused = register(
            package,
            tensors={x.name: x.optional for x in self.arguments},
            options=self.options,
            outputs=outputs,
            saved=saved,
            results=self.results,
            gradients=self.gradients,
        )
        self.backends: dict[str, Kernel] = {"reference": reference}
        if chunkwise is not None:
            self.backends["chunkwise"] = chunkwise
        self.backends |= {"numba": fused, "cuda": fused}
        OPS[self.name] = self

    @property
    def run(self) -> Callable[..., tuple[Tensor, Any]]:
        """What users call."""
        return getattr(import_module(self.package), self.name)  # type: ignore[no-any-return]

    def apply(self, *given: Any, backend: str) -> tuple[Tensor, Any]:
        """Check the op's arguments and run it.

        given    the tensors, then the options, in the description's order, then the gradient
                 horizon; the state as users give it, a tuple where it has several parts, in their
                 place
        backend  the caller's wish
        returns  y and the state after, of the dtypes of the first input and of the state given

        float16 and bfloat16 are computed in float32 and returned as they came, except by the
        reference, which computes in them if all is of one dtype, and by CUDA kernels, which read
        and write bfloat16 themselves beside a float32 state. Under autocast, inputs of any float
        types are cast to float32, and so are the results.
        """
        several = len(self.state) > 1
        if several:
            n = self._state_place
            given = (*given[:n], *check_state(given[n], self.state), *given[n + 1 :])
        self._check_options(given)
        tensors, (*options, horizon) = given[: len(self.arguments)], given[len(self.arguments) :]
        options.append(in_effect(horizon))
        device = _device_type(tensors[0])
        autocast = _under_autocast(device)
        arguments = self._form(tensors) if self.groups else self.arguments
        sizes = check_arguments(arguments, tensors, one_dtype=not autocast)
        dtype = torch.float32 if autocast else tensors[0].dtype
        refusal = self._cuda_refusal(sizes, tensors[0], dtype) if device == "cuda" else ""
        name = choose_backend(self.name, self.backends, device, backend, refusal=refusal)
        if autocast:
            with torch.autocast(device, enabled=False):
                y, *after = self.backends[name](*map(in_float32, tensors), *options)
        elif dtype in HALF:
            y, *after = self._run_in_half(name, tensors, options)
        else:
            y, *after = self.backends[name](*tensors, *options)
        return y, tuple(after) if several else after[0]

    def sizes(self, inputs: Sequence[Any]) -> tuple[int, ...]:
        """What the letters of ``axes`` stand for."""
        shapes = [inputs[n].shape for n in self._size_tensors]
        return tuple([shapes[n][axis] for n, axis in self._size_places])

    def results(self, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
        """The outputs and what is saved, yet to be filled."""
        made, sizes = [], None
        for like, option, value, same, formula in self._recipes:
            if option is not None and inputs[option] != value:
                x = inputs[like].new_empty((0,))
            elif same is not None:
                x = torch.empty_like(
                    inputs[same], dtype=inputs[like].dtype, memory_format=torch.contiguous_format
                )
            else:
                sizes = sizes or self.sizes(inputs)
                x = inputs[like].new_empty(formula(*sizes))
            made.append(x)
        return tuple(made)

    def gradients(self, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
        """The gradients of the tensors but ``reset``, yet to be filled."""
        return tuple(
            inputs[0].new_empty((0,))
            if (x := inputs[n]) is None
            else torch.empty_like(x, memory_format=torch.contiguous_format)
            for n in self._differentiable
        )

    def form(self, variant: Mapping[str, Any]) -> tuple[Argument, ...]:
        """The arguments of the form that has the groups but those that are False in ``variant``."""
        return self.forms[tuple(x for x in self.groups if not variant.get(x, True))]

    def _form(self, tensors: Sequence[Any]) -> tuple[Argument, ...]:
        """The arguments of the form that the tensors are of; where they are of none, of the one
        that most of them are of, so that the one that is not is named."""
        ranks = tuple([getattr(tensors[n], "ndim", 0) for n in self._grouped])
        if ranks in self._by_ranks:
            return self._by_ranks[ranks]
        nearest = max(self._by_ranks, key=lambda known: sum(map(eq, known, ranks)))
        return self._by_ranks[nearest]

    def _axis(self, n: int, axis: int) -> int:
        """An axis of an input, from the end where a group stands before it."""
        before, group, _ = list(self.inputs.values())[n].partition("(")
        fixed = not group or axis < len(before.split())
        return axis if fixed else axis - len(self.arguments[n].letters)

    def _check_options(self, given: Sequence[Any]) -> None:
        for n, name, known in self._known:
            if given[n] not in known:
                hint = suggestion(str(given[n]), known)
                raise ValueError(
                    f"unknown {name} {given[n]!r}. {hint + ' ' if hint else ''}"
                    f"Known: {', '.join(known)}"
                )
        for n, name, place, value in self._needed:
            if given[n] is None and given[place] == value:
                option, _ = self.only[name]
                others = " or ".join(f'{option}="{x}"' for x in self.options[option] if x != value)
                raise ValueError(
                    f"{name} is None, expected a tensor {self.arguments[n].sizes}; "
                    f"only {others} goes without"
                )
        for n, name, place, value in self._barred:
            if given[n] is not None and given[place] == value:
                option, _ = self.barred[name]
                raise ValueError(f'{name} is given, expected None: {option}="{value}" goes without')

    def _cuda_refusal(self, sizes: Mapping[str, int], x: Tensor, dtype: torch.dtype) -> str:
        """Why the CUDA kernels do not take what is given, on the device of x; empty when they
        do."""
        if dtype == torch.float64:
            return "computes in float32, the inputs are float64"
        for letter, limit in self.cuda_limits.items():
            if sizes[letter] > limit:
                return f"takes {letter} up to {limit}, the inputs have {sizes[letter]}"
        # int: compiled for these sizes, which are a network's and do not change
        needed = tuple([int(sizes[letter]) for letter in self.cuda_limits])
        return device_refusal(self.package, needed, x.device.index or 0)

    def _run_in_half(
        self, backend: str, tensors: Sequence[Any], options: Sequence[str | int]
    ) -> tuple[Tensor, ...]:
        dtype, pairs = tensors[0].dtype, list(zip(tensors, self.arguments, strict=True))
        states = [x.dtype for x, argument in pairs if argument.state]
        keep_all = backend == "reference" and set(states) == {dtype}
        keep_inputs = backend == "cuda" and dtype == torch.bfloat16
        taken = [
            x if keep_all or (keep_inputs and not argument.state) else in_float32(x)
            for x, argument in pairs
        ]
        results = self.backends[backend](*taken, *options)
        return tuple(x.to(kind) for x, kind in zip(results, (dtype, *states), strict=True))

    def _recipe(self, name: str) -> tuple[Any, ...]:
        """What ``results`` makes a result of: the input whose dtype it has; the option, and its
        value, without which it is empty; an input of its shape; else its shape, as a function of
        ``sizes``."""
        saved = name in self.saved
        sizes = self.saved[name] if saved else self.outputs[name]
        like = self._state_place if saved else self._places.get(name, 0)
        option, value = self.only.get(name, (None, None)) if saved else (None, None)
        place = None if option is None else self._places[option]
        alike = (n for n, given in enumerate(self.inputs.values()) if given == sizes)
        formula = f"lambda {', '.join(self.axes)}: ({', '.join(sizes.split())},)"
        return like, place, value, next(alike, None), eval(formula)


def _device_type(x: Any) -> str:
    """Empty for what is no tensor; without the object that torch makes of a device."""
    if not isinstance(x, Tensor):
        return ""
    return "cpu" if x.is_cpu else x.device.type


def _under_autocast(device: str) -> bool:
    return device in _AUTOCAST and torch.is_autocast_enabled(device)


def device_refusal(package: str, sizes: tuple[int, ...], device: int) -> str:
    """Why a GPU cannot run the kernels of an op at sizes of its ``cuda_limits``: too little shared
    memory, or an architecture that NVRTC does not know; empty when it can."""
    return _device_refusal(package, sizes, device)


# As choose_backend: a constant to torch.compile, which does not look inside.
device_refusal._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _device_refusal(package: str, sizes: tuple[int, ...], device: int) -> str:
    kernels = import_module(f"{package}.cuda").kernels_for(*sizes)
    try:
        return cuda_driver.refusal(kernels, device)
    except BackendError:  # neither driver nor NVRTC: dispatch says so
        return ""
