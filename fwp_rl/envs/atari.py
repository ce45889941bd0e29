"""Atari 2600 games through envpool, with every fact about envpool in one place.

Measured on envpool 1.2.5, and held by the tests of this file:

- The step after an end ignores its action and returns the first observation of what follows: the
  dummy step of ``fwp_rl/types.py``, with reward 0.
- With episodic life a lost life ends an episode but not the game, unless no life is left in a game
  that still runs for some frames (Wizard of Wor): then the episode runs on to the game's end.
- Ended by the game on the very step of the time limit, envpool calls an episode truncated; only
  ``info["terminated"]`` tells.
- Before an episode's first observation, hidden frames are played: a uniform draw from 1 to
  ``noop_max`` emulator frames, the last of which is FIRE with fire reset. After a lost life they
  are part of the game; their reward is discarded, and a game may end unseen inside them (Road
  Runner). The next game then inherits the frames already counted towards the time limit.
- Bad arguments and actions crash the process or are accepted silently, so all are checked here.
- Scores may wrap around in long games, a reward near -1e6: it is passed on as it is.

A synchronous pool (``batch_size == num_envs``) returns its rows in column order.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError, Range, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig, EnvStep, check_action
from fwp_rl.envs.bookkeeping import Books, check_columns, check_render
from fwp_rl.registry import suggestion
from fwp_rl.types import EnvSpec

__all__ = ["GAMES", "AtariConfig", "AtariEnv", "LifeFlags", "canonical_game"]

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


@ENVS.register("atari")
@dataclass(frozen=True, kw_only=True)
class AtariConfig(EnvConfig):
    """An Atari 2600 game: 84 x 84 grey screens, the last ``frame_stack`` of them."""

    game: str = "Breakout"
    """Name of the game: Pong, pong, ALE/Pong-v5 and PongNoFrameskip-v4 are the same one."""
    frame_stack: Annotated[int, Range(1, 4)] = 4
    """Screens in an observation, one per agent step."""
    frame_skip: Annotated[int, Range(1)] = 4
    """Emulator frames per agent step; the screen is the maximum of the last two."""
    full_action_space: bool = False
    """All 18 actions of the console (9 in Skiing and LostLuggage), not the game's own few."""
    sticky_actions: Annotated[float, Range(0, 1)] = 0.0
    """Probability, at each emulator frame, that the previous action is repeated instead."""
    episodic_life: bool = True
    """A lost life ends the episode (not the game)."""
    noop_max: Annotated[int, Range(0)] = 30
    """Each episode starts after 1 to this many random emulator frames without action; 0 (or 1)
    leaves the one frame that is always played, so that starts are not random."""
    fire_reset: bool = True
    """Press FIRE at the start of each episode in games that have FIRE among their actions, as the
    last of the no-op frames."""
    max_frames: Annotated[int, Range(1)] = 108_000
    """Emulator frames until a game is cut; counts played steps, so it is rounded down to whole
    agent steps, and no-op frames are free. 108,000 are 30 minutes of play."""

    def __post_init__(self) -> None:
        check_ranges(self)
        object.__setattr__(self, "game", canonical_game(self.game))
        if self.max_frames < self.frame_skip:
            raise ConfigError(
                f"max_frames: got {self.max_frames}, expected at least frame_skip = "
                f"{self.frame_skip}, which is one agent step"
            )
        if self.full_action_space and self.fire_reset:
            raise ConfigError(
                "fire_reset: all 18 actions hold FIRE, so that it would be pressed at the start of "
                "every game, also of those that have no use for it; with full_action_space, set "
                "fire_reset to false"
            )

    def spec(self) -> EnvSpec:
        full = _FULL_ACTIONS.get(self.game, 18)
        return EnvSpec(
            name=f"atari/{self.game}",
            observation_shape=(self.frame_stack, 84, 84),
            num_actions=full if self.full_action_space else _MINIMAL_ACTIONS[self.game],
        )

    def frame_rate(self) -> float:
        return 60 / self.frame_skip

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> "AtariEnv":
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
    """B columns of one game: an envpool pool that steps them in lockstep.

    The pool lives in the process that built it: used in a forked child it would hang.
    """

    def __init__(
        self,
        config: AtariConfig,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> None:
        seeds = check_columns(num_envs, seeds, num_threads)
        import envpool  # takes seconds, and a config needs none of it

        self.config = config
        self.spec = config.spec()
        self.num_envs = int(num_envs)
        self._render = render
        self._pid = os.getpid()
        self._task_id = f"{config.game}-v5"
        self._pool: Any = envpool.make(
            self._task_id,
            env_type="gymnasium",
            num_envs=self.num_envs,
            seed=seeds,
            num_threads=0 if num_threads is None else int(num_threads),
            stack_num=config.frame_stack,
            frame_skip=config.frame_skip,
            full_action_space=config.full_action_space,
            repeat_action_probability=config.sticky_actions,
            episodic_life=config.episodic_life,
            noop_max=max(config.noop_max, 1),
            use_fire_reset=config.fire_reset,
            max_episode_steps=config.max_frames // config.frame_skip,
            reward_clip=False,
            render_mode="rgb_array" if render else None,
        )
        self._books = Books(self.num_envs)
        self._flags: LifeFlags | None = None

    def reset(self) -> NDArray[np.uint8]:
        """Start every column: the first observations ``[B, frame_stack, 84, 84]``. Once only."""
        pool = self._live_pool()
        if self._flags is not None:
            raise RuntimeError("reset() was called before: episodes restart by themselves")
        obs, info = pool.reset()
        self._flags = LifeFlags(info["lives"], episodic_life=self.config.episodic_life)
        first: NDArray[np.uint8] = obs
        return first

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        pool = self._live_pool()
        if self._flags is None:
            raise RuntimeError("step() before reset(): call reset() for the first observations")
        action = check_action(action, self.num_envs, self.spec.num_actions)
        obs, _, terminated, truncated, info = pool.step(action)
        ends = self._flags.step(
            dummy=self._books.dummy,
            terminated=terminated,
            truncated=truncated,
            game_over=info["terminated"] == 1,
            lives=info["lives"],
        )
        return self._books.enter(obs, reward=info["reward"], **ends)

    def render(self, column: int) -> NDArray[np.uint8]:
        """The console's own screen, ``[210, 160, 3]`` in most games, in colour."""
        pool = self._live_pool()
        check_render(self._render, column, self.num_envs)
        screen: NDArray[np.uint8] = pool.render(env_ids=[int(column)])[0]
        return screen

    def describe(self) -> dict[str, Any]:
        """envpool's whole configuration, its version and that of its assets, the ROM's MD5."""
        arguments = dict(self._live_pool().config)
        assets = Path(arguments.pop("base_path"))  # a path of this machine
        rom = assets / "atari" / "roms" / f"{arguments['task']}.bin"
        return {
            "task_id": self._task_id,
            **arguments,
            "envpool": version("envpool"),
            "envpool_assets": version("envpool-assets"),
            "rom_md5": hashlib.md5(rom.read_bytes(), usedforsecurity=False).hexdigest(),
        }

    def close(self) -> None:
        """Stop the pool's threads and drop it; envpool's own close() does neither."""
        self._pool = None

    def _live_pool(self) -> Any:
        if self._pool is None:
            raise RuntimeError("this environment was closed: make a new one")
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this environment belongs to process {self._pid} and would hang in its forked "
                f"child {os.getpid()}: make it in the process that steps it, and start workers "
                "with the 'spawn' method"
            )
        return self._pool
