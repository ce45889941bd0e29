"""Sentences of a small grammar, of which it is known how well they can be predicted.

    sentence = open_i  filler{2..5}  close_i

i is one of 8, the number of fillers one of 4, each as likely as any other; a filler is the n-th of
16 words with a probability in proportion to 1 / n. A sentence with the fillers w has −ln p =
ln 8 + ln 4 − Σ ln p(w) nats, and its end of line none: no model's mean loss is lower, up to the
luck of a finite text. Who forgets i pays up to ln 8 more.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

__all__ = ["nats", "sentences"]

PAIRS: Final = 8
LENGTHS: Final = (2, 3, 4, 5)
FILLERS: Final = tuple(f"word{n}" for n in range(1, 17))

_P: Final = (1 / np.arange(1, 17)) / (1 / np.arange(1, 17)).sum()
_NATS: Final[dict[str, float]] = dict(zip(FILLERS, (-np.log(_P)).tolist(), strict=True))


def sentences(count: int, seed: int) -> list[str]:
    """So many sentences, each a line without its end."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(PAIRS, size=count).tolist()
    lengths = rng.choice(LENGTHS, count).tolist()
    fillers = iter(rng.choice(FILLERS, sum(lengths), p=_P).tolist())
    return [
        " ".join([f"open{pair}", *(next(fillers) for _ in range(length)), f"close{pair}"])
        for pair, length in zip(pairs, lengths, strict=True)
    ]


def nats(lines: Sequence[str]) -> float:
    """Mean −ln p of a token of these sentences, ends of lines included."""
    words = [line.split() for line in lines]
    total = len(lines) * math.log(PAIRS * len(LENGTHS))
    total += sum(_NATS[word] for line in words for word in line[1:-1])
    return total / sum(len(line) + 1 for line in words)
