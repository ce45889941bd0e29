"""``fwp-rl task``: train a core on a sequence task."""

from typing import Final

from fwp_rl.commands.shared import fail
from fwp_rl.commands.train import continue_run, parse, start_run
from fwp_rl.runs.yaml_files import TASKS, task_names, task_path

__all__ = ["run"]

USAGE: Final = """\
usage: fwp-rl task NAME [core:NAME] [task:NAME] [--flags]
       fwp-rl task --resume RUN [--flags]
       fwp-rl task NAME --run-dir RUN --resume auto [--flags]

Train a core on a sequence task, without an environment; then measure the best weights on the test
split. NAME is a name from the list below, or the path of a .yaml file. core:NAME swaps the core and
drops the old core's options; --core.OPTION sets one of the new core's, --task.OPTION the task's.

  fwp-rl task copy
  fwp-rl task copy core:lstm --core.hidden-size 128 --seed 2
  fwp-rl task --resume runs/NAME --total-steps 20_000

fwp-rl task NAME --help lists every flag with the preset's values.
--import MODULE adds the cores, tasks, ... of a module of your own.
"""

DESCRIPTION: Final = "Train a core on a sequence task, and measure it."


def run(args: list[str]) -> None:
    """The command, with these arguments."""
    call = parse(args)
    if call.preset is None and call.resume is None:
        print(USAGE + "\ntasks: " + ", ".join(task_names()))
        if not args or args[0] not in ("-h", "--help"):
            fail("task: the first argument is a task, or --resume RUN", 2)
    elif call.preset is None:
        continue_run(call, command="task", description=DESCRIPTION)
    else:
        path = task_path(call.preset.removeprefix(TASKS))
        start_run(call, path, command="task", description=DESCRIPTION)
