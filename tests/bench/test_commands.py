"""The benchmarks' flags: what cannot be is told in a line, before anything starts, and before torch
is imported."""

import json
import subprocess
import sys

from fwp_rl.bench.names import core_names, op_names
from fwp_rl.cores import CORES
from fwp_rl.kernels import OPS

REFUSED = {
    "training --cores delta_nett": "unknown core 'delta_nett'. Did you mean 'delta_net'?",
    "training --cores": "cores: got none",
    "training --game Pnog": "Did you mean 'Pong'?",
    "training --rounds 0": "rounds: got 0, expected 1 or more",
    "training --iterations 0": "iterations: got 0",
    "training --num-envs 5000": "num_envs: got 5000, expected 1 to 4,096",
    "training --unroll 0": "unroll: got 0",
    "training --beside -1": "beside: got -1, expected 0 to 256",
    "training --agent ppoo": "ppoo",
    "scaling --core lsmt": "Did you mean 'lstm'?",
    "scaling --game Pnog": "Did you mean 'Pong'?",
    "envs --envs pogn": "Did you mean 'pong'?",
    "envs --num-envs 0": "num_envs: got 0, expected 1 to 4,096",
    "envs --num-envs": "num_envs: got 0",
    "envs --threads 1000": "threads: got 1000, expected 1 to 256",
    "envs --seconds nan": "seconds: got nan",
    "envs --rounds 0": "rounds: got 0",
    "cores --cores delta-nett": "Did you mean 'delta_net'?",
    "cores --hidden-size 0": "hidden_size: got 0",
    "cores --steps 0": "steps: got 0",
    "cores --seconds 0": "seconds: got 0.0",
    "kernels --ops fast_weigth": "unknown op 'fast_weigth'. Did you mean 'fast_weight'?",
}

ALL_OF_THEM = """
import contextlib, io, json, sys
from fwp_rl.cli import main

said = {}
for command in json.load(sys.stdin):
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            main(["bench", *command.split()])
        except SystemExit as stop:
            code = stop.code
    heavy = [m for m in ("torch", "numba", "envpool", "gymnasium") if m in sys.modules]
    said[command] = (code, text.getvalue(), heavy)
print(json.dumps(said))
"""


def test_what_cannot_be_is_refused_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALL_OF_THEM],
        input=json.dumps([*REFUSED, *(f"{name} --help" for name in ("training", "envs", "cores"))]),
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    for command, message in REFUSED.items():
        code, text, heavy = said.pop(command)
        assert (code, heavy) == (2, []), f"{command}: {text}"
        assert message in text, command
    for command, (code, text, heavy) in said.items():
        assert (code, heavy) == (0, []), command
        assert "--quick" in text


def test_the_names_are_those_of_the_registries() -> None:
    assert sorted(core_names()) == sorted(CORES)
    assert op_names() == sorted(OPS)
