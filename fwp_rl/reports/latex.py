r"""Tables of a report for a paper: LaTeX with booktabs.

A cell is a mean; behind it stand, small, its 95 % interval in brackets, or, where fewer than 5 runs
give none, the lowest and the highest run in parentheses. A file begins with comments that say so,
and holds a ``tabular``, to be ``\input`` into a ``table``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from fwp_rl.reports.comparison_tables import AGGREGATES
from fwp_rl.reports.table import Row, Table

__all__ = ["aggregates_latex", "escaped", "scores_latex"]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # behind a line break it would be an option
    "]": "{]}",
    "–": "--",
    "…": r"\ldots{}",
    "↓": r"$\downarrow$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def escaped(text: str) -> str:
    """Text that LaTeX typesets as it is."""
    words = "".join(_SPECIAL.get(letter, letter) for letter in text)
    return re.sub(r"-(?=-)", "-{}", words)  # two hyphens would be a dash


def scores_latex(scores: Table) -> str:
    """Tasks against variants, whichever there are fewer of across; empty without scores."""
    cells = {(str(row["task"]), str(row["variant"])): _cell(row) for row in scores.rows}
    tasks, variants = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    down, across = (tasks, variants) if len(variants) <= len(tasks) else (variants, tasks)
    if down is variants:
        cells = {(variant, task): cell for (task, variant), cell in cells.items()}
    corner = "Task" if down is tasks else "Variant"
    return _tabular("Scores of the last checkpoints: mean over runs.", corner, down, across, cells)


def aggregates_latex(aggregates: Table) -> str:
    """Variants against aggregates of the normalised scores; empty without them."""
    cells = {
        (str(row["variant"]), AGGREGATES[str(row["measure"])]): _cell(row)
        for row in aggregates.rows
    }
    variants, names = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    what = "Aggregates of normalised scores over all tasks."
    return _tabular(what, "Variant", variants, names, cells)


def _tabular(
    what: str,
    corner: str,
    down: Sequence[str],
    across: Sequence[str],
    cells: Mapping[tuple[str, str], str],
) -> str:
    if not cells:
        return ""
    head = _row([corner, *map(escaped, across)])
    rows = [_row([escaped(name), *(cells.get((name, a), "--") for a in across)]) for name in down]
    return "\n".join(
        [
            f"% {what}",
            "% [...]: 95 % bootstrap interval; (...): lowest to highest run, where fewer than 5",
            r"% needs \usepackage{booktabs}, \usepackage{textcomp} and an engine that reads UTF-8",
            rf"\begin{{tabular}}{{l{'r' * len(across)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _cell(row: Row) -> str:
    mean = _number(row["value"])
    if row["low"] is not None:
        return rf"{mean} {{\scriptsize {{[}}{_number(row['low'])}, {_number(row['high'])}{{]}}}}"
    lowest, highest = row.get("lowest"), row.get("highest")
    if lowest is None or row["n"] == 1:
        return mean
    return rf"{mean} {{\scriptsize ({_number(lowest)}, {_number(highest)})}}"


def _number(value: object) -> str:
    """Three digits or more, in math mode, where a minus is one."""
    number = float(str(value))
    size = abs(number)
    places = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"${number:.{places}f}$"
