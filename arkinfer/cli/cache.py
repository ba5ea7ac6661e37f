"""`arkinfer cache`: what builds keep for the next one, and how to shrink it. Knows no entry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from arkinfer.cli.options import Json

if TYPE_CHECKING:
    from arkinfer.compiler.cache import Cache

cache = typer.Typer(
    epilog="Each has --json. Example: arkinfer cache ls --json", rich_markup_mode=None
)

_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@cache.command("ls")
def ls(json: Json = False) -> None:
    """Show where the cache is, what is in it, and its limit.

    Example: arkinfer cache ls --json
    """
    from arkinfer.cli.table import print_table
    from arkinfer.words import human

    store = _opened()
    entries = list(store.entries())
    kinds: dict[str, dict[str, int]] = {}
    for entry in entries:
        kind = kinds.setdefault(entry.kind, {"entries": 0, "bytes": 0})
        kind["entries"] += 1
        kind["bytes"] += entry.size
    total = sum(entry.size for entry in entries)
    if json:
        from json import dumps

        facts = {
            "folder": str(store.folder), "limit": store.limit, "entries": len(entries),
            "bytes": total, "kinds": kinds,
        }  # fmt: skip
        print(dumps(facts, indent=2))
        return
    print(f"folder  {store.folder}")
    print(f"size    {human(total)} of at most {human(store.limit)}")
    if entries:
        rows = [
            (name, f"{kind['entries']:,}", human(kind["bytes"])) for name, kind in kinds.items()
        ]
        print_table(("", "entries", "size"), rows, left=1)


@cache.command("prune")
def prune(
    all: Annotated[bool, typer.Option("--all", help="Drop everything.")] = False,
    limit: Annotated[
        str | None, typer.Option(help="The size to shrink to, like 5GB; default: its limit.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Drop what was not used for so long, like 30d or 12h.")
    ] = None,
    json: Json = False,
) -> None:
    """Drop what was not used for the longest time, and what killed builds left.

    Example: arkinfer cache prune --limit 5GB --older-than 30d
    """
    from arkinfer.compiler.cache import parse_size
    from arkinfer.compiler.journal import remove_dead
    from arkinfer.errors import UsageError
    from arkinfer.words import human

    if all and (limit or older_than):
        raise UsageError("--all drops everything", fix="Leave --limit and --older-than out")
    most = parse_size(limit, "--limit") if limit else None
    age = _age(older_than) if older_than else None
    store = _opened()
    assert store.folder is not None
    count, freed = store.prune(0 if all else store.limit if most is None else most, age)
    journals = remove_dead(store.folder / "builds")
    left = sum(entry.size for entry in store.entries())
    if json:
        from json import dumps

        facts = {"folder": str(store.folder), "dropped": count, "freed": freed, "bytes": left,
                 "journals": journals}  # fmt: skip
        print(dumps(facts, indent=2))
        return
    print(f"dropped {count:,} entries, {human(freed)}; {human(left)} are left in {store.folder}")


def _opened() -> Cache:
    from arkinfer.compiler.cache import Cache
    from arkinfer.errors import ResourceError

    store = Cache.open()
    if store.folder is None:
        raise ResourceError(
            "There is no cache to look at", store.problem, "Set ARKINFER_CACHE to another folder"
        )
    return store


def _age(text: str) -> float:
    """Seconds of "30d"."""
    from arkinfer.errors import UsageError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text)
    if match is None:
        raise UsageError(
            f'--older-than cannot be "{text}"', "It is a time", "Write it like 30d, 12h or 90m"
        )
    return float(match[1]) * _AGES[match[2]]
