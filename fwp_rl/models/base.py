"""Base of the encoders' configs, and their registry."""

from dataclasses import dataclass

from torch import nn

from fwp_rl.config import check_ranges
from fwp_rl.registry import Registry

__all__ = ["ENCODERS", "Encoder", "EncoderConfig"]


class Encoder(nn.Module):
    """Maps observations ``[N, *observation_shape]`` to features ``[N, output_size]``, float32."""

    output_size: int


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Base of the config of every encoder."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def build(self, observation_shape: tuple[int, ...]) -> Encoder:
        """The encoder's module for observations of this shape."""
        raise NotImplementedError


ENCODERS: Registry[EncoderConfig] = Registry("encoder", "fwp_rl.encoders")
