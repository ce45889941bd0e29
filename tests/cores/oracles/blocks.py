"""The blocks around a memory in plain NumPy, one step of one column at a time.

An oracle is a file of this folder with one function

    run(weights, config, x, state, reset) -> (y, state)

    weights  the module's ``state_dict``, as NumPy
    config   the core's config, for its sizes and options
    x        [T, B, D];  state: leaves [B, ...];  reset [T, B] bool

Nothing here or there uses torch or fwp_rl. Inputs may be complex: every function is analytic in
them, and comparisons look at the real part. Gradients are then exact to rounding by the complex
step, Im f(p + i h d) / h.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[str, Array]
Leaves = tuple[Array, ...]

FEATURE_MAPS = ("elu1", "dpfp1", "dpfp2", "dpfp3", "favor", "softmax", "relu", "identity")

Step = Callable[[Array, Leaves], tuple[Array, Leaves]]
"""(x [D], one column's leaves) -> (y [output_size], leaves)"""

Memory = Callable[[Weights, Any, Array, Leaves], tuple[Array, Leaves]]
"""(its weights, config, x [hidden_size], one column's leaves) -> (y [hidden_size], leaves)"""


def unroll(
    weights: Weights, x: Array, state: Leaves, reset: Array, step: Step
) -> tuple[Array, Leaves]:
    """One step of one column after another; the state is cleared before a step that resets."""
    number = np.result_type(x, *state, *weights.values())
    after = tuple(leaf.astype(number) for leaf in state)
    y: list[list[Array]] = []
    for x_t, reset_t in zip(x, reset, strict=True):
        y.append([])
        for b, first in enumerate(reset_t):
            for leaf in after if first else ():
                leaf[b] = 0
            y_tb, leaves = step(x_t[b], tuple(leaf[b] for leaf in after))
            for leaf, value in zip(after, leaves, strict=True):
                leaf[b] = value
            y[-1].append(y_tb)
    return np.array(y), after


def run_blocks(
    weights: Weights, config: Any, x: Array, state: Leaves, reset: Array, memory: Memory
) -> tuple[Array, Leaves]:
    """h = Linear(x); in each layer h += Out(memory(LN(h))), h += FF(LN(h)). LN before the memory
    is left out where a block has no weights for it."""

    def step(x: Array, state: Leaves) -> tuple[Array, Leaves]:
        h = linear(part(weights, "input_projection."), x)
        after: Leaves = ()
        for layer in range(config.layers):
            p = part(weights, f"blocks.{layer}.")
            seen = layer_norm(part(p, "norm."), h) if "norm.weight" in p else h
            own = state[len(after) : len(after) + len(state) // config.layers]
            read, new = memory(part(p, "memory."), config, seen, own)
            h = h + p["out.weight"] @ read
            h = h + feedforward(part(p, "feedforward."), h)
            after += new
        return h, after

    return unroll(weights, x, state, reset, step)


def query_key_value(p: Weights, config: Any, x: Array, heads: int | None = None) -> list[Leaves]:
    """What the slow net emits at one step: φ(q), φ(k), v and the rest, for each head."""
    key, value = config.key_size, config.value_size
    emitted = (p["projection.weight"] @ x).reshape(heads or config.heads, -1)
    omega = p.get("feature_map.projection")
    parts = (np.split(head, np.cumsum([key, key, value])) for head in emitted)
    return [
        (mapped(config, q, omega), mapped(config, k, omega), v, rest) for q, k, v, rest in parts
    ]


def delta_rule(W: Array, k: Array, v: Array, beta: Any) -> Array:
    """W + β (v − W k) ⊗ k"""
    return W + np.outer(beta * (v - W @ k), k)


def part(weights: Weights, prefix: str) -> Weights:
    """The weights of a submodule, under their names in it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def linear(p: Weights, x: Array) -> Array:
    return p["weight"] @ x + p.get("bias", 0)


def feedforward(p: Weights, x: Array) -> Array:
    """LN - Linear - ReLU - Linear"""
    return linear(part(p, "3."), relu(linear(part(p, "1."), layer_norm(part(p, "0."), x))))


def layer_norm(p: Weights, x: Array) -> Array:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5) * p["weight"] + p["bias"]


def relu(x: Array) -> Array:
    return np.where(x.real > 0, x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.real.max())
    return e / e.sum()


def sum_normalised(x: Array) -> Array:
    return x / (x.sum() + 1e-5)


def mapped(config: Any, a: Array, omega: Array | None) -> Array:
    """The feature map of a core's keys and queries."""
    return phi(config.feature_map, a, omega, config.favor_epsilon)


def phi(name: str, a: Array, omega: Array | None = None, epsilon: float = 0.0) -> Array:
    """Feature map and normalisation of one vector; omega, epsilon: of favor."""
    if name == "identity":
        return a / np.sqrt((a**2).sum() + 1e-5)
    if name == "softmax":
        return softmax(a)
    if name == "elu1":
        return sum_normalised(np.array([np.exp(z) if z.real < 0 else z + 1 for z in a]))
    if name == "relu":
        return sum_normalised(relu(a))
    if name == "favor":
        u = omega @ a
        f = np.exp(np.concatenate([u, -u]) - (a**2).sum() / 2) + epsilon
        return f / f.sum()
    z = np.concatenate([relu(a), relu(-a)])
    rolls = range(1, int(name.removeprefix("dpfp")) + 1)
    return sum_normalised(np.array([z[i] * z[i - j] for j in rolls for i in range(len(z))]))
