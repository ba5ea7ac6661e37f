"""A Hugging Face folder, written whole or not at all. Knows no layout of weights.

It grows under a temporary name beside its place and is renamed when all of it is on the disk.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from arkinfer.errors import ArkError, ResourceError, UsageError

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_SETTINGS = re.compile(
    r"(generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|tokenizer\.model|merges\.txt|chat_template\.(jinja|json)|\w+\.py|LICENSE[\w.-]*"
)
"""What belongs to a model beside its config and its weights."""

_LARGEST = 64 << 20
"""Bytes of one of these."""


@contextmanager
def whole_folder(path: Path) -> Generator[Path, None, None]:
    """A new folder to fill, which gets its name when the block ends well, and else is removed.

    Raises:
        UsageError: the place is taken, or its parent is missing.
        ResourceError: it cannot be written; also what the block meets.
    """
    target = check_place(path)
    temporary: Path | None = None
    try:
        _remove_stale(target)
        prefix = f".{target.name}.{os.getpid()}-"
        temporary = Path(tempfile.mkdtemp(".tmp", prefix, target.parent))
        yield temporary
        mask = os.umask(0o077)
        os.umask(mask)
        os.chmod(temporary, 0o777 & ~mask)
        os.rename(temporary, target)  # an empty folder there is replaced
        temporary = None
    except OSError as error:
        raise _disk_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_place(path: Path) -> Path:
    """The folder that `whole_folder` would make; for asking before long work.

    Raises:
        UsageError: see there.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(
            f'"{path}" cannot be written', f'There is no folder "{target.parent}"', "Make it first"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f'"{path}" cannot be written',
            "It is there already",
            "Remove it, or name another folder with -o",
        )
    return target


def write_settings(folder: Path, checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> None:
    """Everything but the weights: config.json, tokenizer, template, the model's own code.

    Args:
        folder: to write into.
        checkpoint: where they come from.
        quantization: the `quantization_config` of config.json.
    """
    config = {
        key: value
        for key, value in checkpoint.raw_config.items()
        if key not in ("quantization", "quantization_config")
    }
    _write_json(folder / "config.json", {**config, "quantization_config": quantization})
    if not checkpoint.path.is_dir():  # a GGUF file, which has no such files
        for name, content in checkpoint.settings():
            if name != "config.json":
                (folder / name).write_bytes(content)
        return
    for file in sorted(checkpoint.path.iterdir()):
        if _SETTINGS.fullmatch(file.name) and file.is_file() and file.stat().st_size <= _LARGEST:
            shutil.copyfile(file, folder / file.name)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _remove_stale(target: Path) -> None:
    """What killed exports to this place left behind."""
    for folder in target.parent.glob(f".{target.name}.*.tmp"):
        number = folder.name.removeprefix(f".{target.name}.").partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _disk_error(error: OSError, path: Path) -> ArkError:
    if error.errno in _FULL:
        return ResourceError(f'"{path}" cannot be written', "The disk is full", "Free some space")
    return ResourceError(
        f'"{path}" cannot be written',
        error.strerror or str(error),
        "Check the folder's permissions, or name another one",
    )
