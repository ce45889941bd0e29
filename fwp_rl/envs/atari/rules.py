"""The rules by which an Atari game is played, and the named sets of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fwp_rl.types import EnvSpec

__all__ = ["PAPER_RULES", "PROTOCOLS", "AtariRules", "AtariSetup"]


@dataclass(frozen=True, kw_only=True)
class AtariRules:
    """How a game is played, every value settled: what a score depends on; as in AtariConfig."""

    frame_skip: int
    full_action_space: bool
    sticky_actions: float
    episodic_life: bool
    noop_max: int
    fire_reset: bool
    max_frames: int


_MACHADO = AtariRules(
    frame_skip=4,
    full_action_space=True,
    sticky_actions=0.25,
    episodic_life=False,
    noop_max=0,
    fire_reset=False,
    max_frames=108_000,
)
PROTOCOLS: dict[str, AtariRules] = {
    "classic": AtariRules(
        frame_skip=4,
        full_action_space=False,
        sticky_actions=0.0,
        episodic_life=True,
        noop_max=30,
        fire_reset=True,
        max_frames=108_000,
    ),
    "machado": _MACHADO,
    "machado_2018": replace(_MACHADO, frame_skip=5),
}
"""``classic``: Mnih et al. (2015), as IMPALA (Espeholt et al., 2018) and the fast weight papers
play: chance comes from no-op starts. ``machado``: Machado et al., "Revisiting the Arcade Learning
Environment" (2018): chance comes from sticky actions. ``docs/environments.md`` has the table."""

PAPER_RULES = replace(PROTOCOLS["classic"], max_frames=400_000)
"""As the code of the fast weight papers evaluates: the wrappers of ``classic`` without a time limit
of their own; gym's for NoFrameskip-v4 cut a game at 400,000 frames."""


@dataclass(frozen=True, kw_only=True)
class AtariSetup:
    """What an emulator is told, every value settled."""

    game: str
    spec: EnvSpec
    rules: AtariRules
    screens: int
    """In an observation."""
    flicker: float
    """Probability, for each screen, that it is black."""
    description: Mapping[str, Any]
    """What both emulators say of the protocol in ``describe``."""
