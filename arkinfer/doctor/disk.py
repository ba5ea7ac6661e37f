"""The folders that builds and runs write to: room, permission, and whether code may run there.

Knows no build.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from pathlib import Path

from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.machine.folders import cache_folder
from arkinfer.words import human

LEAST = 256 << 20
"""Free bytes below which a folder is said to be full."""

ANOTHER_TMPDIR = "mkdir -p ~/tmp && export TMPDIR=~/tmp"


def check(host: Host) -> list[Finding]:
    """The folders for output (where the user stands), for temporary files, and both caches."""
    return [
        _folder("output folder", host.folder, "cd ~"),
        *check_temporary(host),
        *check_cache(host),
        _folder("hub cache", _hub(host), "export HF_HOME=~/huggingface"),
    ]


def _hub(host: Host) -> Path:
    """Where huggingface_hub keeps downloads; as its documentation says."""
    if given := host.environ.get("HF_HUB_CACHE"):
        return host.path(given)
    if home := host.environ.get("HF_HOME"):
        return host.path(home) / "hub"
    return host.path(host.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def check_cache(host: Host) -> list[Finding]:
    """The folder for what builds, and executors that prepare sections, keep for the next time."""
    folder = cache_folder(host.environ)
    return [_folder("cache", folder, "export ARKINFER_CACHE=~/arkinfer-cache")]


def check_temporary(host: Host) -> list[Finding]:
    """The folder for temporary files alone, which is all that a run writes to."""
    return [_temporary(host)]


def _temporary(host: Host) -> Finding:
    """Compiled kernels are loaded from there, so that it must allow code."""
    if not host.temporary().is_dir():
        detail = f"TMPDIR names {host.temporary()}, which is no folder"
        return Finding("temporary files", "broken", detail, ANOTHER_TMPDIR)
    found = _folder("temporary files", host.temporary(), ANOTHER_TMPDIR)
    if found.state != "ok":
        return found
    try:
        allowed = _allows_code(host.temporary())
    except OSError as error:
        return Finding(found.name, "not known", f"{found.detail}; {os.strerror(error.errno or 0)}")
    if allowed:
        return found
    detail = f"{host.temporary()} is mounted noexec: compiled kernels cannot be loaded from it"
    return Finding(found.name, "broken", detail, ANOTHER_TMPDIR)


def _folder(name: str, folder: Path, fix: str) -> Finding:
    """Free space and permission of a folder, or of the first parent that exists."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return Finding(name, "broken", f"{there} is not a folder", fix)
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(name, "broken", f"{folder}: {os.strerror(error.errno or 0)}", fix)
    detail = f"{human(free)} free in {folder}"
    if free < LEAST:
        return Finding(name, "broken", detail, fix)
    return Finding(name, "ok", detail)


def _allows_code(folder: Path) -> bool:
    """Whether the system maps a file of the folder as code, as loading a library does."""
    with tempfile.TemporaryFile(dir=folder) as file, contextlib.suppress(PermissionError):
        file.write(b"\0" * mmap.PAGESIZE)
        file.flush()
        mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        return True
    return False
