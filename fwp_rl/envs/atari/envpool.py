"""envpool's Atari, with every fact about it in one place.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.envs.atari.rules import AtariSetup
from fwp_rl.envs.base import EnvStep
from fwp_rl.envs.bookkeeping import Books
from fwp_rl.envs.flicker import Flicker
from fwp_rl.envs.pool import Pool

__all__ = ["AtariEnv", "LifeFlags"]


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
        setup: AtariSetup,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> None:
        self.spec = setup.spec
        self._setup = setup
        rules = setup.rules
        self._pool = Pool(
            f"{setup.game}-v5",
            num_envs,
            seeds,
            num_actions=self.spec.num_actions,
            num_threads=num_threads,
            render=render,
            stack_num=setup.screens,
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
        self._books = Books(self.num_envs, self.spec.name)
        self._flags: LifeFlags | None = None
        self._flicker = Flicker(setup.flicker, setup.screens, seeds)

    def reset(self) -> NDArray[np.uint8]:
        """Start every column: the first observations ``[B, frame_stack, 84, 84]``. Once only."""
        obs, info = self._pool.reset()
        self._flags = LifeFlags(info["lives"], episodic_life=self._setup.rules.episodic_life)
        return self._books.begin(self._flicker(obs, np.ones(self.num_envs, np.bool_)))

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
            **self._setup.description,
            **self._pool.describe(),
            "rom_md5": hashlib.md5(rom.read_bytes(), usedforsecurity=False).hexdigest(),
        }

    def close(self) -> None:
        """Stop the pool's threads."""
        self._pool.close()
