"""Encoders, the policies made of an encoder, a core and heads, and how they choose actions."""

from fwp_rl.models.actions import ACTION_RULES, ActionRule, EpsilonGreedy, Greedy, Sampled
from fwp_rl.models.base import ENCODERS, Encoder, EncoderConfig
from fwp_rl.models.categorical import (
    entropy,
    greedy_action,
    kl_divergence,
    log_prob,
    sample_action,
)
from fwp_rl.models.encoders import ImpalaResnetConfig, MLPConfig, NatureCNNConfig
from fwp_rl.models.policy import POLICIES, Policy, PolicyConfig
from fwp_rl.models.q_network import QNetwork

__all__ = [
    "ACTION_RULES",
    "ActionRule",
    "ENCODERS",
    "Encoder",
    "EncoderConfig",
    "EpsilonGreedy",
    "Greedy",
    "ImpalaResnetConfig",
    "MLPConfig",
    "NatureCNNConfig",
    "POLICIES",
    "Policy",
    "PolicyConfig",
    "QNetwork",
    "Sampled",
    "entropy",
    "greedy_action",
    "kl_divergence",
    "log_prob",
    "sample_action",
]
