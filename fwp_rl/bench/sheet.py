"""The tables of the benchmarks: one description, for a terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

__all__ = ["Sheet"]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table; the first column names the row, the others hold numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    names: int = 1
    """First columns that hold words."""
    detail: bool = False
    """Whether a short page does without it."""

    def table(self) -> Table:
        """For a terminal of 80 columns."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        table.caption, table.caption_justify = self.note or None, "left"
        for n, name in enumerate(self.columns):
            table.add_column(name, justify="left" if n < self.names else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page: the title, the table, the note."""
        marks = ["---"] * self.names + ["---:"] * (len(self.columns) - self.names)
        lines = [f"**{self.title}**", ""]
        lines += [f"| {' | '.join(row)} |" for row in (self.columns, marks, *self.rows)]
        lines += ["", self.note] if self.note else []
        return "\n".join(lines) + "\n"
