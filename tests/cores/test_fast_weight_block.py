"""The fast weight cores against their equations, written out step by step in float64 NumPy."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fwp_rl.config import ConfigError
from fwp_rl.cores import Core, build_core
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.fast_weight_block import FastWeightConfig
from fwp_rl.cores.feature_maps import FeatureMapName
from fwp_rl.cores.linear_transformer import LinearTransformerConfig
from fwp_rl.kernels import use_backend
from fwp_rl.types import State

Array = NDArray[Any]
SIZES: dict[str, Any] = {"hidden_size": 12, "heads": 3, "head_size": 5, "feedforward_size": 7}
STEPS, COLUMNS, INPUT_SIZE = 7, 3, 6


def phi(name: str, a: Array, projection: Array | None) -> Any:
    """Feature map and normalisation of one vector."""
    if name == "identity":
        return a / np.sqrt(a @ a + 1e-5)
    if name == "softmax":
        return np.exp(a) / np.exp(a).sum()
    if name == "elu1":
        f = np.array([np.exp(x) if x < 0 else x + 1 for x in a])
    elif name == "relu":
        f = np.maximum(a, 0)
    elif name == "favor":
        assert projection is not None
        u = projection @ a
        f = np.exp(np.concatenate([u, -u]) - a @ a / 2) / np.sqrt(2 * len(u))
        return f / f.sum()
    else:
        z = np.concatenate([np.maximum(a, 0), np.maximum(-a, 0)])
        nu = int(name.removeprefix("dpfp"))
        f = np.array([z[i] * z[i - j] for j in range(1, nu + 1) for i in range(len(z))])
    return f / (f.sum() + 1e-5)


def layer_norm(x: Array, scale: Array, shift: Array) -> Any:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * scale + shift


def oracle(core: Core, x: Tensor, state: State, reset: Tensor) -> tuple[Array, list[Array]]:
    """One column and one step at a time, one head at a time."""
    config: Any = core.config
    p = {name: value.double().numpy() for name, value in core.state_dict().items()}
    delta = isinstance(config, DeltaNetConfig)
    normalised = getattr(config, "attention_normaliser", False)
    heads, key, value = config.heads, config.head_size, config.hidden_size // config.heads
    y = np.zeros((*x.shape[:2], config.hidden_size))
    memory = [leaf.double().numpy().copy() for leaf in state]
    for t, b in np.ndindex(*x.shape[:2]):
        h = p["input_projection.weight"] @ x[t, b].double().numpy() + p["input_projection.bias"]
        for layer, W in enumerate(memory):
            at = f"blocks.{layer}."
            if reset[t, b]:
                W[b] = 0
            n = layer_norm(h, p[at + "norm.weight"], p[at + "norm.bias"])
            emitted = (p[at + "memory.slow_net.projection.weight"] @ n).reshape(heads, -1)
            projection = p.get(at + "memory.slow_net.feature_map.projection")
            reads = []
            for head in range(heads):
                q, k, v, rest = np.split(emitted[head], np.cumsum([key, key, value]))
                q, k = (
                    phi(config.feature_map, q, projection),
                    phi(config.feature_map, k, projection),
                )
                if normalised:
                    v = np.append(v, 1.0)
                if delta:
                    beta = 1 / (1 + np.exp(-rest[0]))
                    v = beta * (v - W[b, head] @ k)
                W[b, head] += np.outer(v, k)
                read = W[b, head] @ q
                reads.append(read[:-1] / (read[-1] + 1e-6) if normalised else read)
            h = h + p[at + "out.weight"] @ np.concatenate(reads)
            f = layer_norm(h, p[at + "feedforward.0.weight"], p[at + "feedforward.0.bias"])
            f = np.maximum(p[at + "feedforward.1.weight"] @ f + p[at + "feedforward.1.bias"], 0)
            h = h + p[at + "feedforward.3.weight"] @ f + p[at + "feedforward.3.bias"]
        y[t, b] = h
    return y, memory


def problem(core: Core) -> tuple[Tensor, State, Tensor]:
    x = 2 * torch.randn(STEPS, COLUMNS, INPUT_SIZE)
    state = tuple(0.5 * torch.rand_like(leaf) for leaf in core.initial_state(COLUMNS))
    reset = torch.zeros(STEPS, COLUMNS, dtype=torch.bool)
    reset[0, 0] = reset[3, 1] = reset[-1, 1] = True
    return x, state, reset


CASES: list[tuple[type[FastWeightConfig], dict[str, Any]]] = [
    *((DeltaNetConfig, {"feature_map": name}) for name in get_args(FeatureMapName)),
    *((LinearTransformerConfig, {"feature_map": name}) for name in get_args(FeatureMapName)),
    (LinearTransformerConfig, {"attention_normaliser": True}),
    (LinearTransformerConfig, {"attention_normaliser": True, "feature_map": "dpfp2"}),
]


@pytest.mark.parametrize(("config", "options"), CASES)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("reference", torch.float64, 1e-10), ("numba", torch.float32, 1e-4)],
)
def test_core_follows_its_equations(
    config: type[FastWeightConfig],
    options: dict[str, Any],
    backend: str,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    torch.manual_seed(5)
    core = build_core(config(**SIZES, **options), INPUT_SIZE)
    x, state, reset = problem(core)
    expected_y, expected_state = oracle(core, x, state, reset)
    core.to(dtype)
    with use_backend(backend), torch.no_grad():
        y, after = core(x.to(dtype), tuple(leaf.to(dtype) for leaf in state), reset)
    np.testing.assert_allclose(y, expected_y, rtol=tolerance, atol=tolerance)
    for leaf, expected in zip(after, expected_state, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("config", [DeltaNetConfig, LinearTransformerConfig])
def test_gradients_equal_finite_differences(config: type[FastWeightConfig]) -> None:
    torch.manual_seed(6)
    core = build_core(config(**SIZES, layers=1), INPUT_SIZE).double()
    x, state, reset = problem(core)
    inputs = [leaf.double().requires_grad_() for leaf in (x[:4], *state)]

    def run(x: Tensor, *state: Tensor) -> State:
        y, after = core(x, state, reset[:4])
        return (y, *after)

    with use_backend("reference"):
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("feature_map", "width"), [("elu1", 8), ("dpfp1", 16), ("dpfp3", 48), ("favor", 16)]
)
def test_state_is_one_matrix_per_layer(feature_map: FeatureMapName, width: int) -> None:
    config = DeltaNetConfig(layers=3, hidden_size=20, heads=2, head_size=8,
                                feature_map=feature_map)  # fmt: skip
    state = build_core(config, 4).initial_state(5)
    assert [leaf.shape for leaf in state] == [(5, 2, 10, width)] * 3


def test_layers_have_their_own_favor_projection() -> None:
    core = build_core(DeltaNetConfig(feature_map="favor"), 4)
    first, second = (value for name, value in core.state_dict().items() if "projection" in name
                     and "feature_map" in name)  # fmt: skip
    assert not torch.equal(first, second)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 130, expected a multiple of heads \(4\)"):
        DeltaNetConfig(hidden_size=130)
    with pytest.raises(ConfigError, match="heads: got 0"):
        DeltaNetConfig(heads=0)
    with pytest.raises(ConfigError, match="Did you mean 'favor'"):
        DeltaNetConfig(feature_map="favor+")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="non-negative feature map"):
        LinearTransformerConfig(attention_normaliser=True, feature_map="identity")
