"""Screens that are black now and then, so that a game has to be played from memory.

Hausknecht and Stone, "Deep Recurrent Q-Learning for Partially Observable MDPs" (2015): each screen
is fully shown or fully obscured, with equal probability, one screen per observation.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fwp_rl.envs.bookkeeping import ColumnDraws

__all__ = ["Flicker"]


class Flicker:
    """Blackens each new screen of a column with some probability, drawn from the column's seed.

    A black screen stays black while it moves through the stack.
    """

    def __init__(self, probability: float, num_screens: int, seeds: Sequence[int]) -> None:
        self._probability = probability
        self._draws = ColumnDraws(seeds)
        self._black = np.zeros((len(seeds), num_screens), np.bool_)

    def __call__(
        self, obs: NDArray[np.uint8], game_started: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """obs ``[B, num_screens, height, width]``, newest screen last; unchanged, not modified.

        game_started  [B] bool  the stack is filled with a game's first screen
        """
        if not self._probability:
            return obs
        black = self._draws.chance(self._probability)
        self._black = np.concatenate([self._black[:, 1:], black[:, None]], axis=1)
        self._black[game_started] = black[game_started, None]
        return np.where(self._black[:, :, None, None], np.uint8(0), obs)
