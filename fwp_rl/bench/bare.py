"""A policy's arithmetic without the policy: what no program for it could leave out.

The encoder and the heads are plain convolutions and products of torch's. Of a core there remain the
matrix products, the calls of ``fwp_rl.kernels`` and torch's LSTM and GRU: they are listened to in
one pass of the core, and then called again, each on arguments that lie ready, without norms,
feature maps, gates and whatever else stands between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fwp_rl.cores import Core
from fwp_rl.models.policy import Policy

__all__ = [
    "Acting",
    "Call",
    "Learning",
    "core_calls",
    "core_inputs",
    "gradients",
    "leaves",
    "replay",
]

_PRODUCTS: Final = (
    F.linear,
    F.scaled_dot_product_attention,
    torch.einsum,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.lstm,
    torch.gru,
    Tensor.matmul,
    Tensor.mm,
    Tensor.bmm,
    Tensor.__matmul__,
)
"""What is kept of a core beside the ops of ``fwp_rl.kernels``."""


@dataclass(frozen=True)
class Call:
    """A function of torch's with its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self) -> Tensor:
        """The first of its results, which is the one that a core goes on with."""
        result = self.function(*self.arguments, **self.options)
        first: Tensor = result if isinstance(result, Tensor) else result[0]
        return first


class _Listener(TorchFunctionMode):
    """Writes down what a core computes in products and ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _PRODUCTS or getattr(function, "namespace", None) == "fwp_rl":
            self.calls.append(Call(function, args, kwargs))
        return function(*args, **kwargs)


def core_inputs(core: Core, steps: int, columns: int) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """x, a new state, and no resets. Gradients are wanted of x, for the encoder's sake."""
    x = torch.randn(steps, columns, core.input_size, requires_grad=True)
    return x, core.initial_state(columns), torch.zeros(steps, columns, dtype=torch.bool)


def core_calls(core: Core, steps: int, columns: int, *, learning: bool) -> list[Call]:
    """The products and ops of one pass. RuntimeError where the weights of a layer
    are in none of them."""
    inputs = core_inputs(core, steps, columns)
    # Acting may be computed in a way of its own that torch is not told of. It is then what learning
    # does forward.
    for listening in dict.fromkeys((learning, True)):
        with torch.set_grad_enabled(listening), _Listener() as listener:
            core(*inputs)
        missing = _unheard(core, listener.calls)
        if not missing:
            break
    else:
        raise RuntimeError(
            f"no floor is known of {type(core.config).__name__}: its weights {', '.join(missing)} "
            "are in none of the products that were heard"
        )
    own = {id(p) for p in core.parameters()}
    return [
        Call(call.function, _ready(call.arguments, own), _ready(call.options, own))
        for call in listener.calls
    ]


def _unheard(core: Core, calls: Sequence[Call]) -> list[str]:
    """Names of the layers' weights that are in no call."""
    given = [x for call in calls for x in _tensors((call.arguments, call.options))]
    heard = {x.untyped_storage().data_ptr() for x in given}
    return [
        f"{name}.{weight}"
        for name, layer in core.named_modules()
        if isinstance(layer, nn.Linear | nn.RNNBase)
        for weight, tensor in layer.named_parameters(recurse=False)
        if tensor.ndim > 1 and tensor.untyped_storage().data_ptr() not in heard
    ]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [x for item in value for x in _tensors(item)] if isinstance(value, tuple | list) else []


def _ready(value: Any, own: set[int]) -> Any:
    """The arguments of a call cut off from what made them; a core's own parameters stay."""
    if isinstance(value, dict):
        return {name: _ready(item, own) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_ready(item, own) for item in value)
    if not isinstance(value, Tensor) or id(value) in own:
        return value
    return value.detach().contiguous().requires_grad_(value.requires_grad)


def replay(calls: Sequence[Call]) -> list[Tensor]:
    """The results of all calls."""
    return [call() for call in calls]


def leaves(calls: Sequence[Call], parameters: Sequence[Tensor]) -> list[Tensor]:
    """What gradients are wanted of: the parameters, then the other arguments that lie ready."""
    own = {id(p) for p in parameters}
    inner = [x for call in calls for x in _tensors((call.arguments, call.options))]
    return [*parameters, *(x for x in inner if x.requires_grad and id(x) not in own)]


def gradients(results: Sequence[Tensor], leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Of numbers as small as a loss has them, from every result."""
    wanted = [x for x in results if x.requires_grad]
    return torch.autograd.grad(
        wanted, leaves, [torch.full_like(x, 1e-3) for x in wanted], allow_unused=True
    )


class Acting:
    """One step of some columns, without gradients."""

    def __init__(self, policy: Policy, columns: int) -> None:
        self._encode = _encoder(policy)
        self._parameters = [p.detach().to(_dtype(policy)) for p in policy.encoder.parameters()]
        self._obs = _observations(policy, columns)
        self._calls = core_calls(policy.core, 1, columns, learning=False)
        self._heads = _heads(policy, 1, columns)

    @torch.no_grad()
    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self._encode(self._parameters, self._obs)
            replay(self._calls)
            replay(self._heads)


class Learning:
    """Forward and backward of some columns of a batch."""

    def __init__(self, policy: Policy, steps: int, columns: int) -> None:
        self._encode, self._dtype = _encoder(policy), _dtype(policy)
        self._encoders = list(policy.encoder.parameters())
        self._obs = _observations(policy, steps * columns)
        self._calls = core_calls(policy.core, steps, columns, learning=True)
        self._calls += _heads(policy, steps, columns)
        self._own = list(policy.parameters())
        self._leaves = leaves(self._calls, self._own)

    def __call__(self) -> tuple[Tensor | None, ...]:
        """The gradients of the policy's parameters."""
        weights = [p.to(self._dtype) for p in self._encoders]
        results = [self._encode(weights, self._obs), *replay(self._calls)]
        return gradients(results, self._leaves)[: len(self._own)]


def _dtype(policy: Policy) -> torch.dtype:
    return torch.bfloat16 if policy.uses_bfloat16(torch.device("cpu")) else torch.float32


def _observations(policy: Policy, count: int) -> Tensor:
    return torch.randint(0, 256, (count, *policy.spec.observation_shape), dtype=torch.uint8)


def _heads(policy: Policy, steps: int, columns: int) -> list[Call]:
    y = torch.randn(steps, columns, policy.core.output_size)
    return [
        Call(F.linear, (y.clone().requires_grad_(), head.weight, head.bias), {})
        for head in (policy.policy_head, policy.value_head)
    ]


Encode = Callable[[Sequence[Tensor], Tensor], Tensor]
"""Weights and biases by turns, and uint8 images [N, C, H, W]: features [N, D]."""


def _encoder(policy: Policy) -> Encode:
    name = type(policy.config.encoder).__name__
    return {"NatureCNNConfig": _nature_cnn, "ImpalaResnetConfig": _impala_resnet}[name]


def _nature_cnn(parameters: Sequence[Tensor], obs: Tensor) -> Tensor:
    x = _as_image(obs, parameters[0].dtype)
    *convolutions, (weight, bias) = _pairs(parameters)
    for (kernel, shift), stride in zip(convolutions, (4, 2, 1), strict=True):
        x = F.conv2d(x, kernel, shift, stride=stride).relu_()
    return _features(x, weight, bias)


def _impala_resnet(parameters: Sequence[Tensor], obs: Tensor) -> Tensor:
    x = _as_image(obs, parameters[0].dtype)
    *convolutions, (weight, bias) = _pairs(parameters)
    for n in range(0, len(convolutions), 5):
        first, *residual = convolutions[n : n + 5]
        x = F.max_pool2d(F.conv2d(x, *first, padding=1), 3, stride=2, padding=1)
        for one, two in (residual[:2], residual[2:]):
            y = F.conv2d(F.relu(x), *one, padding=1).relu_()
            x = x + F.conv2d(y, *two, padding=1)
    return _features(F.relu(x), weight, bias)


def _pairs(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _as_image(obs: Tensor, dtype: torch.dtype) -> Tensor:
    # The division by 255 is left out: it could be one of the first weights.
    return obs.to(dtype, memory_format=torch.channels_last)


def _features(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # rows of a channels-last image as they lie, which spares a copy: the weights would be in order
    return F.linear(x.permute(0, 2, 3, 1).flatten(1), weight, bias).relu_()
