"""Evaluations' tables."""

from typing import Any

from rich.console import Console

from fwp_rl.envs.atari import AtariConfig, describe_protocol
from fwp_rl.evaluation import evaluation_table

RESULT: dict[str, Any] = {
    "protocol": {"games": 2, "actions": "sampled", "checkpoint": "last"},
    "summary": {
        "task": "atari/Pong",
        "mean": 1.5,
        "interval": [1.0, 2.0],
        "std": 0.7,
        "median": 1.5,
        "min": 1.0,
        "max": 2.0,
        "mean_length": 10.0,
        "truncated": 0,
        "success": None,
        "human_normalized": 0.6,
    },
    "environment": describe_protocol(
        AtariConfig(game="Pong", backend="ale", frame_skip=2, flicker=0.5)
    ),
}


def printed(result: dict[str, Any]) -> dict[str, str]:
    """Row → value of the table."""
    table = evaluation_table(result)
    names, values = (list(column.cells) for column in table.columns)
    Console(quiet=True).print(table)
    return dict(zip(map(str, names), map(str, values), strict=True))


def test_the_table_names_protocol_backend_and_screens() -> None:
    rows = printed(RESULT)
    assert rows["protocol of play"] == "classic, but frame_skip 2, flicker 0.5"
    assert rows["played by"] == "ale"
    assert rows["screens in an observation"] == "1"


def test_a_result_that_was_stored_before_there_were_success_and_protocols_has_a_table() -> None:
    summary = {name: value for name, value in RESULT["summary"].items() if name != "success"}
    old = RESULT | {"summary": summary, "environment": {"task_id": "Pong-v5"}}
    rows = printed(old)
    assert rows["mean return"] == "1.50"
    assert "success" not in rows
