"""`arkinfer sign`: vouches for an .ark file with an Ed25519 key of minisign. Knows no model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Json
from arkinfer.cli.progress import Progress

if TYPE_CHECKING:
    from arkinfer.artifact.minisign import PublicKey, SecretKey


def sign(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The .ark file.", show_default=False)
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The secret key, in minisign's format.", show_default=False)
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option(help="Make a key pair first: this file, and FILE.pub.", show_default=False),
    ] = None,
    comment: Annotated[
        str | None, typer.Option(help="One line that is signed, too; default: the digest.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign an .ark file with an Ed25519 key, so that its receivers can tell who built it.

    Example: arkinfer sign model.ark --key minisign.key
    """
    from arkinfer.errors import UsageError

    if key is not None and new_key is not None:
        raise UsageError(
            "--key and --new-key exclude each other", fix="Name the key that is to sign"
        )
    if new_key is None and (key is None or file is None):
        raise UsageError(
            "There is nothing to sign" if file is None else f'No key was named to sign "{file}"',
            fix="Give a file and --key, or make a key with --new-key",
        )
    secret = _new_key(new_key) if new_key is not None else _read_key(key or Path())
    facts: dict[str, Any] = {"key": secret.public.id, "public_key": secret.public.text()}
    if new_key is not None:
        facts["files"] = [str(new_key), f"{new_key}.pub"]
    if file is not None:
        facts |= _sign(file, secret, comment)
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
    else:
        _show(facts, secret.public)


def _sign(file: str, secret: SecretKey, comment: str | None) -> dict[str, Any]:
    from arkinfer.artifact.sign import sign_artifact

    progress = Progress(f"Verifying {file}")
    try:
        signature = sign_artifact(file, secret, comment, progress)
    finally:
        progress.end()
    return {"path": file, "comment": signature.comment}


def _show(facts: dict[str, Any], public: PublicKey) -> None:
    if "files" in facts:
        secret, shared = facts["files"]
        print(f"secret key  {secret}: keep it; it has no password")
        print(f"public key  {shared}: pass it on")
    if "path" in facts:
        print(f"{facts['path']} is signed by the key {public.id}: {facts['comment']}")
        print(f"check it with  arkinfer verify {facts['path']} --pubkey {public.text()}")


def _new_key(path: Path) -> SecretKey:
    """Makes a key pair and writes both files, neither of which may exist.

    Raises:
        UsageError: a file is there already.
        ResourceError: a file cannot be written.
    """
    from arkinfer.artifact.minisign import SecretKey
    from arkinfer.errors import ResourceError, UsageError

    secret = SecretKey.new()
    texts = ((path, secret.file(), 0o600), (Path(f"{path}.pub"), secret.public.file(), 0o644))
    for file, _, _ in texts:
        if file.exists():
            raise UsageError(
                f'"{file}" is there already', "A key is never overwritten", "Name another file"
            )
    for file, text, mode in texts:
        try:
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as out:
                out.write(text)
        except OSError as error:
            raise ResourceError(
                f'"{file}" cannot be written', error.strerror or "", "Name a file in another folder"
            ) from error
    return secret


def _read_key(path: Path) -> SecretKey:
    from arkinfer.artifact.minisign import needs_password, parse_secret_key

    text = read_key_file(path)
    return parse_secret_key(text, _password(path) if needs_password(text) else b"")


def read_key_file(path: Path) -> str:
    """The text of a key's file.

    Raises:
        UsageError: there is none, or it is too large for a key, or no text.
    """
    from arkinfer.artifact.minisign import MAX_FILE
    from arkinfer.errors import UsageError

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(
            f'The key "{path}" cannot be read', error.strerror or "", "Check the path"
        ) from error
    if len(data) > MAX_FILE or not data.isascii():
        raise UsageError(f'"{path}" is not a key of minisign', fix="Check the path")
    return data.decode("ascii")


def _password(path: Path) -> bytes:
    """Asks for it, without showing it.

    Raises:
        UsageError: there is no terminal to ask at.
    """
    from getpass import getpass

    from arkinfer.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError(
            f'The key "{path}" is protected by a password, and there is no terminal to ask at',
            fix="Sign in a terminal, or use a key without a password",
        )
    return getpass(f"Password of {path}: ").encode()
