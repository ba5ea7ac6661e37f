"""Texts for people: sizes, times, and foreign text that must not steer a terminal."""

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


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(8), duration(200), duration(7500)
    ('8 s', '3 min', '2 h 5 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
