"""Any Gymnasium environment with discrete actions, through gymnasium's own vector environments.

They restart on the next step, as ``fwp_rl/types.py`` has it. Slower than envpool: a Python loop
over columns, or a process for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import ConfigError, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig, EnvStep, check_action
from fwp_rl.envs.bookkeeping import Books, check_columns, check_render
from fwp_rl.types import EnvSpec

__all__ = ["GymnasiumConfig", "GymnasiumEnv"]


@ENVS.register("gymnasium")
@dataclass(frozen=True, kw_only=True)
class GymnasiumConfig(EnvConfig):
    """Any Gymnasium environment with discrete actions, by its id.

    uint8 images [H, W] or [H, W, C] become [C, H, W]; numeric boxes keep their shape as float32;
    whatever else Gymnasium can flatten becomes a float32 vector. Your own environment: register it
    from an installed package (Gymnasium's entry point ``gymnasium.envs``), or in your script before
    the config is made.
    """

    id: str = "CartPole-v1"
    """The environment's id in Gymnasium's registry, with its version."""
    processes: bool = False
    """Run each column in a process of its own: for environments that are slow to step."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if ":" in self.id:
            raise ConfigError(
                f"id: got {self.id!r}; a module is not imported because a config names it: import "
                "it in your script, or register the environment from an installed package"
            )
        import gymnasium

        try:
            gymnasium.spec(self.id)
        except gymnasium.error.Error as error:
            raise ConfigError(
                f"id: got {self.id!r}, expected one that Gymnasium has. {error}"
            ) from (None)

    def spec(self) -> EnvSpec:
        return _probe(self.id)[0]

    def frame_rate(self) -> float | None:
        return _probe(self.id)[1]

    def make(
        self,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        render: bool = False,
    ) -> "GymnasiumEnv":
        seeds = check_columns(num_envs, seeds, num_threads)
        return GymnasiumEnv(self, seeds, render=render)


@cache
def _probe(id: str) -> tuple[EnvSpec, float | None]:
    """Spec and frame rate of an environment, from one instance of it."""
    import gymnasium

    try:
        env: Any = gymnasium.make(id)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"{id} cannot be made: {error}") from error
    try:
        actions, observations = env.action_space, env.observation_space
        if not isinstance(actions, gymnasium.spaces.Discrete):
            raise ConfigError(f"{id} has the action space {actions}, expected Discrete")
        example = _observe(observations, gymnasium.vector.utils.batch_space(observations).sample())
        films = "rgb_array" in env.metadata.get("render_modes", ())
        fps = float(env.metadata.get("render_fps") or 30) if films else None
    finally:
        env.close()
    spec = EnvSpec(
        name=f"gymnasium/{id}",
        observation_shape=example.shape[1:],
        num_actions=int(actions.n),
    )
    return spec, fps


def _observe(space: Any, obs: Any) -> NDArray[Any]:
    """A batch of observations of a space, as ``GymnasiumConfig`` describes."""
    from gymnasium import spaces
    from gymnasium.vector.utils import batch_space, iterate

    if isinstance(space, spaces.Box):
        batch = np.asarray(obs)
        if batch.dtype == np.uint8 and batch.ndim in (3, 4):
            images = batch if batch.ndim == 4 else batch[..., None]
            return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return batch.astype(np.float32)
    if not space.is_np_flattenable:
        raise ConfigError(f"observations of the space {space} cannot be flattened to a vector")
    rows = iterate(batch_space(space, len(_first_leaf(obs))), obs)
    return np.stack([np.asarray(spaces.flatten(space, row), np.float32) for row in rows])


def _first_leaf(obs: Any) -> Any:
    while isinstance(obs, (dict, tuple)):
        obs = next(iter(obs.values())) if isinstance(obs, dict) else obs[0]
    return obs


class GymnasiumEnv:
    """B columns of a Gymnasium environment."""

    def __init__(
        self, config: GymnasiumConfig, seeds: Sequence[int], *, render: bool = False
    ) -> None:
        import gymnasium

        self.config = config
        self.spec = config.spec()
        self.num_envs = len(seeds)
        self._seeds = list(seeds)
        self._render = render
        self._books = Books(self.num_envs)
        vector: dict[str, Any] = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        if config.processes:
            vector["context"] = "spawn"
        arguments: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
        try:
            self._env: Any = gymnasium.make_vec(
                config.id,
                num_envs=self.num_envs,
                vectorization_mode="async" if config.processes else "sync",
                vector_kwargs=vector,
                **arguments,
            )
        except gymnasium.error.DependencyNotInstalled as error:
            raise ImportError(f"{config.id} cannot be made: {error}") from error
        self._space = self._env.single_observation_space
        actions: Any = self._env.single_action_space
        self._first_action = int(actions.start)
        self._started = False

    def reset(self) -> NDArray[Any]:
        """Start every column: the first observations. Once only."""
        env = self._live()
        if self._started:
            raise RuntimeError("reset() was called before: episodes restart by themselves")
        self._started = True
        return _observe(self._space, env.reset(seed=self._seeds)[0])

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        env = self._live()
        if not self._started:
            raise RuntimeError("step() before reset(): call reset() for the first observations")
        action = check_action(action, self.num_envs, self.spec.num_actions)
        obs, reward, terminated, truncated, _ = env.step(action + self._first_action)
        truncated = truncated & ~terminated
        return self._books.enter(
            _observe(self._space, obs),
            reward=np.asarray(reward, np.float32),
            terminated=terminated,
            truncated=truncated,
            game_end=terminated | truncated,
            game_cut=truncated,
        )

    def render(self, column: int) -> NDArray[np.uint8]:
        """The environment's own picture of one column, ``[height, width, 3]``."""
        import gymnasium

        env = self._live()
        check_render(self._render, column, self.num_envs)
        try:
            screen: NDArray[np.uint8] = env.render()[column]
        except gymnasium.error.DependencyNotInstalled as error:
            raise ImportError(f"{self.config.id} cannot be drawn: {error}") from error
        return screen

    def describe(self) -> dict[str, Any]:
        """The id, the environment's class, arguments and limit, gymnasium's version."""
        import gymnasium

        self._live()
        spec = gymnasium.spec(self.config.id)
        return {
            "backend": "gymnasium",
            "task_id": self.config.id,
            "entry_point": str(spec.entry_point),
            "arguments": {name: repr(value) for name, value in spec.kwargs.items()},
            "max_episode_steps": spec.max_episode_steps,
            "seeds": self._seeds,
            "gymnasium": version("gymnasium"),
        }

    def close(self) -> None:
        """Close the columns and their processes."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _live(self) -> Any:
        if self._env is None:
            raise RuntimeError("this environment was closed: make a new one")
        return self._env
