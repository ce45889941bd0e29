"""The command line: train, task, evaluate, watch, ablate, report, list, doctor, bench.

Heavy imports wait until a command needs them, so that ``--help`` and a typo answer at once.
Exit codes: 0 fine; 1 the work failed; 2 the call was wrong; 130 Ctrl-C and 143 SIGTERM, after
saving.
"""

import io
import logging
import os
import select
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from fwp_rl.commands.shared import fail, note
from fwp_rl.config import ConfigError
from fwp_rl.imports import import_modules, take_imports
from fwp_rl.machine import limit_threads
from fwp_rl.registry import UnknownNameError, suggestion
from fwp_rl.runs.arguments import run_command

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``fwp-rl``."""
    # Before torch starts OpenMP: threads that spin for long while they wait take the cores from the
    # emulators, and from each other where something else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # a tenth of a millisecond, then sleep
    if isinstance(sys.stdout, io.TextIOWrapper):  # else a box or an arrow would end the command
        sys.stdout.reconfigure(errors="replace")
    try:
        modules, args = take_imports(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        fail(str(error), 2)
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return
    if args[0] == "--version":
        from fwp_rl import __version__

        print(f"fwp-rl {__version__}")
        return
    if args[0] not in COMMANDS:
        fail(f"unknown command {args[0]!r}. {suggestion(args[0], COMMANDS)}\n\n{_usage()}", 2)
    _hear_of_kernels()
    try:
        limit_threads()
        import_modules(modules)
        _call(args)
    except (ConfigError, UnknownNameError) as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError as error:
        if not _nobody_reads():  # the pipe was an environment's
            fail(_in_a_line(error), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        fail(_in_a_line(error), 1)
    except Exception as error:
        if not isinstance(error, _failures()):
            raise
        fail(str(error), 1)


def _call(args: list[str]) -> None:
    """The command, and what it has printed: a reader that has gone is told here, where it can be
    handled, and not at the end of Python."""
    ended = None
    try:
        COMMANDS[args[0]][0](args[1:])
    except SystemExit as stop:
        if stop.code:
            raise
        ended = stop
    if sys.stdout is not None:
        sys.stdout.flush()
    if ended is not None:
        raise ended


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has seen enough: ``fwp-rl list games |
    head``."""
    try:
        sys.stdout.flush()
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in waiting.poll(0))
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError):  # no poll there, or no file
        return False


def _hear_of_kernels() -> None:
    """Let kernels say what a person waits for, in lines of standard error."""

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    log = logging.getLogger("fwp_rl.kernels")
    if not log.handlers:
        log.addHandler(Note())
        log.setLevel(logging.INFO)
        log.propagate = False


def _in_a_line(error: OSError) -> str:
    """``PATH: reason``, as far as the system says."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return reason
    name = error.filename
    path = Path(os.fsdecode(name) if isinstance(name, str | bytes) else str(name))
    # what is written under a temporary name first is known by its folder
    return f"{path.parent if path.name.startswith('.tmp-') else path}: {reason}"


def _failures() -> tuple[type[Exception], ...]:
    """Errors that say all in their one line."""
    from fwp_rl.runs.directory import RunError
    from fwp_rl.runs.files import CheckpointError

    # what is not imported has raised nothing
    kernels = sys.modules.get("fwp_rl.kernels")
    processes = sys.modules.get("fwp_rl.bench.processes")
    own = () if kernels is None else (kernels.BackendError,)
    own += () if processes is None else (processes.MeasurementError,)
    return RunError, CheckpointError, FloatingPointError, ImportError, *own


def _usage() -> str:
    lines = [f"  {name:9} {summary}" for name, (_, summary) in COMMANDS.items()]
    return (
        "Reinforcement learning with fast weight programmers.\n\n"
        "usage: fwp-rl COMMAND ...\n\n" + "\n".join(lines) + "\n\n"
        "fwp-rl COMMAND --help says more. Start with: fwp-rl train quickstart\n"
        "Every command takes --import MODULE, a module of your own that adds cores, encoders,\n"
        "environments, agents or tasks"
    )


def _list(args: list[str]) -> None:
    from fwp_rl.listing import LISTS

    if not args or {"-h", "--help"} & set(args):
        print(f"usage: fwp-rl list {{{','.join(LISTS)}}} [--json]")
        if not args:
            sys.exit(2)
        return
    name, *flags = [arg for arg in args if arg != "--json"] or [""]
    if name not in LISTS:
        fail(f"cannot list {name!r}. {suggestion(name, LISTS)} Known: {', '.join(LISTS)}", 2)
    if flags:
        fail(f"list {name}: got {flags[0]}, expected nothing or --json", 2)
    LISTS[name](as_json="--json" in args)


def _doctor(args: list[str]) -> None:
    def command() -> None:
        """Say what is installed and check that each part works; exit code 1 if one does not."""
        from fwp_rl.doctor import examine

        sys.exit(0 if examine() else 1)

    run_command(command, args, prog="fwp-rl doctor")


def _bench(args: list[str]) -> None:
    from fwp_rl.bench.commands import BENCHMARKS

    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:9} {what}" for name, (_, what) in BENCHMARKS.items()]
        print("usage: fwp-rl bench NAME [--flags]\n\n" + "\n".join(lines))
        if not args:
            sys.exit(2)
        return
    if args[0] not in BENCHMARKS:
        fail(f"no benchmark {args[0]!r}. {suggestion(args[0], BENCHMARKS)}", 2)
    run_command(BENCHMARKS[args[0]][0], args[1:], prog=f"fwp-rl bench {args[0]}")


def _at_call(name: str) -> Callable[[list[str]], None]:
    """The command of that name in fwp_rl.commands, which is imported when it is called."""

    def run(args: list[str]) -> None:
        import_module(f"fwp_rl.commands.{name}").run(args)

    return run


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (_at_call("train"), "train an agent from a preset, or resume a run"),
    "task": (_at_call("task"), "train a core on a sequence task, without an environment"),
    "evaluate": (_at_call("evaluate"), "play whole games with a saved policy"),
    "watch": (_at_call("watch"), "film a saved policy"),
    "report": (_at_call("report"), "compare runs on one page, with figures and tables"),
    "ablate": (_at_call("ablate"), "train a grid of presets, cores, tasks and seeds"),
    "list": (_list, "cores, encoders, envs, games, presets, tasks, ablations, agents"),
    "doctor": (_doctor, "versions, and a self-check of every part"),
    "bench": (_bench, "measure speed on this machine: training, envs, cores, kernels"),
}
