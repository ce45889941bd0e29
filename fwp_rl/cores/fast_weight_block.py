"""What every fast weight programmer shares: its sizes, and the blocks around its memories. Other
memories stand in them too, so that cores differ in their memory alone.

    h = Linear(x)
    each of L layers:  h = h + Out(memory(LN(h)));  h = h + FF(LN(h))
    FF = Linear - ReLU - Linear

as in the models of "Going Beyond Linear Transformers with Recurrent Fast Weight Programmers" (Irie
et al. 2021) for reinforcement learning and for algorithmic tasks, where dropout follows Out, ReLU
and the last Linear. No LayerNorm follows the last block. The slow matmuls see all T steps at once;
a memory alone runs along time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from torch import Tensor, nn

from fwp_rl.config import ConfigError, Range
from fwp_rl.cores.base import Core, RecurrentCoreConfig
from fwp_rl.cores.dropout import Dropout
from fwp_rl.cores.feature_maps import FeatureMap, FeatureMapName
from fwp_rl.types import State

__all__ = [
    "Block",
    "BlockConfig",
    "FastWeightConfig",
    "FastWeightCore",
    "HeadsConfig",
    "Memory",
    "NormalisedConfig",
    "QueryKeyValue",
    "drawn_once",
    "feedforward",
]


@dataclass(frozen=True, kw_only=True)
class BlockConfig(RecurrentCoreConfig):
    """Sizes of the blocks; the defaults are the authors' for Atari."""

    layers: Annotated[int, Range(1, 1000)] = 2
    """Number of blocks, each with a memory and a feed-forward part."""
    hidden_size: Annotated[int, Range(1)] = 128
    """Size of the residual stream, and of the core's output."""
    feedforward_size: Annotated[int, Range(1)] = 512
    """Hidden size of the feed-forward part."""


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(BlockConfig):
    """What memories with heads can be told besides."""

    heads: Annotated[int, Range(1)] = 4
    """Heads of each layer, such as fast weight matrices; a head's values have size hidden_size /
    heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.heads:
            raise ConfigError(
                f"hidden_size: got {self.hidden_size}, expected a multiple of heads ({self.heads})"
            )

    @property
    def value_size(self) -> int:
        return self.hidden_size // self.heads


@dataclass(frozen=True, kw_only=True)
class FastWeightConfig(HeadsConfig):
    """What fast weight programmers that map keys and queries can be told besides."""

    head_size: Annotated[int | None, Range(1)] = None
    """Size of a head's keys and queries before the feature map; none: that of its values."""
    feature_map: FeatureMapName = "elu1"
    """Map of keys and queries, normalisation included. It sets the width of the memory: dpfpN
    makes keys 2N times, favor 2 times as long."""
    favor_epsilon: Annotated[float, Range(0)] = 0.0
    """Added to each feature of favor before they are normalised; the authors' is 1e-4, which makes
    long keys and queries alike."""
    redraw_projection: bool = False
    """Draw favor's projection anew in each call that takes gradients, as the authors do in
    training; agents draw once for each gradient step. What was written and acted upon under the
    last one is then learned from under another: ratio_deviation is no longer 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("favor_epsilon", "redraw_projection"):
            if getattr(self, name) and self.feature_map != "favor":
                raise ConfigError(
                    f"{name}: got {getattr(self, name)} with feature_map {self.feature_map}, "
                    "which has none; it is for feature_map favor"
                )

    @property
    def key_size(self) -> int:
        return self.head_size or self.value_size

    def build_feature_map(self) -> FeatureMap:
        """φ of keys and queries; each layer has its own."""
        return FeatureMap(self.feature_map, self.key_size, epsilon=self.favor_epsilon)


@dataclass(frozen=True, kw_only=True)
class NormalisedConfig(FastWeightConfig):
    """What memories that may be read as attention is can be told besides."""

    attention_normaliser: bool = False
    """Divide what is read by the sum of the attention weights, as in the original Linear
    Transformer; the authors' agents do not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_normaliser and self.feature_map == "identity":
            raise ConfigError(
                "attention_normaliser: got True with feature_map identity, whose attention "
                "weights may sum to 0; expected a non-negative feature map, e.g. elu1"
            )


class Memory(nn.Module):
    """What a block reads and writes: along time, with resets inside. Same contract as a core's.

    forward(x [T, B, hidden_size], state, reset [T, B]) -> y [T, B, output_size], state
    """

    state_shapes: tuple[tuple[int, ...], ...]
    """Shape of each leaf of its state, without the batch axis."""
    output_size: int | None = None
    """Size of what it gives, where that is not hidden_size."""
    pre_norm = True
    """Whether the block normalises x before the memory sees it."""
    cuts_gradients = False
    """Whether it keeps to the gradient horizon: hands ``horizon`` to every op, and cuts what it
    carries along time outside of them. Else the core runs so many steps at a time."""
    horizon: int | None = None
    """The core's ``gradient_horizon``, if the memory ``cuts_gradients``."""


MakeMemory: TypeAlias = Callable[[int], Memory]


class Block(nn.Module):
    """h + Out(memory(LN(h))), then h + FF(LN(h)).

    forward(h [T, B, hidden_size], state, reset [T, B]) -> h [T, B, hidden_size], state
    """

    def __init__(self, config: BlockConfig, memory: Memory) -> None:
        super().__init__()
        d = config.hidden_size
        self.norm = nn.LayerNorm(d) if memory.pre_norm else nn.Identity()
        self.memory = memory
        self.out = nn.Linear(memory.output_size or d, d, bias=False)
        self.dropout = Dropout(config.dropout)
        self.feedforward = feedforward(config)

    def forward(self, h: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        y, state = self.memory(self.norm(h), state, reset)
        h = h + self.dropout(self.out(y))
        return h + self.feedforward(h), state


def feedforward(config: BlockConfig) -> nn.Module:
    """FF, and the LayerNorm before it."""
    return nn.Sequential(
        nn.LayerNorm(config.hidden_size),
        nn.Linear(config.hidden_size, config.feedforward_size),
        # one module, for saved policies name the weights by their place
        nn.Sequential(nn.ReLU(), Dropout(config.dropout)),
        nn.Linear(config.feedforward_size, config.hidden_size),
        Dropout(config.dropout),
    )


class FastWeightCore(Core):
    """The blocks around one memory per layer. State: the memories' leaves, layer after layer."""

    def __init__(
        self,
        config: BlockConfig,
        input_size: int,
        make_memory: MakeMemory,
        make_block: Callable[[BlockConfig, Memory], nn.Module] = Block,
    ) -> None:
        """``make_memory(layer)`` builds the memory of one layer, counted from 0; ``make_block``
        what surrounds it, with the contract of ``Block``."""
        super().__init__(config, input_size)
        self.output_size = config.hidden_size
        self.redraws = getattr(config, "redraw_projection", False)
        self.input_projection = nn.Linear(input_size, config.hidden_size)
        memories = [make_memory(layer) for layer in range(config.layers)]
        self.cuts_gradients = all(memory.cuts_gradients for memory in memories)
        for memory in memories:
            memory.horizon = self.gradient_horizon if self.cuts_gradients else None
        self.state_shapes = [memory.state_shapes for memory in memories]
        self.blocks = nn.ModuleList(make_block(config, memory) for memory in memories)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return tuple(
            torch.zeros(batch_size, *shape, device=device)
            for shapes in self.state_shapes
            for shape in shapes
        )

    def forward(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        # here and not in unroll, which a gradient horizon calls for one part after another
        if self.redraws and self.training and torch.is_grad_enabled():
            self.redraw()
        return super().forward(x, state, reset)

    def redraw(self) -> None:
        """Take other projections."""
        if torch.compiler.is_exporting():
            raise RuntimeError(
                "redraw_projection: an exported core draws nothing; export it under torch.no_grad()"
            )
        for module in self.modules():
            if isinstance(module, FeatureMap):
                module.redraw()

    def unroll(self, x: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        h = self.input_projection(x)
        final: State = ()
        for block, shapes in zip(self.blocks, self.state_shapes, strict=True):
            h, after = block(h, state[len(final) : len(final) + len(shapes)], reset)
            final += after
        return h, final


@contextmanager
def drawn_once(module: nn.Module) -> Iterator[None]:
    """Draw anew what the module, or the cores in it, would draw in each call, and in none of the
    calls inside: those of one gradient step, which may be in several threads, see one
    projection."""
    drawing: list[Any] = [x for x in module.modules() if getattr(x, "redraws", False)]
    for drawer in drawing:
        if drawer.training:
            drawer.redraw()
        drawer.redraws = False
    try:
        yield
    finally:
        for drawer in drawing:
            drawer.redraws = True


class QueryKeyValue(nn.Module):
    """The slow net of a memory: one bias-free projection to queries, keys and values, and to
    ``extra`` numbers per head (rates, gates). Keys and queries are mapped by φ. ``heads`` is for
    memories with several matrices per head.

    forward(x [T, B, hidden_size]) ->
        q, k [T, B, H, K], v [T, B, H, V], extra [T, B, H, extra]
    """

    def __init__(
        self, config: FastWeightConfig, *, extra: int = 0, heads: int | None = None
    ) -> None:
        super().__init__()
        self.heads = heads or config.heads
        self.sizes = [config.key_size, config.key_size, config.value_size, extra]
        self.projection = nn.Linear(config.hidden_size, self.heads * sum(self.sizes), bias=False)
        self.feature_map = config.build_feature_map()

    @property
    def key_size(self) -> int:
        """K, after the feature map."""
        return self.feature_map.output_size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        heads = self.projection(x).unflatten(-1, (self.heads, -1))
        q, k, v, extra = heads.split(self.sizes, dim=-1)
        return self.feature_map(q), self.feature_map(k), v, extra
