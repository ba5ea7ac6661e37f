"""Tables for people. Knows no command."""

from __future__ import annotations

import sys

from arkinfer.words import clean, human

__all__ = ["clean", "human", "print_table"]


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]], left: int = 2) -> None:
    """Prints a table: by rich on a terminal, else plain columns.

    Args:
        header: titles of the columns.
        rows: their texts.
        left: how many columns, the first ones, are words and not numbers.
    """
    rows = [tuple(map(clean, row)) for row in rows]
    print()
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, title in enumerate(header):
            table.add_column(title, justify="left" if index < left else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [
            f"{text:<{width}}" if index < left else f"{text:>{width}}"
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
