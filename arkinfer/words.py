"""Texts for people: sizes, and foreign text that must not steer a terminal. Knows nothing else."""

from __future__ import annotations


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
