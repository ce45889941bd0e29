"""This package's environments as Gymnasium has them, for anybody's agents.

``make`` gives a ``gymnasium.vector.VectorEnv`` with the preprocessing that policies here are
trained on. It restarts on the next step: the ``terminated`` or ``truncated`` of a step comes with
the episode's last observation, the action of the next step is ignored, its reward is 0, and its
observation begins the new episode.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from fwp_rl.config import ConfigError
from fwp_rl.envs import EnvConfig, Game, VectorEnv
from fwp_rl.envs.bookkeeping import check_columns
from fwp_rl.runs.policy import load_env
from fwp_rl.runs.presets import preset_env
from fwp_rl.runs.seeding import env_seeds
from fwp_rl.runs.yaml_files import preset_names

__all__ = ["GymnasiumVectorEnv", "make"]

Array = NDArray[Any]


def make(
    source: str | Path | EnvConfig,
    num_envs: int = 1,
    *,
    render_mode: Literal["rgb_array"] | None = None,
    num_threads: int | None = None,
) -> "GymnasiumVectorEnv":
    """The environment that a policy was trained on, or that a preset trains on.

    source       a run directory, a policy folder or a checkpoint; the name of a preset or the path
                 of its .yaml file; or an environment's config
    num_envs     copies that are stepped in lockstep
    render_mode  ``rgb_array``: ``render()`` gives their screens
    num_threads  of the emulators; None: as many as they think best

    ConfigError or CheckpointError, before anything is made, where there is no such environment.
    """
    if isinstance(source, EnvConfig):
        config = source
    elif Path(source).suffix in (".yaml", ".yml") or _is_name(source):
        config = preset_env(source)
    else:
        config = load_env(source)
    return GymnasiumVectorEnv(config, num_envs, render_mode=render_mode, num_threads=num_threads)


def _is_name(source: str | Path) -> bool:
    """Of a preset: it has one word, and no folder is called so unless there is such a preset."""
    if isinstance(source, Path) or len(Path(source).parts) != 1 or source == "..":
        return False
    return source.replace("-", "_") in preset_names() or not Path(source).is_dir()


class GymnasiumVectorEnv(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """B environments of one config, stepped in lockstep; each restarts on its next step.

    ``info`` of reset and step holds ``reset`` [B] bool, the observation begins an episode (what
    ``Player.reset`` takes), and of step ``mask`` [B] bool, false where the action was ignored. A
    step that ends whole games, which may hold several episodes (a lost life ends one in Atari's
    ``classic``), adds ``game_return``, ``game_length`` and ``game_truncated`` [B], and with an
    underscore before the name where they hold: as Gymnasium does.
    """

    _env: VectorEnv | None = None

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int = 1,
        *,
        render_mode: Literal["rgb_array"] | None = None,
        num_threads: int | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode: got {render_mode!r}, expected 'rgb_array' or None")
        check_columns(num_envs, range(num_envs) if isinstance(num_envs, int) else (), num_threads)
        spec, rate = config.spec(), config.frame_rate()
        if render_mode is not None and rate is None:
            raise ConfigError(f"render_mode: {spec.name} has no screen, expected None")
        self.config = config
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {
            "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP,
            "render_modes": [] if rate is None else ["rgb_array"],
            "render_fps": rate,
        }
        box: spaces.Box[Any]
        if spec.observation_dtype == "uint8":
            box = spaces.Box(0, 255, spec.observation_shape, np.uint8)
        else:
            box = spaces.Box(-np.inf, np.inf, spec.observation_shape, np.float32)
        self.single_observation_space = box
        self.single_action_space = spaces.Discrete(spec.num_actions)
        self.observation_space = batch_space(box, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._num_threads = num_threads

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin anew in all environments, which are made for it.

        seed  one for each environment; or one for all, from which each has its own as it has in
              ``fwp-rl evaluate --seed``; None draws one
        """
        if options:
            raise ValueError(f"options: got {sorted(options)}, expected none: all begin together")
        if self.closed:
            raise RuntimeError("this environment was closed: make a new one")
        if seed is None or isinstance(seed, (int, np.integer)):
            super().reset(seed=None if seed is None else int(seed))
            base = int(self.np_random.integers(2**31)) if seed is None else int(seed)
            seeds = env_seeds(base, self.num_envs, stream="evaluation")
        else:
            seeds = check_columns(self.num_envs, seed)
        self._close_columns()
        self._env = self.config.make(
            self.num_envs,
            seeds,
            num_threads=self._num_threads,
            render=self.render_mode is not None,
        )
        return self._env.reset(), {"reset": np.ones(self.num_envs, np.bool_)}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Play one action per environment. ActionError for anything but B action numbers."""
        answer = self._columns("step").step(actions)
        info: dict[str, Any] = {"reset": answer.reset, "mask": answer.mask}
        if answer.games:
            info |= self._of_games(answer.games)
        return answer.obs, answer.reward, answer.terminated, answer.truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """The screen [height, width, 3] of each environment; None without a ``render_mode``."""
        if self.render_mode is None:
            return None
        columns = self._columns("render")
        return tuple(columns.render(column) for column in range(self.num_envs))

    def describe(self) -> dict[str, Any]:
        """Every argument and version that a result depends on, ready for JSON."""
        return self._columns("describe").describe()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        self._close_columns()

    def _columns(self, call: str) -> VectorEnv:
        if self.closed:
            raise RuntimeError("this environment was closed: make a new one")
        if self._env is None:
            raise RuntimeError(f"{call}() before reset(): call reset() for the first observations")
        return self._env

    def _close_columns(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _of_games(self, games: Sequence[Game]) -> dict[str, Array]:
        info: dict[str, Array] = {
            "game_return": np.zeros(self.num_envs),
            "game_length": np.zeros(self.num_envs, np.int64),
            "game_truncated": np.zeros(self.num_envs, np.bool_),
        }
        ended = np.zeros(self.num_envs, np.bool_)
        for game in games:
            ended[game.column] = True
            info["game_return"][game.column] = game.episode_return
            info["game_length"][game.column] = game.length
            info["game_truncated"][game.column] = game.truncated
        return info | {f"_{name}": ended.copy() for name in info}
