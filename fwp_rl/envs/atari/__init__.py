"""Atari 2600 games: names and protocols, two emulators to play them with, scores to compare."""

from fwp_rl.envs.atari.config import AtariConfig, describe_protocol, protocol_in_words
from fwp_rl.envs.atari.games import GAMES, canonical_game, is_game
from fwp_rl.envs.atari.rules import PROTOCOLS, AtariRules

__all__ = [
    "GAMES",
    "PROTOCOLS",
    "AtariConfig",
    "AtariRules",
    "canonical_game",
    "describe_protocol",
    "is_game",
    "protocol_in_words",
]
