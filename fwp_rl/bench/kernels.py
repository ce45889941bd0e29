"""Speed of the fast-weight kernels, beside what they replace and what the machine could do.

    fwp-rl bench kernels
    python -m fwp_rl.bench.kernels --device cuda    where torch and numba alone are installed

Every op is timed forward and backward (learning), and on one step without gradients (acting): its
fused kernel against the torch step loop (``reference``), the chunkwise form where there is one,
``torch.nn.LSTM`` of the same width H D (its input products included, in cuDNN's TF32 on a GPU) and,
on a GPU where it is installed, the ``fused_recurrent`` form of flash-linear-attention (no resets).
``fast_weight_channels`` stands beside ``fast_weight`` with one decay for the whole matrix, too.

The floor is the time in which the machine could do an op's arithmetic at the speed of a large
float32 matrix product, or read its inputs and write its results at the speed of a copy, whichever
is longer. Both speeds are measured in the same rounds.

An op is timed only if its outputs and gradients are those of the reference in float64.
"""

import argparse
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import torch

from fwp_rl.bench.contenders import (
    Shape,
    contenders,
    copy,
    moved_bytes,
    peers,
    product,
    seconds_of,
)
from fwp_rl.bench.names import check_names
from fwp_rl.config import ConfigError
from fwp_rl.kernels import OPS, BackendError, backend_status
from fwp_rl.kernels.samples import errors, make_inputs
from fwp_rl.machine import facts, keep_freed_memory
from fwp_rl.runs.files import write_json

__all__ = ["Shape", "bench_kernels", "moved_bytes", "peers", "sizes"]

ROUNDS = 5
TOLERANCE = 2e-4
"""Of float32 against the reference in float64, relative to a tensor's largest entry."""
COLUMNS_CHECKED = 8

ACTING: Final[Shape] = (1, 32, 4, 32)
LEARNING: Final[tuple[Shape, ...]] = ((20, 32, 4, 32), (64, 16, 8, 64), (128, 8, 4, 64))
ON_CUDA: Final[tuple[Shape, ...]] = ((1, 512, 8, 64), (128, 128, 8, 64))
QUICK: Final[tuple[Shape, ...]] = ((1, 2, 2, 8), (5, 2, 2, 8))

CONTENDERS: Final = {
    "reference": "reference",
    "chunkwise": "chunkwise",
    "lstm": "LSTM",
    "fla": "fla",
    "scalar decay": "one decay",
}
"""What an op is compared with → the head of its column."""

SCALAR_DECAY = 0.87
"""What one decay for the whole matrix takes at the least of the time of one for each key channel,
which may cost 15 % more."""

TIMES_FASTER: Final = dict(zip(LEARNING, (12, 16, 20), strict=True))
"""Targets of ``fast_weight`` against its step loop on 2 cores; the other ops have 10 for theirs."""


def bench_kernels(
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    ops: tuple[str, ...] = tuple(OPS),
    quick: bool = False,
    json: Path | None = None,
) -> None:
    """Time the fast-weight kernels; print a table. Exit code 1 where an op gives wrong results.

    Args:
        device: cpu compares numba's kernels, cuda those for the GPU.
        ops: The ops to time.
        quick: Tiny shapes, a moment each: shows that all of it runs, times nothing.
        json: Also write the figures to this file.
    """
    check_names("ops", "op", ops, OPS)
    fused = "numba" if device == "cpu" else "cuda"
    if not backend_status()[fused].available:
        raise BackendError(f"backend {fused!r} is not available: {backend_status()[fused].reason}")
    keep_freed_memory()  # as training does: else every pass waits for fresh pages
    results: list[dict[str, Any]] = []
    refused: list[str] = []
    circumstances = facts(device) | {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    print(_table_head(fused), flush=True)
    for name in ops:
        for shape in QUICK if quick else _shapes(name, device):
            try:
                problem = _disagreement(name, shape, device, fused)
                if not problem:
                    seconds = 0.001 if quick else 0.1
                    results.append(_measure(name, shape, device, fused, seconds))
            except RuntimeError as error:  # memory that runs out among them
                (first, *_) = str(error).splitlines() or [repr(error)]
                problem = f"{name} at T, B, H, D = {shape}: {first}"
            if problem:
                refused.append(problem)
                print(f"refused to time {problem}", flush=True)
            else:
                print(_table_row(results[-1], fused), flush=True)
            if json is not None:  # after every case: a run that is cut short keeps what it has
                write_json(
                    json,
                    {
                        "benchmark": "kernels",
                        "rounds": ROUNDS,
                        "results": results,
                        "refused": refused,
                        **circumstances,
                    },
                )
    if refused:
        sys.exit(1)


def sizes(shape: Shape) -> dict[str, int]:
    """The sizes of an op's description, by letter."""
    T, B, H, D = shape
    return {"T": T, "B": B, "H": H, "K": D, "V": D}


def _shapes(op: str, device: str) -> tuple[Shape, ...]:
    if device == "cpu":
        return (ACTING, *LEARNING)
    # a step loop of the others would keep more matrices of this size than a GPU has room for
    huge: tuple[Shape, ...] = ((128, 512, 8, 64),) if op == "fast_weight" else ()
    return (ACTING, *LEARNING, *ON_CUDA, *huge)


def _disagreement(name: str, shape: Shape, device: str, fused: str) -> str:
    """What the fused kernel gets wrong, in a line; empty if nothing."""
    T, B, H, D = shape
    inputs = make_inputs(OPS[name], sizes((T, min(B, COLUMNS_CHECKED), H, D)), device=device)
    for what, error in errors(OPS[name], inputs, fused).items():
        if not error <= TOLERANCE:
            return (
                f"{name} at T, B, H, D = {shape}: {what} is off by {error:.1e} of its largest "
                f"entry, expected {TOLERANCE:.0e} or less"
            )
    return ""


def _measure(name: str, shape: Shape, device: str, fused: str, seconds: float) -> dict[str, Any]:
    """Medians over the rounds, in each of which every contender runs for so many seconds."""
    op, (T, B, H, D) = OPS[name], shape
    inputs = make_inputs(op, sizes(shape), device=device)
    runs = contenders(name, shape, device, fused, inputs)
    multiply, product_work = product(device)
    move, copied = copy(device)
    runs |= {"matrix product": multiply, "copy": move}
    # By turns, each for as long: the machine's clock and company change from second to second, so
    # only times of one round are comparable, and every ratio is taken within a round.
    with torch.set_grad_enabled(T > 1):
        repeats = {}
        for contender, run in runs.items():
            run()  # compiles
            repeats[contender] = max(1, int(seconds / seconds_of(run, 1, device)))
        rounds = [
            {
                contender: seconds_of(run, repeats[contender], device)
                for contender, run in runs.items()
            }
            for _ in range(ROUNDS)
        ]
    matrix = max(sum(map(str.isalpha, x.letters)) for x in op.arguments if x.state) > 3  # B H V K
    flops = 2 * sum(op.sweeps[: 2 if T > 1 else 1]) * T * B * H * D * (D if matrix else 1)
    moved = moved_bytes(op, inputs, learning=T > 1)
    floors = [
        {
            "arithmetic": flops / product_work * times["matrix product"],
            "memory": moved / copied * times["copy"],
        }
        for times in rounds
    ]
    times_slower = {
        contender: statistics.median(times[contender] / times[fused] for times in rounds)
        for contender in runs
        if contender not in (fused, "matrix product", "copy")
    }
    floor = {kind: 1000 * statistics.median(each[kind] for each in floors) for kind in floors[0]}
    above = statistics.median(
        times[fused] / max(each.values()) for times, each in zip(rounds, floors, strict=True)
    )
    return {
        "op": name,
        "shape": dict(zip("TBHD", shape, strict=True)),
        "pass": "learning" if T > 1 else "acting",
        "milliseconds": {
            contender: 1000 * statistics.median(times[contender] for times in rounds)
            for contender in runs
        },
        "times_slower": times_slower,
        "floor_milliseconds": floor,
        "times_above_floor": above,
        "targets": _targets(name, shape) if device == "cpu" else {},
        "rounds": rounds,
    }


def _targets(op: str, shape: Shape) -> dict[str, float]:
    """What the CPU kernels are to reach: "milliseconds" and "floor" at most, the rest at least."""
    if shape == ACTING:
        return {"milliseconds": 0.060} if op == "fast_weight" else {}
    if shape not in TIMES_FASTER:
        return {}
    if op != "fast_weight":
        scalar = {"scalar decay": SCALAR_DECAY} if op == "fast_weight_channels" else {}
        return {"reference": 10, **scalar}
    floor = {"floor": 3.0} if shape == LEARNING[-1] else {}
    return {"reference": TIMES_FASTER[shape], "lstm": 1, **floor}


def _table_head(fused: str) -> str:
    sizes = ("op", "T, B, H, D", f"{fused}, ms", "floor, ms", "above it")
    columns = (*sizes, *CONTENDERS.values())
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads. Forward and backward; one\n"
        "step (T = 1) without gradients. Last five columns: how many times slower than "
        f"{fused}.\nIn brackets: targets.\n\n"
        f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    )


def _table_row(result: dict[str, Any], fused: str) -> str:
    targets, floor = result["targets"], result["floor_milliseconds"]

    def at_least(contender: str) -> str:
        if contender not in result["times_slower"]:
            return ""
        target = f" (≥ {targets[contender]})" if contender in targets else ""
        digits = 2 if contender == "scalar decay" else 1
        return f"{result['times_slower'][contender]:.{digits}f}{target}"

    def at_most(value: str, target: str) -> str:
        return f"{value} (≤ {targets[target]:g})" if target in targets else value

    cells = (
        result["op"],
        ", ".join(str(size) for size in result["shape"].values()),
        at_most(f"{result['milliseconds'][fused]:.3f}", "milliseconds"),
        f"{max(floor.values()):.3f} {max(floor, key=lambda kind: floor[kind])}",
        at_most(f"{result['times_above_floor']:.1f}", "floor"),
        *(at_least(contender) for contender in CONTENDERS),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """``python -m fwp_rl.bench.kernels``: ``fwp-rl bench kernels`` without what reads its flags."""
    parser = argparse.ArgumentParser(prog="python -m fwp_rl.bench.kernels")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ops", nargs="+", default=tuple(OPS), metavar="OP")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    try:
        bench_kernels(**vars(parser.parse_args()))
    except (BackendError, ConfigError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
