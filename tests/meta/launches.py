"""What the presets for Atari ask of a GPU: the table in launches.json, and how it is made anew.

    PYTHONPATH=tests python -m meta.launches

writes it: numbers that may fall and must not rise.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from fwp_rl.models.policy import Policy
from fwp_rl.runs.config import TrainConfig
from fwp_rl.runs.presets import load_preset

from .agents import Screens, acting_step, small, turns
from .device import Calls, count_casts

TABLE: Final = Path(__file__).with_name("launches.json")
COMMAND: Final = "PYTHONPATH=tests python -m meta.launches"
PRESETS: Final = ("ppo_atari", "impala_atari")
TORCH: Final = ".".join(torch.__version__.split(".")[:2])

Row = dict[str, Any]
"""Kind of call → how many; and under "ops" kind → op → how many."""


def measure(preset: str) -> dict[str, Row]:
    """Part of the work → its calls. A rollout of T steps costs T acting steps, T times what the
    learner does for each, its gradient steps, and what is left, once."""
    config = load_preset(preset)
    encoder: Any = config.encoder
    config = replace(
        config, env=Screens(shown=config.env.spec()), encoder=replace(encoder, features=16)
    )
    acting = acting_step(small(config, steps=2))
    # sums along time take as many rounds for 6 steps as for 5
    five, six = (_turn(small(config, steps=steps)) for steps in (5, 6))
    step = six - five - acting
    rest = five - (acting * 5) - (step * 5)
    rows = {"acting step": acting, "learner, each step": step}
    if config.__class__.__name__ == "PPOConfig":
        gradient = _turn(small(config, steps=5, minibatches=2)) - five
        rows |= {"gradient step": gradient, "rollout": rest - gradient}
    else:
        rows["update"] = rest
    casts = {"acting step": _casts(config, learning=False)}
    casts[list(rows)[2]] = _casts(config, learning=True)
    return {name: _row(calls, casts.get(name, 0)) for name, calls in rows.items()}


def _turn(config: TrainConfig) -> Calls:
    (second,) = turns(config, 2)
    return second


def _casts(config: TrainConfig, *, learning: bool) -> int:
    """Of the encoder's weights and activations to bfloat16, and of gradients back."""
    policy = Policy(config, config.env.spec())
    obs = torch.zeros(1, *policy.spec.observation_shape, dtype=torch.uint8)
    with torch.set_grad_enabled(learning), count_casts() as casts:
        with torch.autocast("cpu", torch.bfloat16):
            features = policy.encoder(obs)
        if learning:
            features.float().sum().backward()
    return casts["count"]


def _row(calls: Calls, casts: int) -> Row:
    ops = {kind: dict(counts) for kind, counts in vars(calls).items()}
    return {kind: sum(of.values()) for kind, of in ops.items()} | {"casts": casts, "ops": ops}


def rises(before: dict[str, Row], now: dict[str, Row]) -> list[str]:
    """What became more, in words, with the ops that did."""
    found = []
    for part, row in now.items():
        for kind, count in _counts(row):
            was = before.get(part, {}).get(kind, 0)
            if count > was:
                ops, old = (x.get("ops", {}).get(kind, {}) for x in (row, before.get(part, {})))
                counts = [(op, old.get(op, 0), n) for op, n in ops.items()]
                more = ", ".join(f"{op} {m} -> {n}" for op, m, n in counts if n > m)
                found.append(f"{part}: {kind} {was} -> {count} ({more})")
    return found


def falls(before: dict[str, Row], now: dict[str, Row]) -> list[str]:
    """What became less."""
    return [
        f"{part}: {kind} {count} -> {now.get(part, {}).get(kind, 0)}"
        for part, row in before.items()
        for kind, count in _counts(row)
        if now.get(part, {}).get(kind, 0) < count
    ]


def _counts(row: Row) -> list[tuple[str, int]]:
    return [(kind, count) for kind, count in row.items() if kind != "ops"]


def read() -> dict[str, Any]:
    """``torch``, and preset → part → row."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def write() -> None:
    lines = [f'{{"torch": "{TORCH}"']
    for preset in PRESETS:
        rows = [f"  {json.dumps(part)}: {json.dumps(row)}" for part, row in measure(preset).items()]
        lines.append(f'"{preset}": {{\n' + ",\n".join(rows) + "}")
    TABLE.write_text(",\n".join(lines) + "}\n")


if __name__ == "__main__":
    write()
    for preset in PRESETS:
        for part, row in read()[preset].items():
            print(preset, part, dict(_counts(row)))
