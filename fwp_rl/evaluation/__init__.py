"""Evaluating saved policies.

An evaluation plays whole games: the training environment's wrappers stay, episodic life and the
core's resets at lost lives included, and the raw reward is summed over all lives until the game
ends. Every column plays a fixed number of games, since counting the first to finish would favour
short ones. A game cut by the time limit counts with what it had scored, and is reported.
``paper_evaluation.py`` plays single lives, as the fast weight papers' code does.
"""

from fwp_rl.evaluation.checkpoints import Which, checkpoint_label, open_policy, run_of
from fwp_rl.evaluation.playing import (
    Played,
    in_words,
    make_actor,
    play,
    summarize,
)
from fwp_rl.evaluation.results import (
    check_writable,
    evaluation_table,
    evaluations_table,
    origin,
    warn_if_unwritable,
    write_result,
)
from fwp_rl.evaluation.whole_games import evaluate, evaluate_all, result_of

__all__ = [
    "Played",
    "Which",
    "check_writable",
    "checkpoint_label",
    "evaluate",
    "evaluate_all",
    "evaluation_table",
    "evaluations_table",
    "in_words",
    "make_actor",
    "open_policy",
    "origin",
    "play",
    "result_of",
    "run_of",
    "summarize",
    "warn_if_unwritable",
    "write_result",
]
