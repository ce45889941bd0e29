"""``fwp-rl watch``: a film of a policy at play."""

import time
from pathlib import Path

from fwp_rl.commands.shared import Actions, Checkpoint, Source, note, which_checkpoint
from fwp_rl.config import ConfigError
from fwp_rl.runs.arguments import run_command

__all__ = ["run"]


def run(args: list[str]) -> None:
    """The command, with these arguments."""
    run_command(watch, args, prog="fwp-rl watch")


def watch(
    source: Source,
    /,
    *,
    greedy: bool = False,
    actions: Actions = None,
    checkpoint: Checkpoint = "last",
    seed: int = 0,
    device: str = "auto",
    games: int = 1,
    max_seconds: float = 120.0,
    memory: bool = True,
    still: bool = False,
    output: Path | None = None,
) -> None:
    """Film a saved policy at play, its memory beside the game: mp4 with av installed, else GIF.

    Shown are the fast weights of each head (of other cores the state), the write rates and the
    size of each update over the last 100 steps, the value, rewards, and what the policy would
    do. The colours' scale is that of the whole film. Nothing is overwritten: by default a film gets
    a name that is free.

    Args:
        source: A run directory, a policy folder or a checkpoint.
        greedy: Take the best action: short for --actions greedy.
        actions: sampled, greedy or epsilon_greedy (0.05); none: as the policy itself plays, which
            is sampled for an actor-critic and greedy for a Q-network.
        checkpoint: The last policy, the one with the best training return, or the one of so many
            environment steps (1_000_000).
        seed: Seed of the game and of the actions.
        device: Where the policy runs: cpu, cuda or cuda:N; auto takes a CUDA device if there is
            one.
        games: Whole games to film.
        max_seconds: Stop filming after so much playing time.
        memory: Show the memory beside the game; --no-memory films the game alone.
        still: Write a PNG sheet of four moments instead of a film.
        output: The file (.mp4 or .gif, .png for --still); by default under the run's videos/.
    """
    from fwp_rl.runs.directory import policy_folder

    if games < 1:
        raise ConfigError(f"--games: got {games}, expected 1 or more")
    if not 0 < max_seconds < float("inf"):
        raise ConfigError(f"--max-seconds: got {max_seconds}, expected more than 0")
    which = which_checkpoint(checkpoint)
    policy_folder(source)  # a typo is told before torch is imported

    from fwp_rl.filming import record_video
    from fwp_rl.terminal import say_next

    begun = time.monotonic()
    film = record_video(
        source,
        greedy=greedy,
        actions=actions,
        checkpoint=which,
        seed=seed,
        device=device,
        games=games,
        max_seconds=max_seconds,
        memory=memory,
        still=still,
        output=output,
        progress=True,
    )
    print(film)
    took, size = time.monotonic() - begun, film.stat().st_size / 1e6
    note(f"wrote {'a sheet' if still else 'a film'} of {size:.1f} MB in {took:.0f} s")
    say_next("evaluate", source)
