"""Tables and sizes for people. Knows no command."""

from __future__ import annotations

import sys


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


def clean(text: str) -> str:
    """Text without characters that would steer the terminal: it may come from anyone."""
    return "".join(c if c.isprintable() else "?" for c in text)


def human(size: int) -> str:
    """Bytes for people.

    >>> human(999), human(5 << 20)
    ('999 B', '5.0 MiB')
    """
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
