"""The command line: train, evaluate, watch, ablate, report, list, doctor,
bench.

Heavy imports wait until a command needs them, so that ``--help`` and a typo answer at once.
Exit codes: 0 fine; 1 the work failed; 2 the call was wrong; 130 Ctrl-C and 143 SIGTERM, after
saving.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fwp_rl.config import ConfigError
from fwp_rl.machine import limit_threads
from fwp_rl.registry import UnknownNameError, suggestion

__all__ = ["main"]

Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_POLICY")]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``fwp-rl``."""
    # Before torch starts OpenMP: threads that spin for long while they wait take the cores from the
    # emulators, and from each other where something else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # a tenth of a millisecond, then sleep
    limit_threads()
    if isinstance(sys.stdout, io.TextIOWrapper):  # else a box or an arrow would end the command
        sys.stdout.reconfigure(errors="replace")
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return
    if args[0] == "--version":
        from fwp_rl import __version__

        print(f"fwp-rl {__version__}")
        return
    if args[0] not in COMMANDS:
        _fail(f"unknown command {args[0]!r}. {suggestion(args[0], COMMANDS)}\n\n{_usage()}", 2)
    try:
        COMMANDS[args[0]][0](args[1:])
    except (ConfigError, UnknownNameError, FileNotFoundError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has seen enough: `fwp-rl list games | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not isinstance(error, _failures()):
            raise
        _fail(str(error), 1)


def _failures() -> tuple[type[Exception], ...]:
    """Errors that say all in their one line."""
    from fwp_rl.runs.directory import RunError
    from fwp_rl.runs.files import CheckpointError

    kernels = sys.modules.get("fwp_rl.kernels")  # what is not imported has raised nothing
    own = () if kernels is None else (kernels.BackendError,)
    return RunError, CheckpointError, FloatingPointError, ImportError, *own


def _usage() -> str:
    lines = [f"  {name:9} {summary}" for name, (_, summary) in COMMANDS.items()]
    return (
        "Reinforcement learning with fast weight programmers.\n\n"
        "usage: fwp-rl COMMAND ...\n\n" + "\n".join(lines) + "\n\n"
        "fwp-rl COMMAND --help says more. Start with: fwp-rl train quickstart"
    )


def _fail(message: str, code: int) -> None:
    print(f"fwp-rl: {message}", file=sys.stderr)
    sys.exit(code)


_TRAIN_USAGE = """\
usage: fwp-rl train PRESET [core:NAME] [encoder:NAME] [env:NAME] [--flags]
       fwp-rl train --resume RUN [--flags]

PRESET is a name from the list below, or the path of a .yaml file. core:NAME swaps the recurrent
core and drops the old core's options; --core.OPTION sets one of the new core's. --resume continues
a run from its newest good checkpoint; with a larger --total-steps it extends a finished one.

  fwp-rl train quickstart
  fwp-rl train quickstart core:lstm --core.hidden-size 128 --seed 2
  fwp-rl train ppo_atari --env.game Qbert --total-steps 10_000_000
  fwp-rl train --resume runs/NAME --total-steps 20_000_000

fwp-rl train PRESET --help lists every flag with the preset's values.
"""


def _train(args: list[str]) -> None:
    from fwp_rl.runs.directory import RunDirectory
    from fwp_rl.runs.yaml_files import preset_names, preset_path, read_yaml

    resume = None
    for position, arg in enumerate(args):
        if arg.partition("=")[0] == "--resume":
            value = arg.partition("=")[2]
            rest = args[position + 1 :]
            if not value and (not rest or rest[0].startswith("-")):
                raise ConfigError("--resume needs the run directory to continue")
            resume = Path(value or rest.pop(0))
            args = args[:position] + rest
            break
    if resume is not None and args and not args[0].startswith("-"):
        raise ConfigError(f"give a preset or --resume, not both: got {args[0]!r} and {resume}")
    if resume is None and (not args or args[0].startswith("-")):
        print(_TRAIN_USAGE + "\npresets: " + ", ".join(preset_names()))
        if not args or args[0] not in ("-h", "--help"):
            _fail("train: the first argument is a preset, or --resume RUN", 2)
        return
    if resume is None:
        source, prog, args = preset_path(args[0]), f"fwp-rl train {args[0]}", args[1:]
    else:
        source, prog = RunDirectory.open(resume).config, f"fwp-rl train --resume {resume}"
    fields = read_yaml(source)

    from fwp_rl import agents  # fills the registry of agents
    from fwp_rl.experiment import train
    from fwp_rl.runs.flags import apply_flags

    config = apply_flags(
        agents.config_from_dict(fields, source=str(source)),
        args,
        prog=prog,
        description="Train an agent; then evaluate, plot and film it.",
    )
    train(config, resume=resume)


def _evaluate(args: list[str]) -> None:
    def command(
        source: Source,
        /,
        *,
        protocol: Literal["games", "paper"] = "games",
        games: int | None = None,
        greedy: bool = False,
        checkpoint: Literal["last", "best"] = "last",
        seed: int = 0,
        device: str = "auto",
        output: Path | None = None,
    ) -> None:
        """Play with a saved policy; print a table and write JSON.

        Args:
            source: A run directory, a policy folder or a checkpoint.
            protocol: games: whole games, raw reward over all lives. paper: as the code of the fast
                weight papers evaluates Atari, 5 runs of 30 single lives, greedy.
            games: Whole games, at least; none: 30. Not for paper.
            greedy: Take the most probable action instead of sampling.
            checkpoint: The last policy, or the one with the best training return.
            seed: Seed of the evaluation's environments and actions.
            device: Where the policy runs: cpu, cuda or cuda:N; auto takes a CUDA device if there is
                one.
            output: The JSON file; by default under the run's evaluations/.
        """
        from rich.console import Console

        from fwp_rl.runs.directory import policy_folder

        if games is not None and games < 1:
            raise ConfigError(f"--games: got {games}, expected 1 or more")
        policy_folder(source)  # a typo is told before torch is imported
        if protocol == "paper":
            from fwp_rl.paper_evaluation import evaluate_paper, paper_table

            if games is not None:
                raise ConfigError(
                    f"--games: got {games}, but --protocol paper plays 5 runs of 30 lives; "
                    "leave --games out"
                )
            result = evaluate_paper(
                source, checkpoint=checkpoint, seed=seed, device=device, output=output
            )
            table = paper_table(result)
        else:
            from fwp_rl.evaluation import evaluate, evaluation_table

            result = evaluate(
                source,
                games=30 if games is None else games,
                greedy=greedy,
                checkpoint=checkpoint,
                seed=seed,
                device=device,
                output=output,
            )
            table = evaluation_table(result)
        console = Console()
        console.print(table)
        console.print(result["file"], markup=False, highlight=False, soft_wrap=True)

    tyro.cli(command, args=args, prog="fwp-rl evaluate")


def _watch(args: list[str]) -> None:
    def command(
        source: Source,
        /,
        *,
        greedy: bool = False,
        checkpoint: Literal["last", "best"] = "last",
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
        do. The colours' scale is that of the whole film.

        Args:
            source: A run directory, a policy folder or a checkpoint.
            greedy: Take the most probable action instead of sampling.
            checkpoint: The last policy, or the one with the best training return.
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
        policy_folder(source)  # a typo is told before torch is imported

        from fwp_rl.filming import record_video

        print(
            record_video(
                source,
                greedy=greedy,
                checkpoint=checkpoint,
                seed=seed,
                device=device,
                games=games,
                max_seconds=max_seconds,
                memory=memory,
                still=still,
                output=output,
            )
        )

    tyro.cli(command, args=args, prog="fwp-rl watch")


def _report(args: list[str]) -> None:
    def command(
        runs: Annotated[
            tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS_OR_ABLATION ...")
        ],
        /,
        *,
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
        title: str | None = None,
    ) -> None:
        """Compare runs on one HTML page, with its figures and tables as files beside it.

        Args:
            runs: Run directories, ablations, or folders that hold runs.
            output: The folder to write; by default report/ in the one folder given, else report/
                here.
            title: Of the page; by default the folder's name.
        """
        if not runs:
            raise ConfigError("report needs run directories, an ablation, or a folder of runs")

        from fwp_rl.reports.sources import find_runs

        find_runs(runs)  # a typo is told before torch is imported

        from fwp_rl import agents  # noqa: F401 (fills the registry of agents)
        from fwp_rl.reports.page import write_report
        from fwp_rl.reports.records import read_records

        records = read_records(runs)
        for path, reason in records.skipped.items():
            print(f"fwp-rl: left out: {path}: {reason}", file=sys.stderr)
        alone = len(runs) == 1
        folder = output or (runs[0] / "report" if alone else Path("report"))
        name = runs[0].resolve().name if alone else f"{len(records.runs)} runs"
        print(write_report(records, folder, title=title or name))

    tyro.cli(command, args=args, prog="fwp-rl report")


def _ablate(args: list[str]) -> None:
    def command(
        grid: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GRID")],
        /,
        *,
        jobs: int | None = None,
        threads: int | None = None,
        output: Path | None = None,
        dry_run: bool = False,
        plain: bool = False,
    ) -> None:
        """Train every cell of a grid, in worker processes; go on where an earlier call stopped.

        Finished cells are skipped, half-done ones resumed; one that crashes is resumed once more,
        then it counts as failed, and the rest goes on. Ctrl-C saves all and stops.

        Args:
            grid: A name (fwp-rl list ablations), or the path of a .yaml file.
            jobs: Cells that train at the same time; by default half the number of cores that
                this process may use.
            threads: Threads of each of them; by default its share of the cores.
            output: The folder of the runs; by default runs/ablations/NAME.
            dry_run: Print the cells, their steps and how long they will take; start nothing.
            plain: Print plain lines instead of the live table, as is done outside a terminal.
        """
        from fwp_rl.machine import usable_cores
        from fwp_rl.runs.yaml_files import grid_path, read_yaml

        for name, value in (("jobs", jobs), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name}: got {value}, expected 1 or more")
        cores = usable_cores()
        jobs = jobs or max(1, cores // 2)
        threads = threads or max(1, cores // jobs)
        source = grid_path(grid)
        read_yaml(source)  # a typo is told before torch is imported

        from fwp_rl import agents  # noqa: F401  # fills the registry of agents
        from fwp_rl.ablation.grid import load_grid
        from fwp_rl.ablation.plan import print_plan
        from fwp_rl.ablation.runner import run_grid

        loaded = load_grid(source)
        output = output or Path("runs") / "ablations" / loaded.name
        if dry_run:
            print_plan(loaded, output, jobs=jobs, threads=threads)
            return
        failed, code = run_grid(loaded, output, jobs=jobs, threads=threads, plain=plain)
        if code:
            print(f"Stopped. Go on with the same command: fwp-rl ablate {grid}")
            sys.exit(code)
        if failed:
            names = ", ".join(cell.name for cell in failed)
            _fail(f"failed: {names}; the same command tries again", 1)
        print(f"All {len(loaded.cells)} cells are finished: {output}")

    tyro.cli(command, args=args, prog="fwp-rl ablate")


def _list(args: list[str]) -> None:
    from fwp_rl.listing import LISTS

    if not args or args[0] in ("-h", "--help"):
        print(f"usage: fwp-rl list {{{','.join(LISTS)}}}")
        if not args:
            sys.exit(2)
        return
    if args[0] not in LISTS:
        _fail(f"cannot list {args[0]!r}. {suggestion(args[0], LISTS)} Known: {', '.join(LISTS)}", 2)
    LISTS[args[0]]()


def _doctor(args: list[str]) -> None:
    def command() -> None:
        """Say what is installed and check that each part works; exit code 1 if one does not."""
        from fwp_rl.doctor import examine

        sys.exit(0 if examine() else 1)

    tyro.cli(command, args=args, prog="fwp-rl doctor")


def _bench(args: list[str]) -> None:
    from fwp_rl.bench.commands import BENCHMARKS

    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:9} {what}" for name, (_, what) in BENCHMARKS.items()]
        print("usage: fwp-rl bench NAME [--flags]\n\n" + "\n".join(lines))
        if not args:
            sys.exit(2)
        return
    if args[0] not in BENCHMARKS:
        _fail(f"no benchmark {args[0]!r}. {suggestion(args[0], BENCHMARKS)}", 2)
    tyro.cli(BENCHMARKS[args[0]][0], args=args[1:], prog=f"fwp-rl bench {args[0]}")


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (_train, "train an agent from a preset, or resume a run"),
    "evaluate": (_evaluate, "play whole games with a saved policy"),
    "watch": (_watch, "film a saved policy"),
    "report": (_report, "compare runs on one page, with figures and tables"),
    "ablate": (_ablate, "train a grid of presets, cores, tasks and seeds"),
    "list": (_list, "cores, encoders, envs, games, presets, ablations, agents"),
    "doctor": (_doctor, "versions, and a self-check of every part"),
    "bench": (_bench, "measure speed on this machine: training, kernels"),
}
