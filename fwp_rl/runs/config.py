"""What every agent's training run is told. Each agent adds its own hyper-parameters to it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from fwp_rl.config import BOOKKEEPING, ConfigError, Range
from fwp_rl.envs import EnvConfig
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.machine import check_device_name
from fwp_rl.models.policy import PolicyConfig
from fwp_rl.registry import Registry

__all__ = ["AGENTS", "LoggerName", "TrainConfig"]

LoggerName: TypeAlias = Literal["tensorboard", "wandb"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(PolicyConfig):
    """Base of every agent's config: what to train, on what, for how long, and where to write."""

    env: EnvConfig = field(default_factory=AtariConfig)
    """The environment."""
    num_envs: Annotated[int, Range(1, 4096)] = 16
    """Environments, stepped in lockstep."""
    total_steps: Annotated[int, Range(1)] = 10_000_000
    """Environment steps to train for. The steps that an environment ignores do not count."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 1
    """Seed of the run. Environment seeds are hashed from it, so runs 1 and 2 share none."""
    gradient_shards: Annotated[int | None, Range(1, 4096)] = None
    """Parts that a minibatch is cut into along its environments, for threads to compute; at most
    one for each environment. Their gradients add up to that of the whole but for the order of sums:
    the last bits depend on it. None: 4 for images of 32 × 32 pixels or more on a CPU, else 1."""
    device: Annotated[str, BOOKKEEPING] = "auto"
    """Where the policy lives: cpu, cuda or cuda:N; auto takes a CUDA device when there is one."""
    learner_threads: Annotated[int | None, Range(1, 256), BOOKKEEPING] = None
    """Threads that compute an update on a CPU, each a shard at a time: no more than there are
    shards. They change nothing of what is learned. None: as many as are measured to be fastest, of
    the cores that actors leave."""
    run_dir: Annotated[str | None, BOOKKEEPING] = None
    """Folder to write; by default a new one under runs/, named after what is trained."""
    checkpoint_minutes: Annotated[float, Range(0, above=True), BOOKKEEPING] = 5.0
    """Minutes between checkpoints: the most that a killed run loses."""
    keep_checkpoints_every: Annotated[int | None, Range(1), BOOKKEEPING] = None
    """Environment steps between checkpoints that are kept for ever; none keeps the last two and
    the best."""
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
    log_every: Annotated[int, Range(1), BOOKKEEPING] = 1
    """Updates between two rows of the log; a row holds their means."""
    video: Annotated[bool, BOOKKEEPING] = True
    """Record one game after training, where the environment has a screen."""
    keep_memory: Annotated[bool, BOOKKEEPING] = True
    """Keep freed memory in the process (Linux with glibc): on a CPU, big activations are then not
    mapped and zeroed anew at every step."""
    logger: Annotated[LoggerName, BOOKKEEPING] = "tensorboard"
    """Where to look at the metrics besides metrics.jsonl; wandb needs the extra of that name."""
    plain: Annotated[bool, BOOKKEEPING] = False
    """Print plain lines instead of the live display, as is always done outside a terminal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device_name(self.device)
        if self.evaluate_every is not None and not self.evaluation_games:
            raise ConfigError(
                f"evaluate_every: got {self.evaluate_every} with evaluation_games = 0, expected "
                "evaluation_games of 1 or more"
            )

    def train(self, *, resume: Path | None = None) -> Path:
        """Train, as ``fwp_rl.train`` does before all else; returns the run directory."""
        raise NotImplementedError


AGENTS: Registry[TrainConfig] = Registry("agent")
