"""Says what is installed, and checks by use that each part works on this machine."""

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

import fwp_rl
from fwp_rl import agents
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.kernels import OPS, backend_status, numba_threading_layer
from fwp_rl.kernels.samples import errors, make_inputs
from fwp_rl.machine import facts
from fwp_rl.models.policy import has_bfloat16
from fwp_rl.resources import configs_dir, cuda_dir
from fwp_rl.runs.config import AGENTS
from fwp_rl.runs.presets import REGISTRIES
from fwp_rl.runs.yaml_files import preset_names

__all__ = ["examine"]

PACKAGES = (
    "torch",
    "numpy",
    "numba",
    "envpool",
    "ale-py",
    "gymnasium",
    "tensorboard",
    "tyro",
    "pydantic",
    "safetensors",
    "rich",
    "matplotlib",
    "av",
)
OPTIONAL = {"matplotlib": "reports", "av": "video"}


def examine() -> bool:
    """Print the report; False where something that should work does not."""
    console = Console(highlight=False)
    console.print(f"[bold]fwp_rl {fwp_rl.__version__}[/] at {Path(fwp_rl.__file__).parent}")
    known = facts()
    made_by = f", commit {known['commit']}" if known["commit"] else ""
    made_by += ", with changes" if known["dirty"] else ""
    console.print(
        f"  python {known['versions']['python']}, {known['versions']['platform']}{made_by}"
    )
    console.print(
        f"  {known['machine']['processor']}, {known['machine']['cores']} cores to use, "
        f"torch threads {known['machine']['threads']}, "
        f"bfloat16 arithmetic {'yes' if has_bfloat16(torch.device('cpu')) else 'no'}, "
        f"CUDA {torch.cuda.get_device_name() if torch.cuda.is_available() else 'no'}"
    )
    console.print("[bold]Packages[/]")
    for name in PACKAGES:
        try:
            console.print(f"  {name} {version(name)}")
        except PackageNotFoundError:
            extra = OPTIONAL.get(name)
            note = f"not installed (extra {extra})" if extra else "[red]missing[/]"
            console.print(f"  {name} {note}")
    console.print("[bold]Kernels[/]")
    fine = True
    for name, status in backend_status().items():
        if status.available:
            fine &= _check(console, name, partial(_check_backend, name))
        else:
            console.print(f"  {name}: not available, {status.reason}")
    layer = numba_threading_layer()
    if layer is not None:
        console.print(f"  numba threading layer: {layer}")
    console.print("[bold]Files and environments[/]")
    fine &= _check(console, "presets", _check_presets)
    fine &= _check(console, "CUDA sources", lambda: str(cuda_dir()))
    fine &= _check(console, "temporary files", _check_temporary_files)
    fine &= _check(console, "Atari", _check_atari)
    for problem in _plugin_problems():
        fine = False
        console.print(f"  plug-in: [red]left out[/], {escape(problem)}", soft_wrap=True)
    console.print("[green]All is well.[/]" if fine else "[red]Something does not work here.[/]")
    return fine


def _check(console: Console, name: str, run: Callable[[], str]) -> bool:
    try:
        console.print(f"  {name}: [green]works[/], {run()}", soft_wrap=True)
    except Exception as error:  # a self-check reports whatever goes wrong
        console.print(
            f"  {name}: [red]fails[/], {type(error).__name__}: {escape(str(error))}",
            soft_wrap=True,
        )
        return False
    return True


def _check_backend(name: str) -> str:
    """One backend against the float64 reference: all results and gradients of ``fast_weight``."""
    op = OPS["fast_weight"]
    device = "cuda" if name == "cuda" else "cpu"
    inputs = make_inputs(op, {"T": 7, "B": 2, "H": 2, "K": 8, "V": 5}, device=device)
    inputs["reset"][3, 0] = True
    what, error = max(errors(op, inputs, name).items(), key=lambda pair: pair[1])
    if not error < 1e-5:
        raise AssertionError(f"{what} differs from the float64 reference by {error:.1e}")
    return f"float32 error {error:.0e}"


def _plugin_problems() -> list[str]:
    """What is wrong with the plug-ins of installed packages."""
    registries = (AGENTS, *REGISTRIES.values())
    return [problem for registry in registries for problem in registry.load_all()]


def _check_presets() -> str:
    names = preset_names()
    for name in names:
        agents.load_preset(name)
    return f"{', '.join(names)} in {configs_dir()}"


def _check_temporary_files() -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "probe").write_text("x")
    return tempfile.gettempdir()


def _check_atari() -> str:
    env = AtariConfig(game="Pong").make(2, [1, 2])
    env.reset()
    step = env.step(np.zeros(2, np.int32))
    env.close()
    return f"Pong, observations {step.obs.shape[1:]}, {env.spec.num_actions} actions"
