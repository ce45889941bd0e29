"""Encoders, and the policy made of an encoder, a core and two heads."""

from fwp_rl.models.base import ENCODERS, Encoder, EncoderConfig
from fwp_rl.models.categorical import (
    entropy,
    greedy_action,
    kl_divergence,
    log_prob,
    sample_action,
)
from fwp_rl.models.encoders import ImpalaResnetConfig, MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import Policy, PolicyConfig

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderConfig",
    "ImpalaResnetConfig",
    "MLPConfig",
    "NatureCNNConfig",
    "Policy",
    "PolicyConfig",
    "entropy",
    "greedy_action",
    "kl_divergence",
    "log_prob",
    "sample_action",
]
