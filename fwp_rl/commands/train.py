"""``fwp-rl train``: a new run from a preset, a run that goes on, or whichever of them it is."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fwp_rl.commands.shared import fail
from fwp_rl.config import ConfigError
from fwp_rl.registry import canonical
from fwp_rl.runs.directory import RunDirectory
from fwp_rl.runs.yaml_files import SECTIONS, preset_names, preset_path, read_yaml

if TYPE_CHECKING:
    from fwp_rl.runs.config import RunConfig

__all__ = ["continue_run", "parse", "run", "start_run"]

USAGE: Final = """\
usage: fwp-rl train PRESET [core:NAME] [encoder:NAME] [env:NAME] [--flags]
       fwp-rl train --resume RUN [--flags]
       fwp-rl train PRESET --run-dir RUN --resume auto [--flags]

PRESET is a name from the list below, or the path of a .yaml file. core:NAME swaps the recurrent
core and drops the old core's options; --core.OPTION sets one of the new core's. --resume continues
a run from its newest good checkpoint; with a larger --total-steps it extends a finished one.
--resume auto starts the run where there is none yet, continues it where there is one, and leaves it
alone where it is complete: one line for a job script.

  fwp-rl train quickstart
  fwp-rl train quickstart core:lstm --core.hidden-size 128 --seed 2
  fwp-rl train ppo_atari --env.game Qbert --total-steps 10_000_000
  fwp-rl train --resume runs/NAME --total-steps 20_000_000
  fwp-rl train quickstart --run-dir runs/mine --resume auto

fwp-rl train PRESET --help lists every flag with the preset's values.
--import MODULE adds the cores, environments, ... of a module of your own.
"""

DESCRIPTION: Final = "Train an agent; then evaluate, plot and film it."


@dataclass(frozen=True)
class Call:
    """What the arguments ask for."""

    preset: str | None
    """A name or a path; None where a run alone is continued."""
    resume: str | None
    """The run directory to continue, or ``auto``: that of --run-dir, if it holds a run."""
    flags: list[str] = field(default_factory=list)
    """All other arguments: flags with their values, and selectors such as core:lstm."""


def run(args: list[str]) -> None:
    """The command, with these arguments."""
    call = parse(args)
    if call.preset is None and call.resume is None:
        print(USAGE + "\npresets: " + ", ".join(preset_names()))
        if not args or args[0] not in ("-h", "--help"):
            fail("train: the first argument is a preset, or --resume RUN", 2)
    elif call.preset is None:
        continue_run(call, command="train", description=DESCRIPTION)
    else:
        start_run(call, preset_path(call.preset), command="train", description=DESCRIPTION)


def parse(args: Sequence[str]) -> Call:
    """ConfigError where preset and --resume do not go together."""
    left, rest = deque(args), list[str]()
    preset = resume = None
    while left:
        name, equals, value = (arg := left.popleft()).partition("=")
        if name != "--resume":
            rest.append(arg)
            continue
        if not equals and left and not left[0].startswith("-"):
            value = left.popleft()
        if not value:
            raise ConfigError("--resume needs the run directory to continue, or auto")
        if resume is not None:
            raise ConfigError(f"--resume: got {resume} and {value}, expected one run")
        resume = value
    if rest and not rest[0].startswith("-") and not _is_selector(rest[0]):
        preset = rest.pop(0)
    if resume == "auto" and preset is None:
        raise ConfigError("--resume auto needs the preset that a new run would be started from")
    if resume not in (None, "auto") and preset is not None:
        raise ConfigError(
            f"give a preset or --resume, not both: got {preset!r} and {resume}; --run-dir {resume} "
            "--resume auto starts a run or continues it"
        )
    return Call(preset, resume, rest)


def _is_selector(arg: str) -> bool:
    """``core:lstm``, and not the path of a preset."""
    section, colon, _ = arg.partition(":")
    return bool(colon) and section in SECTIONS


def start_run(call: Call, path: Path, *, command: str, description: str) -> None:
    """A new run from the preset at ``path``, or, if the call says so, the one that its run
    directory holds."""
    fields = read_yaml(path)

    from fwp_rl.experiment import train
    from fwp_rl.runs.identity import from_preset

    prog = f"fwp-rl {command} {call.preset}"
    config = _with_flags(fields, call.flags, source=path, prog=prog, description=description)
    with from_preset(str(call.preset)):
        if call.resume == "auto":
            train(_as_begun(config, call.flags), resume="auto")
        else:
            train(config)


def continue_run(call: Call, *, command: str, description: str) -> None:
    """A run goes on, with the flags on top of its own config."""
    assert call.resume is not None
    path, flags = Path(call.resume), call.flags
    source = RunDirectory.open(path).config
    fields = read_yaml(source)
    for selector in filter(_is_selector, flags):
        section, _, name = selector.partition(":")
        own = fields.get(section)
        known = str(own.get("name") if isinstance(own, Mapping) else own)
        if canonical(name) != canonical(known):
            raise ConfigError(
                f"{section}: got {selector}, but a resumed run keeps its {section}, which is "
                f"{known}; start a new run for another"
            )

    from fwp_rl.experiment import train

    prog = f"fwp-rl {command} --resume {path}"
    config = _with_flags(fields, flags, source=source, prog=prog, description=description)
    train(config, resume=path)


def _as_begun(asked: "RunConfig", flags: list[str]) -> "RunConfig":
    """The config to go on with where the run directory holds a run: the run's own with the flags on
    top. Where the preset asks for another experiment, what is asked, which resuming refuses."""
    from fwp_rl.runs.presets import first_change, load_preset
    from fwp_rl.runs.resuming import has_work
    from fwp_rl.training.restoring import RESUME_MAY_CHANGE

    if asked.run_dir is None or not has_work(run := RunDirectory(Path(asked.run_dir))):
        return asked
    if first_change(load_preset(run.config), asked, without=RESUME_MAY_CHANGE) is not None:
        return asked
    config = _with_flags(
        read_yaml(run.config), flags, source=run.config, prog="fwp-rl train", description=""
    )
    if config.total_steps != asked.total_steps:
        print(
            f"{run.path}: goes on to its own {config.total_steps:,} steps, not the preset's "
            f"{asked.total_steps:,}; --total-steps extends it"
        )
    return config


def _with_flags(
    fields: Mapping[str, Any], flags: list[str], *, source: Path, prog: str, description: str
) -> "RunConfig":
    from fwp_rl import agents  # fills the registry of agents
    from fwp_rl.runs.flags import apply_flags

    config = agents.config_from_dict(fields, source=str(source))
    return apply_flags(config, flags, prog=prog, description=description)
