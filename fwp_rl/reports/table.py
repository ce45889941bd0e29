"""A table of a report: its numbers, as CSV and JSON have them, and what a page shows of them."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["SCORE", "Cell", "Column", "Row", "Table", "Value", "number", "span", "table", "text"]
__all__ += ["to_csv"]

SCORE = "score"
"""Two decimals, fewer of large numbers."""
Value: TypeAlias = str | bool | int | float | None
Row: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Cell:
    """Text, right-aligned where it is a number; a link where it has an address."""

    text: str
    number: bool = False
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the page: its title, and the cell that it makes of a row."""

    title: str
    cell: Callable[[Row], Cell]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of raw values. None: there is no such value.

    name     of its files
    fields   the columns of CSV and JSON
    columns  of the page; none: the page does not show it
    """

    name: str
    title: str
    caption: str
    fields: Sequence[str]
    rows: Sequence[Row]
    columns: Sequence[Column]

    @property
    def cells(self) -> list[list[Cell]]:
        """What the page shows, row by row."""
        return [[column.cell(row) for column in self._filled] for row in self.rows]

    @property
    def head(self) -> list[str]:
        """The titles of the page's columns."""
        return [column.title for column in self._filled]

    @property
    def _filled(self) -> list[Column]:
        """Columns that have something to show."""
        return [c for c in self.columns if any(c.cell(row).text for row in self.rows)]


def table(
    name: str,
    title: str,
    caption: str,
    *,
    fields: str,
    rows: Sequence[Sequence[Value]],
    columns: Sequence[Column] = (),
) -> Table:
    """A table from rows of values.

    fields  their names, separated by spaces
    """
    names = fields.split()
    return Table(
        name=name,
        title=title,
        caption=caption,
        fields=names,
        rows=[dict(zip(names, map(_finite, row), strict=True)) for row in rows],
        columns=columns,
    )


def text(field: str, title: str | None = None, *, link: str | None = None) -> Column:
    """A column of words.

    title  by default the field's name
    link   field that holds the address
    """

    def cell(row: Row) -> Cell:
        value = row[field]
        address = None if link is None else row[link]
        return Cell(
            "" if value is None else str(value), link=None if address is None else str(address)
        )

    return Column(_title(field, title), cell)


def number(field: str, title: str | None = None, form: str = ",") -> Column:
    """A column of numbers, in the form of Python's ``format``, or ``SCORE``."""

    def cell(row: Row) -> Cell:
        return Cell(_formatted(row[field], form), number=True)

    return Column(_title(field, title), cell)


def span(low: str, high: str, title: str, form: str = ",") -> Column:
    """A column that shows two fields as ``30 to 200``, or ``30`` where they look the same."""

    def cell(row: Row) -> Cell:
        ends = dict.fromkeys(_formatted(row[field], form) for field in (low, high))
        return Cell(" to ".join(filter(None, ends)), number=True)

    return Column(title, cell)


def to_csv(shown: Table) -> bytes:
    """Numbers in full, none as an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(shown.fields)
    writer.writerows([row[field] for field in shown.fields] for row in shown.rows)
    return out.getvalue().encode("utf-8", "replace")


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _title(field: str, title: str | None) -> str:
    return field.replace("_", " ") if title is None else title


def _formatted(value: Any, form: str) -> str:
    if value is None:
        return ""
    if form == SCORE:
        form = ",.0f" if abs(value) >= 1000 else ",.1f" if abs(value) >= 100 else ".2f"
    return f"{value:{form}}"
