"""The small files of a checkpoint: JSON objects and texts, within limits. Knows no key of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from arkinfer.errors import CheckpointError
from arkinfer.limits import JSON_BYTES, JSON_VALUES, TEXT_BYTES, LimitError, parse_json


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file does not exist."""
    return json_object(file.name, read_bytes(file, JSON_BYTES)) if file.is_file() else {}


def json_object(
    name: str, data: bytes, most: int = JSON_BYTES, values: int = JSON_VALUES
) -> dict[str, Any]:
    try:
        content = parse_json(data, most=most, values=values)
    except LimitError as error:
        raise CheckpointError(
            f"{name} cannot be read", f"Reason: {error}", f"Correct {name} or download it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} is not a JSON object", "", f"Download {name} again.")
    return cast("dict[str, Any]", content)


def read_bytes(file: Path, most: int) -> bytes:
    """The content of a file that has at most `most` bytes."""
    with file.open("rb") as source:
        content = source.read(most + 1)
    if len(content) > most:
        raise CheckpointError(
            f"{file.name} is too long",
            f"It has more than the {most:,} bytes that are read",
            f"Download {file.name} again.",
        )
    return content


def read_text(file: Path) -> str:
    try:
        return read_bytes(file, TEXT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file.name} is not UTF-8 text", str(error), f"Download {file.name} again."
        ) from error
