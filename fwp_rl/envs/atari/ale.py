"""Atari through ale-py's own vector environment: a second opinion on envpool's.

The library supplies emulator, hidden frames, frame skip, screens and random streams; episodes,
dummy steps, time limit and stack are made here, from the emulator's game over and its lives.

Measured on ale-py 0.12.1, and held by the tests of this file:

- From one start, played by the same actions, it is envpool frame for frame: rewards, lives and
  screens. Two screens differ. On the step of the game over it shows the last whole step's screens
  once more, in part or whole. And of the games whose screen has more than 210 rows (Adventure,
  King Kong and 11 others) envpool cuts off the rest, at times with the player in it.
- Hidden frames before a game: FIRE first, then a uniform draw from 0 to ``noop_max`` - 1, less one
  after FIRE, without action. envpool plays 1 to ``noop_max``, FIRE last. So with ``noop_max`` 0
  both start alike where FIRE is pressed, and one frame apart where it is not.
- Its ``episodic_life`` starts a new game for each life. Here the game goes on: the dummy after a
  lost life is one agent step of FIRE (with fire reset) or no action, unrewarded and free of the
  limit, where envpool plays hidden frames. A game that ends in it is closed there. Backgammon and
  Video Checkers have no action that does nothing, and one life.
- Its time limit counts frames, those of our dummies too, and the screen at a cut is a blend with
  the step before. So it is out of reach, and the games are cut here: a masked reset restarts single
  columns, draws on from their own streams and leaves the others as they are.
- Rewards are clipped unless told otherwise, and its stack starts with black screens.
- Sticky actions are drawn at each frame. A column depends on its own seed alone, given to
  ``reset``, for any number of threads. A step lets go of the GIL.
- An action out of range hangs for ever, as does an environment that is stepped in a forked child.
  ``close()`` stops nothing, dropping it does.
- It cannot draw: with ``render`` a twin in colour is played along, in step with the game.
"""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs.atari.rules import AtariSetup
from fwp_rl.envs.base import EnvStep, check_action
from fwp_rl.envs.bookkeeping import Books, Lifetime, check_columns, check_render
from fwp_rl.envs.flicker import Flicker
from fwp_rl.machine import usable_cores

__all__ = ["AleEnv", "action_names"]

_OUT_OF_REACH = 2**30
"""Frames: half a year of play, and far from the end of an int32."""


class AleEnv:
    """B columns of one game through ale-py, stepped in lockstep in the process that built them."""

    def __init__(
        self,
        setup: AtariSetup,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> None:
        """Raises ConfigError on bad counts or seeds, and where ale-py lacks the game or has other
        actions for it."""
        self._seeds = check_columns(num_envs, seeds, num_threads)
        from ale_py.vector_env import AtariVectorEnv  # a config needs none of it

        self.spec = setup.spec
        self._setup = setup
        self.num_envs = len(self._seeds)
        rules = setup.rules
        self._rom_id, self._rom = _find_rom(setup.game)
        self._arguments: dict[str, Any] = {
            "num_threads": min(int(num_threads or usable_cores()), self.num_envs),
            "frameskip": rules.frame_skip,
            "full_action_space": rules.full_action_space,
            "repeat_action_probability": rules.sticky_actions,
            "noop_max": rules.noop_max,
            "use_fire_reset": rules.fire_reset,
            "episodic_life": False,
            "reward_clipping": False,
            "max_num_frames_per_episode": _OUT_OF_REACH,
            "stack_num": 1,
        }
        game = AtariVectorEnv(self._rom_id, self.num_envs, **self._arguments)
        self._emulators: list[Any] = [game]
        actions = [action.name for action in game.ale.get_action_set()]
        if len(actions) != self.spec.num_actions:
            raise ConfigError(
                f"game: ale-py has {len(actions)} actions for {setup.game}, expected "
                f"{self.spec.num_actions}, as envpool has; use backend 'envpool'"
            )
        if render:
            height, width = _native_size(self._rom)
            colour: dict[str, Any] = {
                "grayscale": False,
                "maxpool": False,
                "img_height": height,
                "img_width": width,
            }
            self._emulators.append(
                AtariVectorEnv(self._rom_id, self.num_envs, **self._arguments, **colour)
            )
        # What a dummy after a lost life plays. The first action is none in all games with lives.
        fires = rules.fire_reset and "FIRE" in actions
        self._opening = actions.index("FIRE") if fires else 0
        self._max_steps = rules.max_frames // rules.frame_skip
        self._steps = np.zeros(self.num_envs, np.int64)  # [B] played in the game under way
        self._over = np.zeros(self.num_envs, np.bool_)  # [B] the game ended with the last step
        self._cut = np.zeros(self.num_envs, np.bool_)  # [B] and did so by the time limit
        self._books = Books(self.num_envs, self.spec.name)
        self._flicker = Flicker(setup.flicker, setup.screens, self._seeds)
        self._render = render
        self._lifetime = Lifetime()

    def reset(self) -> NDArray[np.uint8]:
        """Start every column: the first observations ``[B, frame_stack, 84, 84]``. Once only."""
        self._lifetime.start()
        screen, self._lives = self._reset(seed=np.array(self._seeds))
        self._stack = np.repeat(screen, self._setup.screens, axis=1)
        return self._books.begin(self._flicker(self._stack, np.ones(self.num_envs, np.bool_)))

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        self._lifetime.check_started()
        action = check_action(action, self.num_envs, self.spec.num_actions)
        dummy = self._books.dummy
        action = np.where(dummy, self._opening, action)
        answers = [emulator.step(action) for emulator in self._emulators]
        screen, reward, game_over, _, info = answers[0]
        self._colour = answers[-1][0]
        lives = info["lives"]

        # The library starts a new game after a game over by itself, in the dummy; not so after a
        # cut, nor when the game ends inside the dummy that follows a lost life.
        hidden_end = dummy & ~self._over & game_over
        restart = self._cut | hidden_end
        if restart.any():
            screen, lives = self._reset(options={"reset_mask": restart})
        new_game = self._over | hidden_end

        self._steps += ~dummy
        self._steps[new_game] = 0
        life_lost = (lives < self._lives) & (lives > 0) & self._setup.rules.episodic_life
        terminated = ~dummy & (game_over | life_lost)
        self._cut = ~dummy & ~game_over & (self._steps == self._max_steps)
        self._over = ~dummy & game_over | self._cut
        self._lives = lives
        self._stack = np.concatenate([self._stack[:, 1:], screen], axis=1)
        self._stack[new_game] = screen[new_game]  # a game's first screen fills its stack
        return self._books.enter(
            self._flicker(self._stack, new_game),
            reward=np.where(dummy, 0, reward).astype(np.float32),
            terminated=terminated,
            truncated=self._cut & ~terminated,
            game_end=self._over | hidden_end,
            game_cut=self._cut,
        )

    def render(self, column: int) -> NDArray[np.uint8]:
        """The console's own screen, ``[210, 160, 3]`` in most games, in colour."""
        self._lifetime.check_started("render")
        check_render(self._render, column, self.num_envs)
        screen: NDArray[np.uint8] = self._colour[column, 0].copy()
        return screen

    def describe(self) -> dict[str, Any]:
        """The protocol, all arguments of ale-py's vector environment, its version, the ROM's
        MD5."""
        self._lifetime.check_open()
        return {
            **self._setup.description,
            "task_id": self._rom_id,
            "num_envs": self.num_envs,
            "seeds": self._seeds,
            **self._arguments,
            "ale_py": version("ale-py"),
            "rom_md5": hashlib.md5(self._rom.read_bytes(), usedforsecurity=False).hexdigest(),
        }

    def close(self) -> None:
        """Stop the threads and drop the emulators; ale-py's own close() does neither."""
        self._lifetime.close()
        self._emulators = []

    def _reset(self, **arguments: Any) -> tuple[Any, NDArray[np.int32]]:
        """Start games as ale-py's ``reset`` has it: all columns' screens and lives."""
        answers = [emulator.reset(**arguments) for emulator in self._emulators]
        self._colour = answers[-1][0]
        screen, info = answers[0]
        return screen, info["lives"]


def action_names(game: str, *, full: bool) -> tuple[str, ...]:
    """Names of a game's own actions, or of all that the console has; ``()`` where ale-py does not
    have the game."""
    from ale_py import ALEInterface, LoggerMode

    try:
        _, rom = _find_rom(game)
    except ConfigError:
        return ()
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(rom)
    actions = ale.getLegalActionSet() if full else ale.getMinimalActionSet()
    return tuple(action.name.lower() for action in actions)


def _find_rom(game: str) -> tuple[str, Path]:
    """ale-py's name for a game, ``ms_pacman`` for ``MsPacman``, and the ROM's file."""
    from ale_py import roms

    rom_ids = {rom_id.replace("_", ""): rom_id for rom_id in roms.get_all_rom_ids()}
    rom_id = rom_ids.get(game.lower())
    path = rom_id and roms.get_rom_path(rom_id)
    if not rom_id or not path:
        raise ConfigError(f"game: ale-py does not have {game}; use backend 'envpool'")
    return rom_id, path


def _native_size(rom: Path) -> tuple[int, int]:
    """Rows and columns of the console's screen in this game."""
    from ale_py import ALEInterface

    ale = ALEInterface()
    ale.loadROM(rom)
    height, width = ale.getScreenDims()
    return height, width
