"""Scores of training that do not favour short games.

The mean of the games that ended last is wrong while long games are under way: after a start, and
after every resume, the short ones end first. Counted instead are *blocks*: the same number of games
of every environment, each a whole block once its slowest environment has played them. Whether a
game counts is settled before it begins, and so cannot depend on its length.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from fwp_rl.envs import EnvConfig, Game

__all__ = ["TrainingScores"]

BLOCK_GAMES = 20
"""Games in a block, at least: a score of fewer would choose the best checkpoint by luck."""

RECENT_GAMES = 100
"""Games that the logged means are of, at least, once there are as many."""

AHEAD = 4
"""Blocks that an environment may be ahead of the slowest; its further games are left out until the
others have caught up, or memory would grow, and with it the age of what is counted."""


class TrainingScores:
    """Mean return, length and rate of success of the latest finished blocks."""

    def __init__(self, env: EnvConfig, num_envs: int) -> None:
        self.games = 0
        """All that have ended, counted or not."""
        self._env = env
        self._per_environment = math.ceil(BLOCK_GAMES / num_envs)
        blocks = math.ceil(RECENT_GAMES / (self._per_environment * num_envs))
        self._blocks: deque[dict[str, float]] = deque(maxlen=blocks)
        # games of each environment that are in no finished block yet
        self._open: list[list[Game]] = [[] for _ in range(num_envs)]
        self._counts = [True] * num_envs  # the game under way

    def enter(self, games: Sequence[Game]) -> None:
        """Enter games as they end; ``column`` tells the environments of the run apart."""
        self.games += len(games)
        for game in games:
            waiting = self._open[game.column]
            if self._counts[game.column]:
                waiting.append(game)
            # The next game of this environment begins now: here it is settled whether it counts.
            self._counts[game.column] = len(waiting) < AHEAD * self._per_environment
            while all(len(own) >= self._per_environment for own in self._open):
                self._finish_block()

    def metrics(self) -> dict[str, float]:
        """For the log; without means before the first block."""
        names = dict.fromkeys(name for block in self._blocks for name in block)
        means = {name: _mean([b[name] for b in self._blocks if name in b]) for name in names}
        return means | {"charts/games": self.games}

    @property
    def score(self) -> float | None:
        """Mean return; None before the first block."""
        return self.metrics().get("charts/episode_return")

    def state(self) -> dict[str, Any]:
        """For a checkpoint. Games of unfinished blocks are left out: those under way are lost with
        the process, and what had ended before them would favour the short."""
        return {"games": self.games, "blocks": list(self._blocks)}

    def restore(self, games: int, blocks: Sequence[Mapping[str, float]]) -> None:
        """Go on from what ``state`` gave."""
        self.games = games
        self._blocks.extend(dict(block) for block in blocks)

    def _finish_block(self) -> None:
        block = [game for own in self._open for game in own[: self._per_environment]]
        self._open = [own[self._per_environment :] for own in self._open]
        judged = [self._env.success(game) for game in block]
        successes = [success for success in judged if success is not None]
        self._blocks.append(
            {
                "charts/episode_return": _mean([game.episode_return for game in block]),
                "charts/episode_length": _mean([game.length for game in block]),
            }
            | ({"charts/success_rate": _mean(successes)} if successes else {})
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
