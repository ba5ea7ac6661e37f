"""Signs an .ark file and checks whose signature it has. Knows no password prompt and no terminal.

What is signed are the bytes of manifest.json, which holds the SHA-256 of every other entry.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arkinfer.artifact.layout import MANIFEST, SIGNATURE
from arkinfer.artifact.minisign import (
    FormatError,
    PublicKey,
    SecretKey,
    Signature,
    comment_problem,
    parse_signature,
)
from arkinfer.artifact.reader import Artifact, damaged
from arkinfer.artifact.verify import verify_artifact
from arkinfer.artifact.writer import ArtifactWriter
from arkinfer.errors import ArtifactError, UsageError


def sign_artifact(
    path: str | Path,
    key: SecretKey,
    comment: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Signature:
    """Puts a signature into a file, in place of one that it has; all else stays, byte by byte.

    The file is verified first: a damaged one is not signed. It is replaced as a build replaces
    it, so that a kill leaves the old one.

    Args:
        path: an .ark file.
        key: what signs.
        comment: one line of printable ASCII that is signed, too; None: the digest.
        progress: see `verify_artifact`.

    Raises:
        ArtifactError: the file is damaged.
        UsageError: there is no such file, or the comment cannot be written.
        ResourceError: the disk is full or may not be written.
        DeviceError: the package `cryptography` is missing.
    """
    if comment is not None and (problem := comment_problem(comment)):
        raise UsageError("The comment cannot be signed", f"Reason: {problem}", "Write another one")
    verify_artifact(path, progress)
    with Artifact(path) as artifact:
        text = f"sha256:{artifact.digest}" if comment is None else comment
        signature = key.sign(artifact.read(MANIFEST), text)
        with ArtifactWriter(path) as writer:
            writer.commit_signed(artifact, signature.encode())
    return signature


def signature_of(artifact: Artifact) -> Signature | None:
    """The signature of a file, unchecked; None: it has none.

    Raises:
        ArtifactError: what stands there is no signature.
    """
    if SIGNATURE not in artifact:
        return None
    try:
        return parse_signature(artifact.read(SIGNATURE))
    except FormatError as error:
        raise damaged(artifact.path, f'in the entry "{SIGNATURE}", {error}') from None


def check_signature(artifact: Artifact, key: PublicKey) -> Signature:
    """The signature, which is by that key.

    Raises:
        ArtifactError: there is none, or it is by another key, or of another manifest.
        DeviceError: the package `cryptography` is missing.
    """
    found = signature_of(artifact)
    if found is None:
        raise ArtifactError(
            f'"{artifact.path}" is not signed',
            f"A signature by the key {key.id} was asked for",
            "Get the signed file from whoever builds it, or sign it: arkinfer sign",
        )
    if found.is_by(key, artifact.read(MANIFEST)):
        return found
    if found.number != key.number:
        raise ArtifactError(
            f'"{artifact.path}" is not signed by the key {key.id}',
            f"Its signature names the key {found.key_id}",
            "Check which key its builder signs with, and do not use the file until you know",
        )
    raise ArtifactError(
        f'The signature of "{artifact.path}" is wrong',
        f"It names the key {key.id}, but that key did not sign this {MANIFEST}",
        "Do not use the file: somebody changed it, or its signature, after it was signed",
    )
