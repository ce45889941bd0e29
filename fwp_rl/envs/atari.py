"""Atari 2600 games: the named protocols, and envpool's Atari with every fact about it in one place.

Measured on envpool 1.2.5, beside what ``pool.py`` says of all its families, and held by the tests
of this file:

- With episodic life a lost life ends an episode but not the game, unless no life is left in a game
  that still runs for some frames (Wizard of Wor): then the episode runs on to the game's end.
- Ended by the game on the very step of the time limit, envpool calls an episode truncated; only
  ``info["terminated"]`` tells.
- Before an episode's first observation, hidden frames are played: a uniform draw from 1 to
  ``noop_max`` emulator frames, the last of which is FIRE with fire reset. After a lost life they
  are part of the game; their reward is discarded, and a game may end unseen inside them (Road
  Runner). The next game then inherits the frames already counted towards the time limit.
- A new game fills the stack with its first screen; after a lost life the stack moves on by one.
- Bad arguments crash the process or are accepted silently, so all are checked here.
- Scores may wrap around in long games, a reward near -1e6: it is passed on as it is.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError, Range, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig, EnvStep, VectorEnv
from fwp_rl.envs.bookkeeping import Books
from fwp_rl.envs.flicker import Flicker
from fwp_rl.envs.pool import Pool
from fwp_rl.registry import suggestion
from fwp_rl.types import EnvSpec

__all__ = [
    "GAMES",
    "PROTOCOLS",
    "AtariConfig",
    "AtariEnv",
    "AtariRules",
    "LifeFlags",
    "canonical_game",
    "describe_protocol",
    "protocol_in_words",
]

_GAMES_BY_ACTIONS = {
    3: "Backgammon Freeway Skiing",
    4: "Atlantis Atlantis2 Blackjack Breakout Casino Kaboom",
    5: "Frogger Pacman Surround Tetris VideoCheckers",
    6: "AirRaid BasicMath Bowling Carnival DemonAttack Galaxian KingKong NameThisGame Pong Pooyan "
    "Qbert SirLancelot SpaceInvaders UpNDown",
    7: "Assault",
    8: "Gopher Phoenix Tutankham",
    9: "Asterix BeamRider CrazyClimber Enduro Koolaid LostLuggage MsPacman VideoPinball",
    10: "Amidar MrDo Othello TicTacToe3d TimePilot VideoChess WizardOfWor",
    12: "Turmoil",
    14: "Asteroids KeystoneKapers KungFuMaster",
    16: "JourneyEscape",
    18: "Adventure Alien BankHeist BattleZone Berzerk Boxing Centipede ChopperCommand Crossbow "
    "Darkchambers Defender DonkeyKong DoubleDunk Earthworld ElevatorAction Entombed Et "
    "FishingDerby FlagCapture Frostbite Gravitar Hangman HauntedHouse Hero HumanCannonball "
    "IceHockey Jamesbond Kangaroo Klax Krull LaserGates MarioBros MiniatureGolf MontezumaRevenge "
    "Pitfall Pitfall2 PrivateEye Riverraid RoadRunner Robotank Seaquest Solaris SpaceWar "
    "StarGunner Superman Tennis Trondead Venture VideoCube WordZapper YarsRevenge Zaxxon",
}
_MINIMAL_ACTIONS = {
    game: actions for actions, games in _GAMES_BY_ACTIONS.items() for game in games.split()
}
_FULL_ACTIONS = {"LostLuggage": 9, "Skiing": 9}
"""The console's 18 actions, but for these two games: envpool gives them no FIRE at all."""

GAMES: tuple[str, ...] = tuple(sorted(_MINIMAL_ACTIONS))
"""Every game that envpool has, by its canonical name; importing envpool takes seconds."""

_GAME_OF_KEY = {game.lower(): game for game in GAMES}
_AFFIXES = re.compile(r"^ALE/|(NoFrameskip|Deterministic)?-v\d+$", re.IGNORECASE)


def canonical_game(name: str) -> str:
    """``Pong`` for ``pong``, ``Pong-v5``, ``ALE/Pong-v5`` or ``PongNoFrameskip-v4``; ``MsPacman``
    for ``ms_pacman``. Raises ConfigError for a game that envpool does not have."""
    key = re.sub(r"[-_ ]", "", _AFFIXES.sub("", name.strip())).lower()
    if key not in _GAME_OF_KEY:
        hint = suggestion(key, GAMES)
        raise ConfigError(
            f"game: got {name!r}, expected one of envpool's {len(GAMES)} Atari games."
            f"{' ' + hint if hint else ''}"
        )
    return _GAME_OF_KEY[key]


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
        full = _FULL_ACTIONS.get(self.game, 18)
        return EnvSpec(
            name=f"atari/{self.game}",
            observation_shape=(self.num_screens, 84, 84),
            num_actions=full if self.rules.full_action_space else _MINIMAL_ACTIONS[self.game],
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
        from fwp_rl.envs.ale import action_names

        names = action_names(self.game, full=self.rules.full_action_space)
        return names if len(names) == self.spec().num_actions else None

    def frame_rate(self) -> float:
        return 60 / self.rules.frame_skip

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> VectorEnv:
        if self.backend == "ale":
            from fwp_rl.envs.ale import AleEnv

            return AleEnv(self, num_envs, seeds, num_threads=num_threads, render=render)
        return AtariEnv(self, num_envs, seeds, num_threads=num_threads, render=render)


class LifeFlags:
    """Where episodes and games end, told from envpool's flags and the number of lives.

    A *game* ends with the emulator's game over or at the time limit; an *episode* also at a lost
    life, if ``episodic_life``.
    """

    def __init__(self, lives: NDArray[np.int32], *, episodic_life: bool) -> None:
        self._lives = lives
        self._episodic_life = episodic_life
        self._game_ended = np.zeros(len(lives), np.bool_)
        self.game_started = np.ones(len(lives), np.bool_)
        """[B] the latest observation is the first of a game."""

    def step(
        self,
        *,
        dummy: NDArray[np.bool_],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        game_over: NDArray[np.bool_],
        lives: NDArray[np.int32],
    ) -> dict[str, NDArray[np.bool_]]:
        """The arguments are envpool's answer to one step, all ``[B]``, ``dummy`` apart: this step
        was a dummy. Returns terminated, truncated, game_end and game_cut as ``Books`` takes them.
        """
        ended = terminated | truncated
        game_over = game_over & ended
        life_lost = ended & (lives < self._lives) & self._episodic_life
        # Lives that rise on a dummy, with the game under way, betray a new game: the old one
        # ended inside the hidden no-op frames.
        hidden_end = dummy & ~self._game_ended & (lives > self._lives)
        game_end = game_over | truncated
        self.game_started = (dummy & self._game_ended) | hidden_end
        self._lives = lives
        self._game_ended = game_end
        terminated = terminated | game_over | life_lost
        return {
            "terminated": terminated,
            "truncated": truncated & ~terminated,
            "game_end": game_end | hidden_end,
            "game_cut": truncated & ~game_over,
        }


class AtariEnv:
    """B columns of one game through envpool, stepped in lockstep."""

    def __init__(
        self,
        config: AtariConfig,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> None:
        self.config = config
        self.spec = config.spec()
        rules = config.rules
        self._pool = Pool(
            f"{config.game}-v5",
            num_envs,
            seeds,
            num_actions=self.spec.num_actions,
            num_threads=num_threads,
            render=render,
            stack_num=config.num_screens,
            frame_skip=rules.frame_skip,
            full_action_space=rules.full_action_space,
            repeat_action_probability=rules.sticky_actions,
            episodic_life=rules.episodic_life,
            noop_max=max(rules.noop_max, 1),
            use_fire_reset=rules.fire_reset,
            max_episode_steps=rules.max_frames // rules.frame_skip,
            reward_clip=False,
        )
        self.num_envs = self._pool.num_envs
        self._books = Books(self.num_envs)
        self._flags: LifeFlags | None = None
        self._flicker = Flicker(config.flicker, config.num_screens, seeds)

    def reset(self) -> NDArray[np.uint8]:
        """Start every column: the first observations ``[B, frame_stack, 84, 84]``. Once only."""
        obs, info = self._pool.reset()
        self._flags = LifeFlags(info["lives"], episodic_life=self.config.rules.episodic_life)
        return self._flicker(obs, np.ones(self.num_envs, np.bool_))

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        obs, _, terminated, truncated, info = self._pool.step(action)
        assert self._flags is not None, "the pool refuses a step before reset()"
        ends = self._flags.step(
            dummy=self._books.dummy,
            terminated=terminated,
            truncated=truncated,
            game_over=info["terminated"] == 1,
            lives=info["lives"],
        )
        obs = self._flicker(obs, self._flags.game_started)
        return self._books.enter(obs, reward=info["reward"], **ends)

    def render(self, column: int) -> NDArray[np.uint8]:
        """The console's own screen, ``[210, 160, 3]`` in most games, in colour."""
        return self._pool.render(column)

    def describe(self) -> dict[str, Any]:
        """The protocol, envpool's whole configuration, its version and that of its assets, the
        ROM's MD5."""
        arguments = self._pool.arguments
        rom = Path(arguments["base_path"]) / "atari" / "roms" / f"{arguments['task']}.bin"
        return {
            **describe_protocol(self.config),
            **self._pool.describe(),
            "rom_md5": hashlib.md5(rom.read_bytes(), usedforsecurity=False).hexdigest(),
        }

    def close(self) -> None:
        """Stop the pool's threads."""
        self._pool.close()


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
