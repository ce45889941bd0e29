"""What every agent's training run is told. Each agent adds its own hyper-parameters to it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from fwp_rl.config import BOOKKEEPING, ConfigError, Range, check_ranges
from fwp_rl.cores import CORES, CoreConfig
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.envs import EnvConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.machine import check_device_name
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.registry import Registry

__all__ = ["AGENTS", "LoggerName", "RunConfig", "TrainConfig"]

LoggerName: TypeAlias = Literal["tensorboard", "wandb"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Base of the config of everything that trains: which memory, how long, from which seed, where,
    and what is kept of it."""

    core: CoreConfig = field(default_factory=DeltaNetConfig)
    """The memory."""
    total_steps: Annotated[int, Range(1)] = 10_000_000
    """Steps to train for: of the environments, without those that they ignore, or gradient steps
    of a sequence task."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 1
    """Seed of the run. All other seeds are hashed from it, so runs 1 and 2 share none."""
    gradient_shards: Annotated[int | None, Range(1, 4096)] = None
    """Parts that a minibatch is cut into along its environments or sequences, for threads to
    compute; at most one for each. Their gradients add up to that of the whole but for the order of
    sums: the last bits depend on it. None: on a CPU 4 for images of 32 × 32 pixels or more and 2
    for sequence tasks, else 1."""
    device: Annotated[str, BOOKKEEPING] = "auto"
    """Where the network lives: cpu, cuda or cuda:N; auto takes a CUDA device when there is one."""
    learner_threads: Annotated[int | None, Range(1, 256), BOOKKEEPING] = None
    """Threads that compute an update on a CPU, each a shard at a time: no more than there are
    shards. They change nothing of what is learned. None: as many as are measured to be fastest, of
    the cores that actors leave."""
    run_dir: Annotated[str | None, BOOKKEEPING] = None
    """Folder to write; by default a new one under runs/, named after what is trained."""
    checkpoint_minutes: Annotated[float, Range(0, above=True), BOOKKEEPING] = 5.0
    """Minutes between checkpoints: the most that a killed run loses."""
    keep_checkpoints_every: Annotated[int | None, Range(1), BOOKKEEPING] = None
    """Steps between checkpoints that are kept for ever; none: the last two and the best alone."""
    log_every: Annotated[int, Range(1), BOOKKEEPING] = 1
    """Updates between two rows of the log; a row holds their means."""
    keep_memory: Annotated[bool, BOOKKEEPING] = True
    """Keep freed memory in the process (Linux with glibc): on a CPU, big activations are then not
    mapped and zeroed anew at every step."""
    logger: Annotated[LoggerName, BOOKKEEPING] = "tensorboard"
    """Where to look at the metrics besides metrics.jsonl; wandb needs the extra of that name."""
    plain: Annotated[bool, BOOKKEEPING] = False
    """Print plain lines instead of the live display, as is always done outside a terminal."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_device_name(self.device)

    def subject(self) -> str:
        """What is trained on, as reports and the display name it: ``Breakout``, ``copy``."""
        raise NotImplementedError

    def title(self) -> str:
        """What a display and a picture of the run are called: ``Breakout, delta_net``."""
        return f"{self.subject()}, {CORES.name_of(type(self.core))}"

    def score_bounds(self) -> tuple[float, float] | None:
        """The scores that a report takes for 0 and 1; None where there are none."""
        return None

    def frames_per_step(self) -> int:
        """Frames of a screen that a step takes; 1 where there is none."""
        return 1

    def guessed_speed(self) -> float:
        """Steps per second of one core, to the order of magnitude, before any was measured."""
        raise NotImplementedError

    def train(self, *, resume: Path | None = None) -> Path:
        """Train, as ``fwp_rl.train`` does before all else; returns the run directory."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig, PolicyConfig):
    """Base of every agent's config: what to train, on what, for how long, and where to write."""

    env: EnvConfig = field(default_factory=AtariConfig)
    """The environment."""
    num_envs: Annotated[int, Range(1, 4096)] = 16
    """Environments, stepped in lockstep."""
    evaluation_games: Annotated[int, Range(0), BOOKKEEPING] = 30
    """Whole games to evaluate after training; 0 skips evaluation."""
    evaluate_every: Annotated[int | None, Range(1), BOOKKEEPING] = None
    """Environment steps between evaluations while training, of evaluation_games whole games each,
    in environments of their own; the best checkpoint is then the best of these. None: no
    evaluations, and the best checkpoint is that of the best training return. Meanwhile nothing is
    learned, and actors play on until their buffers are full. The time is not in steps/s."""
    hang_seconds: Annotated[float, Range(0), BOOKKEEPING] = 60.0
    """Seconds without an answer after which an environment counts as hung, and at least 20 times
    its mean unroll: the run is saved and ends with an error. 0: never."""
    video: Annotated[bool, BOOKKEEPING] = True
    """Record one game after training, where the environment has a screen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate_every is not None and not self.evaluation_games:
            raise ConfigError(
                f"evaluate_every: got {self.evaluate_every} with evaluation_games = 0, expected "
                "evaluation_games of 1 or more"
            )

    def build_policy(self) -> Policy:
        """The network that the agent trains, for its environment: an actor-critic unless the agent
        has another."""
        return Policy(self, self.env.spec())

    def subject(self) -> str:
        return self.env.spec().name.rpartition("/")[2]

    def score_bounds(self) -> tuple[float, float] | None:
        return self.env.score_bounds()

    def frames_per_step(self) -> int:
        return self.env.frames_per_step()

    def guessed_speed(self) -> float:
        return self.env.guessed_speed()


AGENTS: Registry[RunConfig] = Registry("agent", "fwp_rl.agents")
