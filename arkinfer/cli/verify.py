"""`arkinfer verify`: a file is whole, by whom it should be, and right here. Knows no backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Backend, Device, Json, Model, Threads
from arkinfer.cli.preparing import Loading, section_for
from arkinfer.cli.table import clean

if TYPE_CHECKING:
    from arkinfer.artifact.minisign import PublicKey
    from arkinfer.verify.checks import Check

MARKS = {True: "ok", None: "--"}


def verify(
    file: Model,
    backend: Backend = None,
    device: Device = None,
    threads: Threads = None,
    pubkey: Annotated[
        str | None,
        typer.Option(help="Who must have signed it: a public key of minisign, or its file."),
    ] = None,
    integrity_only: Annotated[
        bool, typer.Option("--integrity-only", help="Check the bytes; run nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Check an .ark file: every bit, its signature, and its answers on this device.

    Example: arkinfer verify model.ark --pubkey ark.key.pub
    """
    from arkinfer.errors import ArkError
    from arkinfer.runtime.demo import located
    from arkinfer.verify.checks import checks

    path, key = located(file), None if pubkey is None else _key(pubkey)
    backend = section_for(file, backend, device)
    teller = Loading(file, "Checking the bytes")
    found: list[Check] = []
    try:
        for check in checks(
            path,
            backend=backend,
            threads=threads,
            key=key,
            replay=not integrity_only,
            progress=teller,
            on_prepared=teller.prepared,
        ):
            teller.end()
            found.append(check)
    except ArkError:
        if not json:
            _show(found)  # what was right before
        raise
    finally:
        teller.end()
    if json:
        from json import dumps

        print(dumps(_facts(path, found), indent=2))
        return
    print(f"{path} is sound.")
    _show(found)
    print(f"digest         sha256 {found[0].facts['digest']}")


def _show(found: list[Check]) -> None:
    for check in found:
        print(clean(f"{MARKS[check.ok]}  {check.name:<10} {check.text}"))


def _facts(path: Path, found: list[Check]) -> dict[str, Any]:
    checks = [{"name": c.name, "ok": c.ok, "text": c.text, **c.facts} for c in found]
    return {"path": str(path), "ok": True, **found[0].facts, "checks": checks}


def _key(text: str) -> PublicKey:
    from arkinfer.artifact.minisign import parse_public_key
    from arkinfer.cli.sign import read_key_file

    path = Path(text)
    is_key = len(text) == 56 and text.startswith("RW") and not path.exists()
    return parse_public_key(text if is_key else read_key_file(path))
