"""Where arkinfer keeps what it can make again. Knows none of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CACHE = "ARKINFER_CACHE"
"""The environment variable that names the cache's folder."""


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """$ARKINFER_CACHE, else $XDG_CACHE_HOME/arkinfer, else ~/.cache/arkinfer; it need not be there.

    Args:
        environ: an environment; None: that of this process.
    """
    known = os.environ if environ is None else environ
    home = known.get("HOME") or os.path.expanduser("~")
    base = known.get(CACHE) or os.path.join(known.get("XDG_CACHE_HOME") or "~/.cache", "arkinfer")
    return Path(home + base[1:] if base == "~" or base.startswith("~/") else base)
