"""Procgen's names, and its one sentence where Qt is missing."""

import envpool
import pytest
from envpool.procgen.registration import distribution

from fwp_rl.config import ConfigError
from fwp_rl.envs.procgen import TASKS, ProcgenConfig


def test_the_tasks_are_those_of_envpool() -> None:
    games = {game.removesuffix("Easy") for game in TASKS if game.endswith("Easy")}
    assert len(games) == 16
    known = {f"{game}{levels}-v0" for game in games for levels in distribution.values()}
    assert {f"{task}-v0" for task in TASKS} == known & set(envpool.list_all_envs())


def test_names() -> None:
    for given in ("mazememory", "Maze-Memory", "MazeMemory-v0", "maze_memory"):
        assert ProcgenConfig(task=given).task == "MazeMemory"
    with pytest.raises(ConfigError, match=r"task: got 'Maze', .* Did you mean 'Maze"):
        ProcgenConfig(task="Maze")


def test_without_qt_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object, **__: object) -> None:
        raise ImportError("EnvPool Procgen requires the system Qt 5 runtime on Linux.")

    monkeypatch.setattr(envpool, "make", make)
    with pytest.raises(ImportError, match="requires the system Qt 5 runtime"):
        ProcgenConfig().make(1, [0])
