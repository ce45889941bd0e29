"""Any Gymnasium environment with discrete actions, through gymnasium's own vector environments.

They restart on the next step, as ``fwp_rl/types.py`` has it. Slower than envpool: a Python loop
over columns, or a process for each.
"""

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from multiprocessing.connection import wait
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fwp_rl.config import BOOKKEEPING, ConfigError, Range, check_ranges
from fwp_rl.envs.base import ENVS, EnvConfig, EnvStep, check_action
from fwp_rl.envs.bookkeeping import Books, Lifetime, check_columns, check_render
from fwp_rl.envs.spaces import observer, screen
from fwp_rl.registry import named, shown
from fwp_rl.types import EnvSpec

__all__ = ["GymnasiumConfig", "GymnasiumEnv"]

Argument = bool | int | float | str

_BROKEN_PIPE = (EOFError, BrokenPipeError, ConnectionResetError)
"""What a pipe says once the process at its other end is gone."""


@ENVS.register("gymnasium")
@dataclass(frozen=True, kw_only=True)
class GymnasiumConfig(EnvConfig):
    """Any Gymnasium environment with discrete actions, by its id.

    A box of three axes, [H, W, C] or [C, H, W], is an image and becomes [C, H, W], as does uint8
    [H, W]: uint8 as it is, any other type as float32, divided by 255 where the box's bounds are 0
    and 255. Other numeric boxes keep their shape as float32; whatever else Gymnasium can flatten
    becomes a float32 vector. uint8 that is no image is divided by its upper bound.

    Your own environment: register it before the config is made, in your script or in a module that
    the command line is told of by --import. Gymnasium 1.4.0 does not load the entry point
    ``gymnasium.envs`` of installed packages.
    """

    id: str = "CartPole-v1"
    """The environment's id in Gymnasium's registry, with its version."""
    max_episode_steps: Annotated[int | None, Range(1)] = None
    """Steps until an episode is cut; none: the limit that the id was registered with."""
    kwargs: dict[str, Argument] = field(default_factory=dict)
    """Arguments of the environment's own, as gymnasium.make takes them."""
    processes: Annotated[bool, BOOKKEEPING] = False
    """Run each environment in a process of its own: for environments that are slow to step."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if ":" in self.id:
            raise ConfigError(
                f"id: got {shown(self.id)}; a module is not imported because a config names it: "
                "name it with --import (in Python, import it before the config is made)"
            )
        if self.id.startswith("ALE/"):
            raise ConfigError(
                f"id: got {shown(self.id)}; Atari is a family of its own here, with protocols: "
                f"env:atari --env.game {self.id.removeprefix('ALE/').partition('-')[0]}"
            )
        import gymnasium

        try:
            registered = gymnasium.spec(self.id).max_episode_steps
        except gymnasium.error.Error as error:
            raise ConfigError(
                f"id: got {shown(self.id)}, expected one that Gymnasium has. {str(error)[:200]} "
                "Your own: --import the module that registers it (in Python, import it)"
            ) from None
        if self.max_episode_steps is None and registered is None:
            raise ConfigError(
                f"max_episode_steps: {self.id} is registered without a limit, so that an episode "
                "might never end: say after how many steps it is cut"
            )
        self._check_kwargs()

    def _check_kwargs(self) -> None:
        given: Any = self.kwargs
        if not isinstance(given, dict):
            raise ConfigError(f"kwargs: got {shown(given)}, expected a mapping of names to values")
        object.__setattr__(self, "kwargs", dict(given))  # what is frozen is not the caller's
        for name, value in given.items():
            if not isinstance(name, str):
                raise ConfigError(f"kwargs: got the name {shown(name)}, expected a string")
            if name in ("max_episode_steps", "render_mode"):
                raise ConfigError(f"kwargs: {name} has a setting of its own here; leave it out")
            if not isinstance(value, Argument):
                raise ConfigError(
                    f"kwargs: got {named(name)} = {shown(value)}, expected True, False, a number "
                    "or a string"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(
                    f"kwargs: got {name} = {value!r}, expected a finite number: JSON knows no other"
                )

    @property
    def step_limit(self) -> int:
        """``max_episode_steps``, settled."""
        import gymnasium

        limit = self.max_episode_steps or gymnasium.spec(self.id).max_episode_steps
        assert limit is not None, "checked when the config was made"
        return limit

    def spec(self) -> EnvSpec:
        return self._probed[0]

    def frame_rate(self) -> float | None:
        return self._probed[1]

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

    @property
    def _arguments(self) -> dict[str, Any]:
        """What gymnasium.make is given beside the id."""
        return {**self.kwargs, "max_episode_steps": self.step_limit}

    @cached_property
    def _probed(self) -> tuple[EnvSpec, float | None]:
        """Spec and frame rate, from one instance of the environment."""
        import gymnasium

        with _explained(self):
            env: Any = gymnasium.make(self.id, **self._arguments)
        try:
            spec = _spec(self, env.observation_space, env.action_space)
            films = "rgb_array" in env.metadata.get("render_modes", ())
            return spec, float(env.metadata.get("render_fps") or 30) if films else None
        finally:
            env.close()


@contextmanager
def _explained(config: GymnasiumConfig) -> Iterator[None]:
    """What goes wrong in the code of an environment while it is made, in one sentence."""
    import gymnasium

    try:
        yield
    except Exception as error:
        if isinstance(error, (ImportError, gymnasium.error.DependencyNotInstalled)):
            raise ImportError(f"{config.id} cannot be made: {error}") from error
        if config.processes and isinstance(error, _BROKEN_PIPE):
            raise ConfigError(
                f"processes: a process of {config.id} died as it started, and may have said more "
                'above. In a script, what trains has to stand below `if __name__ == "__main__":`, '
                "for each process runs the script anew"
            ) from error
        arguments = f" with {config.kwargs}" if config.kwargs else ""
        raise ConfigError(
            f"id: {config.id} cannot be made{arguments}: {type(error).__name__}: {error}"
        ) from error


def _spec(config: GymnasiumConfig, observations: Any, actions: Any) -> EnvSpec:
    """The spec of an environment with these two spaces, or a ConfigError."""
    from gymnasium import spaces
    from gymnasium.vector.utils import batch_space

    if not isinstance(actions, spaces.Discrete):
        raise ConfigError(f"{config.id} has the action space {actions}, expected Discrete")
    if not isinstance(observations, spaces.Space) or not observations.is_np_flattenable:
        raise ConfigError(
            f"{config.id} has the observation space {observations}, which cannot be flattened to a "
            "vector"
        )
    example = observer(observations, 1)(batch_space(observations).sample())
    return EnvSpec(
        name=f"gymnasium/{config.id}",
        observation_shape=example.shape[1:],
        observation_dtype="uint8" if example.dtype == np.uint8 else "float32",
        num_actions=int(actions.n),
    )


@contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Processes that start inside never get Ctrl-C or Slurm's SIGUSR1: these reach a whole group
    of processes, and are for the one that steps the columns."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started later, it would unblock what is blocked here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class GymnasiumEnv:
    """B columns of a Gymnasium environment."""

    def __init__(
        self, config: GymnasiumConfig, seeds: Sequence[int], *, render: bool = False
    ) -> None:
        import gymnasium

        self.config = config
        self.num_envs = len(seeds)
        self._seeds = list(seeds)
        self._render = render
        self._lifetime = Lifetime()
        self._calls = False  # one was begun, and did not end
        vector: dict[str, Any] = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        if config.processes:
            vector["context"] = "spawn"
        picture: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
        with _explained(config), _signals_kept_from_children():
            self._env: Any = gymnasium.make_vec(
                config.id,
                num_envs=self.num_envs,
                vectorization_mode="async" if config.processes else "sync",
                vector_kwargs=vector,
                **config._arguments,
                **picture,
            )
        observations: Any = self._env.single_observation_space
        actions: Any = self._env.single_action_space
        self.spec = _spec(config, observations, actions)
        self._books = Books(self.num_envs, self.spec.name)
        self._observe = observer(observations, self.num_envs)
        self._first_action = int(actions.start)

    def reset(self) -> NDArray[Any]:
        """Start every column: the first observations. Once only."""
        self._lifetime.start()
        with self._calling():
            obs, _ = self._env.reset(seed=self._seeds)
        return self._books.begin(self._observe(obs))

    def step(self, action: NDArray[Any]) -> EnvStep:
        """Play one action per column. Raises ActionError for anything but B action numbers."""
        self._lifetime.check_started()
        action = check_action(action, self.num_envs, self.spec.num_actions)
        with self._calling():
            obs, reward, terminated, truncated, _ = self._env.step(action + self._first_action)
        truncated = truncated & ~terminated
        return self._books.enter(
            self._observe(obs),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            game_end=terminated | truncated,
            game_cut=truncated,
        )

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Around a call that all columns answer. What they raise comes as it is."""
        self._calls = True
        try:
            yield
        except _BROKEN_PIPE as error:
            if not self.config.processes:
                raise
            raise RuntimeError(self._death()) from error
        self._calls = False

    def _death(self) -> str:
        """Which process has died, and of what."""
        processes = self._env.processes
        ended = wait([process.sentinel for process in processes], timeout=1)
        column = next((c for c, p in enumerate(processes) if p.sentinel in ended), None)
        cause = ""
        if column is not None:
            processes[column].join(1)
            code = processes[column].exitcode or 0
            cause = f" ({signal.strsignal(-code) if code < 0 else f'exit code {code}'})"
        arguments = f", made with {self.config.kwargs}," if self.config.kwargs else ""
        which = "one environment" if column is None else f"environment {column}"
        return f"the process of {which} of {self.config.id}{arguments} has died{cause}"

    def render(self, column: int) -> NDArray[np.uint8]:
        """The environment's own picture of one column, ``[height, width, 3]``."""
        import gymnasium

        self._lifetime.check_started("render")
        check_render(self._render, column, self.num_envs)
        try:
            picture = self._env.render()[column]
        except gymnasium.error.DependencyNotInstalled as error:
            raise ImportError(f"{self.config.id} cannot be drawn: {error}") from error
        return screen(picture, self.config.id)

    def describe(self) -> dict[str, Any]:
        """The id, the environment's class, arguments and limit, gymnasium's version."""
        import gymnasium

        self._lifetime.check_open()
        spec = gymnasium.spec(self.config.id)
        arguments = spec.kwargs | self.config.kwargs
        return {
            "backend": "gymnasium",
            "task_id": self.config.id,
            "entry_point": str(spec.entry_point),
            "arguments": {name: repr(value) for name, value in arguments.items()},
            "max_episode_steps": self.config.step_limit,
            "seeds": self._seeds,
            "gymnasium": version("gymnasium"),
        }

    def close(self) -> None:
        """Close the columns and their processes."""
        self._lifetime.close()
        env, self._env = self._env, None
        if env is None:
            return
        if self.config.processes and (
            self._calls or not all(process.is_alive() for process in env.processes)
        ):
            # one has died, or a call was broken off: asked to close, they might never answer
            for process in env.processes:
                process.kill()
                process.join()
            env.closed = True
        else:
            env.close()
