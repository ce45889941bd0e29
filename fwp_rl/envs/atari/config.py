"""What an Atari environment is told: the game, the protocol, and the exceptions from it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from fwp_rl.config import ConfigError, Range, check_ranges
from fwp_rl.envs.atari.ale import AleEnv, action_names
from fwp_rl.envs.atari.envpool import AtariEnv
from fwp_rl.envs.atari.games import FULL_ACTIONS, MINIMAL_ACTIONS, canonical_game
from fwp_rl.envs.atari.rules import PAPER_RULES, PROTOCOLS, AtariRules, AtariSetup
from fwp_rl.envs.atari.scores import SCORES
from fwp_rl.envs.base import ENVS, EnvConfig, VectorEnv
from fwp_rl.types import EnvSpec

__all__ = ["AtariConfig", "describe_protocol", "protocol_in_words"]


@ENVS.register("atari")
@dataclass(frozen=True, kw_only=True)
class AtariConfig(EnvConfig):
    """An Atari 2600 game: its last four screens (or fewer), grey, 84 x 84.

    A protocol settles the rules of play; each rule can be set on its own as well, and is then
    named beside the protocol in every result. A rule that is set as the protocol has it becomes
    None: it is the protocol's.
    """

    game: str = "Breakout"
    """Name of the game: Pong, pong, ALE/Pong-v5 and PongNoFrameskip-v4 are the same one."""
    protocol: Literal["classic", "machado", "machado_2018"] = "classic"
    """classic: no-op starts, FIRE at the start, a lost life ends the episode, the game's own
    actions. machado: sticky actions (0.25), all 18 actions, whole games as episodes, frame skip 4
    as in ALE v5; machado_2018: the same with the paper's frame skip 5. All are cut at 108,000
    frames."""
    backend: Literal["envpool", "ale"] = "envpool"
    """Whose vectorised emulator: envpool, or ale-py's own, as a second opinion."""
    frame_stack: Annotated[int | None, Range(1, 4)] = None
    """Screens in an observation, one per agent step; none: 4, or 1 with flicker."""
    flicker: Annotated[float, Range(0, 1)] = 0.0
    """Probability, for each screen, that it is black: 0.5 and one screen make the game of
    Hausknecht and Stone (2015) that needs a memory."""
    frame_skip: Annotated[int | None, Range(1, 10_000)] = None
    """Emulator frames per agent step; the screen is the maximum of the last two. None, here and
    below: as the protocol has it."""
    full_action_space: bool | None = None
    """All 18 actions of the console (9 in Skiing and LostLuggage), not the game's own few."""
    sticky_actions: Annotated[float | None, Range(0, 1)] = None
    """Probability, at each emulator frame, that the previous action is repeated instead."""
    episodic_life: bool | None = None
    """A lost life ends the episode (not the game)."""
    noop_max: Annotated[int | None, Range(0, 1000)] = None
    """Each episode starts after 1 to this many random emulator frames without action; 0 (or 1)
    leaves the one frame that is always played, so that starts are not random."""
    fire_reset: bool | None = None
    """Press FIRE at the start of each episode in games that have FIRE among their actions, as the
    last of the no-op frames."""
    max_frames: Annotated[int | None, Range(1, 2**31 - 1)] = None
    """Emulator frames until a game is cut; counts played steps, so it is rounded down to whole
    agent steps, and no-op frames are free. 108,000 are 30 minutes of play."""

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "game", canonical_game(self.game))
        for name, value in asdict(PROTOCOLS[self.protocol]).items():
            if getattr(self, name) == value:
                object.__setattr__(self, name, None)
        rules = self.rules
        if rules.max_frames < rules.frame_skip:
            raise ConfigError(
                f"max_frames: got {rules.max_frames}, expected at least frame_skip = "
                f"{rules.frame_skip}, which is one agent step"
            )
        if rules.full_action_space and rules.fire_reset:
            raise ConfigError(
                "fire_reset: all 18 actions hold FIRE, so that it would be pressed at the start of "
                "every game, also of those that have no use for it; with full_action_space, set "
                "fire_reset to false"
            )

    @property
    def rules(self) -> AtariRules:
        """The protocol's rules, with those set here in their place."""
        return replace(PROTOCOLS[self.protocol], **self.changed_rules)

    @property
    def changed_rules(self) -> dict[str, Any]:
        """The rules that are not the protocol's."""
        given = {field.name: getattr(self, field.name) for field in fields(AtariRules)}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def num_screens(self) -> int:
        """``frame_stack``, settled."""
        if self.frame_stack is None:
            return 1 if self.flicker else 4
        return self.frame_stack

    def spec(self) -> EnvSpec:
        full = FULL_ACTIONS.get(self.game, 18)
        return EnvSpec(
            name=f"atari/{self.game}",
            observation_shape=(self.num_screens, 84, 84),
            observation_dtype="uint8",
            num_actions=full if self.rules.full_action_space else MINIMAL_ACTIONS[self.game],
        )

    def settled(self) -> dict[str, Any]:
        return asdict(self.rules)

    def terms(self) -> str:
        rules = ", ".join(f"{rule} {value}" for rule, value in asdict(self.rules).items())
        screens = f"{self.num_screens} screen{'s' if self.num_screens > 1 else ''}"
        protocol = protocol_in_words(describe_protocol(self))
        return f"Protocol: {protocol} ({rules}); {self.backend}, {screens}"

    def action_names(self) -> tuple[str, ...] | None:
        """As the emulator of ale-py has them; None where it lacks the game."""
        names = action_names(self.game, full=self.rules.full_action_space)
        return names if len(names) == self.spec().num_actions else None

    def frame_rate(self) -> float:
        return 60 / self.rules.frame_skip

    def frames_per_step(self) -> int:
        return self.rules.frame_skip

    def human_scores(self) -> tuple[float, float] | None:
        return SCORES.get(self.game)

    def guessed_speed(self) -> float:
        return 500.0

    def paper_protocol(self) -> "AtariConfig":
        limited = replace(self, max_frames=PAPER_RULES.max_frames)
        if limited.rules != PAPER_RULES:
            raise ConfigError(
                "protocol: got paper, which plays by the rules of classic, for a policy that was "
                f"trained by others ({self.terms()}); use --protocol games"
            )
        return limited

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> VectorEnv:
        emulator = AleEnv if self.backend == "ale" else AtariEnv
        setup = AtariSetup(
            game=self.game,
            spec=self.spec(),
            rules=self.rules,
            screens=self.num_screens,
            flicker=self.flicker,
            description=describe_protocol(self),
        )
        return emulator(setup, num_envs, seeds, num_threads=num_threads, render=render)


def describe_protocol(config: AtariConfig) -> dict[str, Any]:
    """The part of ``describe`` that both backends share: protocol, its rules, what differs."""
    return {
        "backend": config.backend,
        "protocol": config.protocol,
        "changed_rules": config.changed_rules,
        "rules": asdict(config.rules),
        "flicker": config.flicker,
        "screens": config.num_screens,
    }


def protocol_in_words(described: Mapping[str, Any]) -> str:
    """``machado``, or ``classic, but frame_skip 2`` where a rule is not the protocol's.

    described  what ``describe`` said, now or when a result was stored
    """
    changes = dict(described.get("changed_rules", {}))
    if described.get("flicker"):
        changes["flicker"] = described["flicker"]
    words = ", ".join(f"{rule} {value}" for rule, value in changes.items())
    protocol: str = described["protocol"]
    return f"{protocol}, but {words}" if words else protocol
