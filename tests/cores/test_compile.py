"""torch.compile takes every core whole; what torch.export wrote runs in another process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, STEPS, make, small, with_resets
from torch import Tensor
from torch.export import Dim

from fwp_rl.cores import CORES, Core, CoreConfig
from fwp_rl.kernels import use_backend
from fwp_rl.types import State

VARIANTS = {name: config for name, config in CASES.items() if name not in CORES}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def one_layer(name: str) -> CoreConfig:
    return small(name, **({"layers": 1} if hasattr(CORES[name], "layers") else {}))


def results(core: Core, call: Any, x: Tensor, state: State, reset: Tensor) -> list[Tensor]:
    """Outputs, the state after, and the gradients of both to the inputs and parameters."""
    inputs = [leaf.clone().requires_grad_() for leaf in (x, *state)]
    y, after = call(inputs[0], tuple(inputs[1:]), reset)
    loss: Any = sum(leaf.square().sum() for leaf in (y, *after))
    wanted = [*inputs, *core.parameters()]
    return [y, *after, *torch.autograd.grad(loss, wanted, materialize_grads=True)]


def compiled(core: Core) -> Any:
    torch.compiler.reset()
    return torch.compile(core, fullgraph=True, backend="aot_eager")


def compiles_whole(config: CoreConfig) -> None:
    core, x, state, reset = make(config)
    reset = with_resets(reset)
    whole = results(core, core, x, state, reset)
    for actual, expected in zip(results(core, compiled(core), x, state, reset), whole, strict=True):
        close(actual, expected)


def test_a_compiled_core_drops_where_it_learns() -> None:
    core, x, state, reset = make(small("delta_net", layers=1, dropout=0.5))
    call = compiled(core)
    first, second = (call(x, state, reset)[0] for _ in range(2))
    assert not torch.allclose(first, second)
    with torch.no_grad():
        close(call(x, state, reset)[0], core.eval()(x, state, reset)[0])


QUICK = "delta_net", "lstm", "recurrent_delta_net"
"""The others take long to compile."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CORES]
)
def test_every_core_compiles_whole(name: str) -> None:
    compiles_whole(one_layer(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_compiles_whole(name: str) -> None:
    compiles_whole(VARIANTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["delta_net", "lstm", "mlstm"])
def test_a_gradient_horizon_compiles_whole(name: str) -> None:
    compiles_whole(small(name, gradient_horizon=STEPS // 2))


ONE_PER_OP = "delta_net", "recurrent_delta_net", "delta_rnn", "delta_lstm", "srwm", "lstm", "gtrxl"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in ONE_PER_OP else pytest.mark.long)
        for n in CORES
    ],
)
@torch.no_grad()
def test_what_is_compiled_acts_and_unrolls(name: str) -> None:
    core, x, state, reset = make(one_layer(name))
    reset, call = with_resets(reset), compiled(core)
    for steps in (1, 3, STEPS):
        y, after = call(x[:steps], state, reset[:steps])
        expected_y, expected_after = core(x[:steps], state, reset[:steps])
        close(y, expected_y)
        for leaf, expected in zip(after, expected_after, strict=True):
            close(leaf, expected)


LOAD = """
import sys
import torch
{imports}
for path in sys.argv[1:]:
    inputs, expected = torch.load(path + ".in")
    torch.testing.assert_close(torch.export.load(path).module()(*inputs), expected)
assert ("fwp_rl" in sys.modules) == {with_package}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "names"), [("auto", list(CORES)), ("reference", ["delta_rnn", "lstm", "srwm"])]
)
def test_exported_cores_run_in_another_process(
    backend: str, names: list[str], tmp_path: Path
) -> None:
    """For any number of columns; what the reference traced, where there is torch alone."""
    columns = Dim("columns", min=1, max=1024)
    for name in names:
        core, x, state, reset = make(one_layer(name))
        x, reset = x[:1], with_resets(reset)[:1]
        shapes = {1: columns}, tuple({0: columns} for _ in state), {1: columns}
        fewer = x[:, 1:], tuple(leaf[1:] for leaf in state), reset[:, 1:]
        with torch.no_grad(), use_backend(backend):
            program = torch.export.export(core, (x, state, reset), dynamic_shapes=shapes)
            torch.save((fewer, core(*fewer)), tmp_path / f"{name}.pt2.in")
        torch.export.save(program, tmp_path / f"{name}.pt2")
    imports = "import fwp_rl.kernels" if backend == "auto" else ""
    subprocess.run(
        [
            *(sys.executable, "-c"),
            LOAD.format(imports=imports, with_package=backend == "auto"),
            *map(str, sorted(tmp_path.glob("*.pt2"))),
        ],
        check=True,
        cwd=tmp_path,
    )


@pytest.mark.parametrize("horizon", [None, 4])
def test_export_of_an_unroll_keeps_its_resets_and_horizon(horizon: int | None) -> None:
    core, x, state, reset = make(small("delta_net", layers=1, gradient_horizon=horizon))
    program = torch.export.export(core, (x, state, reset)).module()
    reset = with_resets(reset)
    exported = results(core, program, x, state, reset)
    for actual, expected in zip(exported, results(core, core, x, state, reset), strict=True):
        close(actual, expected)
