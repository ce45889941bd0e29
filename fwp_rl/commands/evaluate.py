"""``fwp-rl evaluate``: whole games, or single lives, with a policy or with all of a run's."""

import sys
from contextlib import nullcontext, redirect_stdout
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import tyro

from fwp_rl.commands.shared import Actions, Source, note, which_checkpoint
from fwp_rl.config import ConfigError
from fwp_rl.runs.arguments import run_command
from fwp_rl.terminal import console_for, say_next

__all__ = ["run"]


def run(args: list[str]) -> None:
    """The command, with these arguments."""
    run_command(evaluate, args, prog="fwp-rl evaluate")


def evaluate(
    source: Source,
    /,
    *,
    protocol: Literal["games", "paper"] = "games",
    games: int | None = None,
    greedy: bool = False,
    actions: Actions = None,
    checkpoint: Annotated[str, tyro.conf.arg(metavar="last|best|STEP|all")] = "last",
    seed: int = 0,
    device: str = "auto",
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Play with a saved policy; print a table and write JSON.

    Args:
        source: A run directory, a policy folder or a checkpoint.
        protocol: games: whole games, raw reward over all lives. paper: as the code of the fast
            weight papers evaluates Atari, 5 runs of 30 single lives, greedy.
        games: Whole games, at least; none: 30. Not for paper.
        greedy: Take the best action: short for --actions greedy.
        actions: sampled, greedy or epsilon_greedy (0.05); none: as the policy itself plays, which
            is sampled for an actor-critic and greedy for a Q-network.
        checkpoint: The last policy, the one with the best training return, or the one of so many
            environment steps (1_000_000). all: every checkpoint that the run has kept, one after
            the other, and their curve.
        seed: Seed of the evaluation's environments and actions.
        device: Where the policy runs: cpu, cuda or cuda:N; auto takes a CUDA device if there is
            one.
        output: The JSON file, for all the folder; by default under the run's evaluations/.
        json: Print what the file holds instead of the table; for all a list. Everything else goes
            to standard error.
    """
    from fwp_rl.runs.directory import policy_folder

    if games is not None and games < 1:
        raise ConfigError(f"--games: got {games}, expected 1 or more")
    if protocol == "paper" and games is not None:
        raise ConfigError(
            f"--games: got {games}, but --protocol paper plays 5 runs of 30 lives; leave --games "
            "out"
        )
    if protocol == "paper" and actions is not None:
        raise ConfigError(
            f"--actions: got {actions}, but --protocol paper plays greedily; leave --actions out"
        )
    if protocol == "paper" and checkpoint == "all":
        raise ConfigError("--checkpoint all: plays whole games; for --protocol paper name a step")
    which = None if checkpoint == "all" else which_checkpoint(checkpoint)
    policy_folder(source)  # a typo is told before torch is imported

    shown = sys.stdout  # the display is no part of the result
    with redirect_stdout(sys.stderr) if json else nullcontext():
        if which is None:
            results, table = _all(source, games or 30, greedy, actions, seed, device, output)
        else:
            result, table = _one(
                source, protocol, games or 30, greedy, actions, which, seed, device, output
            )
            results = [result]
    _show(table, results, which=which, json=json, stream=shown)
    if any(result["file"] is None for result in results):
        sys.exit(1)
    say_next("watch", source)


def _one(
    source: Path,
    protocol: Literal["games", "paper"],
    games: int,
    greedy: bool,
    actions: str | None,
    checkpoint: Literal["last", "best"] | int,
    seed: int,
    device: str,
    output: Path | None,
) -> tuple[dict[str, Any], Any]:
    """The result of one checkpoint, and its table."""
    if protocol == "paper":
        from fwp_rl.paper_evaluation import evaluate_paper, paper_table

        result = evaluate_paper(
            source, checkpoint=checkpoint, seed=seed, device=device, output=output, warn=note
        )
        return result, paper_table(result)

    from fwp_rl import evaluation

    result = evaluation.evaluate(
        source,
        games=games,
        greedy=greedy,
        actions=actions,
        checkpoint=checkpoint,
        seed=seed,
        device=device,
        output=output,
        warn=note,
    )
    return result, evaluation.evaluation_table(result)


def _all(
    source: Path,
    games: int,
    greedy: bool,
    actions: str | None,
    seed: int,
    device: str,
    output: Path | None,
) -> tuple[list[dict[str, Any]], Any]:
    """The results of every kept checkpoint, and their table; draws their curve."""
    if output is not None and output.suffix == ".json":
        raise ConfigError(f"--output: got {output}, expected a folder for the files of all")

    from fwp_rl.evaluation import evaluate_all, evaluations_table, run_of

    results = evaluate_all(
        source,
        games=games,
        greedy=greedy,
        actions=actions,
        seed=seed,
        device=device,
        output=output,
        warn=note,
    )
    directory = run_of(source)
    assert directory is not None, "evaluate_all has found checkpoints in it"
    curve = (output or directory / "evaluations") / "curve.png"
    try:
        from fwp_rl.reports.plots import evaluation_curve

        task, core = results[0]["summary"]["task"], results[0]["network"]["core"]["name"]
        evaluation_curve(results, curve, title=f"{task.rpartition('/')[2]}, {core}")
        note(f"the curve: {curve}")
    except (ImportError, OSError) as error:  # a picture does not cost the games
        note(f"no curve: {error}")
    return results, evaluations_table(results)


def _show(
    table: Any,
    results: list[dict[str, Any]],
    *,
    which: Literal["last", "best"] | int | None,
    json: bool,
    stream: TextIO,
) -> None:
    """The table and where it is kept, or, as JSON, what is kept."""
    if json:
        from fwp_rl.evaluation.results import as_json

        held = as_json([{k: v for k, v in r.items() if k != "file"} for r in results])
        print(dumps(held if which is None else held[0], indent=1, allow_nan=False), file=stream)
        return
    console = console_for(stream)
    console.print(table)
    for result in results:
        if result["file"] is not None:
            console.print(result["file"], soft_wrap=True)
