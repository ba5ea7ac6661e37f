"""From what a user calls a model to a folder: a path, a hub id, or the packaged demo model.

The only place in arkinfer that dials out, and only for a hub id. Knows nothing of what is in a
checkpoint beyond the names of its files.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from arkinfer.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

Confirm = Callable[[str, int], bool]
"""(hub id, bytes to download) -> whether to; asked only when something is missing."""

DEMO = "demo"
TERNARY = "demo-ternary"

_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"),
    re.compile(r"model_gptq\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json"),
)
"""The first kind that a repository has is downloaded, and nothing else."""


def resolve(
    model: str | None,
    *,
    offline: bool = False,
    confirm: Confirm | None = None,
    weights: bool = True,
) -> Path:
    """The folder of a checkpoint, or its GGUF file.

    Args:
        model: a folder, a GGUF file, a hub id like "org/name", or "demo"; None: the current folder
            if it is a checkpoint, else the demo model.
        offline: never dial out; a hub id must be in the cache.
        confirm: called with the size before a download; None: downloads without asking.
        weights: False fetches no weights and asks nothing, which is enough for a plan.

    Raises:
        UsageError: there is no such folder or hub model, it is not in the cache, or `confirm`
            said no.
        ResourceError: the hub cannot be reached, or the disk is too small.
    """
    if model is None:
        return Path.cwd() if Path("config.json").is_file() else demo_checkpoint()
    if model == DEMO:
        return demo_checkpoint()
    if model == TERNARY and not Path(model).exists():
        raise UsageError(
            f'"{TERNARY}" comes as an .ark file, not as a checkpoint',
            "It is run, not built",
            f'Run it: arkinfer run {TERNARY} "…"; or make its checkpoint with recipes/bitcpm',
        )
    folder = Path(model).expanduser()
    if model and folder.exists():
        return folder
    if not _looks_like_id(model):
        raise UsageError(
            f'There is no {"file" if model.endswith(".gguf") else "folder"} "{model}"',
            "",
            f"{_similar(folder)}Give the folder that holds the checkpoint's config.json, a hub id "
            'like openbmb/MiniCPM4-0.5B, or "demo"',
        )
    _need_hub_library(model)
    if not weights:
        return _settings(model, offline)
    return _cached(model) if offline else _download(model, confirm)


def demo_checkpoint() -> Path:
    """The packaged demo model's checkpoint.

    Raises:
        UsageError: this installation has none.
    """
    from importlib.resources import files

    folder = Path(str(files("arkinfer"))) / "demo" / "checkpoint"
    if not (folder / "config.json").is_file():
        raise UsageError(
            "This installation of arkinfer has no demo model",
            f'There is no folder "{folder}"',
            "Name a checkpoint's folder or a hub id, or install arkinfer from its wheel",
        )
    return folder


def _need_hub_library(model: str) -> None:
    from importlib.util import find_spec

    if find_spec("huggingface_hub") is None:
        raise ResourceError(
            f"{model} is not a folder here, and models cannot be fetched from a hub",
            "The package huggingface-hub is not installed",
            "Run: pip install 'arkinfer[build]'",
        )


def _looks_like_id(model: str) -> bool:
    """ "org/name"; not if there is a folder "org" here, which it would then be a path into."""
    there = Path(model.split("/")[0]).exists() or model.endswith(".gguf")
    return _ID.fullmatch(model) is not None and not there


def _similar(folder: Path) -> str:
    if not folder.parent.is_dir():
        return ""
    siblings = sorted(p.name for p in folder.parent.iterdir() if p.is_dir() or p.suffix == ".gguf")
    close = difflib.get_close_matches(folder.name, siblings, n=1, cutoff=0.6)
    return f'Did you mean "{folder.parent / close[0]}"? ' if close else ""


def _cached(model: str) -> Path:
    """The newest complete copy in the hub's cache; config.json is always downloaded last."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    if not isinstance(found, str):
        raise UsageError(
            f"{model} is not in the cache of the hub",
            "--offline forbids to download it",
            "Run once without --offline, or give the folder of a copy",
        )
    return Path(found).parent


def _settings(model: str, offline: bool) -> Path:
    """The settings of a model alone, in a cache beside the hub's, where nothing is incomplete."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    if offline or isinstance(try_to_load_from_cache(model, "config.json"), str):
        return _cached(model)
    beside = Path(HF_HUB_CACHE).parent / "arkinfer-settings"
    with _explained(model) as api:
        files = {file.rfilename for file in api.model_info(model).siblings or ()}
        wanted = [name for name in _SETTINGS if name in files]
        if "config.json" not in wanted:
            raise _no_checkpoint(model, dict.fromkeys(files, 0))
        found = [hf_hub_download(model, name, cache_dir=beside) for name in wanted]
    return Path(found[0]).parent


def _download(model: str, confirm: Confirm | None) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(model) as api:
        info = api.model_info(model, files_metadata=True)
        sizes = _needed(model, info)
        missing = [name for name in sizes if not _is_cached(model, name, info.sha)]
        size = sum(sizes[name] for name in missing)
        if missing:
            _check_disk(model, size)
        if missing and confirm is not None and not confirm(model, size):
            raise UsageError(f"{model} was not downloaded", "The download was declined")
        for name in missing:
            if name != "config.json":
                hf_hub_download(model, name, revision=info.sha)
        # By the branch's name, so that the cache knows which copy is the newest.
        return Path(hf_hub_download(model, "config.json")).parent


@contextmanager
def _explained(model: str) -> Generator[HfApi]:
    """The hub; what goes wrong with it, in sentences."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    # OSError, and the HTTP client's base class, which differs between versions of the library.
    unreachable = cast("tuple[type[Exception], ...]", (OSError, *HfHubHTTPError.__bases__))
    try:
        yield HfApi()
    except GatedRepoError as error:
        raise UsageError(
            f"{model} may not be downloaded",
            "Its owners want their terms accepted first",
            "Accept them on the model's page, then log in with `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"The hub has no model {model}",
            "It does not exist, or is private",
            "Check the name; for a private model log in with `hf auth login`",
        ) from error
    except unreachable as error:
        raise ResourceError(
            f"{model} could not be downloaded",
            f"The hub could not be reached or broke off: {_first_line(error)}",
            "Try again, which continues where it stopped, or use --offline for a copy in the cache",
        ) from error


def _needed(model: str, info: ModelInfo) -> dict[str, int]:
    """Names and sizes of the files that a build reads; config.json comes last."""
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if "config.json" not in sizes:
        raise _no_checkpoint(model, sizes)
    for kind in _WEIGHTS:
        weights = sorted(name for name in sizes if kind.fullmatch(name))
        if weights:
            break
    else:
        raise UsageError(
            f"{model} holds no weights that can be read",
            f"It has neither safetensors nor pytorch_model.bin, but {_some(sizes)}",
            "Give a model in the format of Hugging Face transformers",
        )
    settings = [name for name in _SETTINGS[1:] if name in sizes]
    return {name: sizes[name] for name in (*settings, *weights, "config.json")}


def _no_checkpoint(model: str, files: dict[str, int]) -> UsageError:
    return UsageError(
        f"{model} is not a checkpoint",
        f"It has no config.json, but {_some(files)}",
        "Give a model in the format of Hugging Face transformers",
    )


def _some(names: dict[str, int]) -> str:
    return ", ".join(sorted(names)[:3]) or "no file"


def _is_cached(model: str, name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, name, revision=revision), str)


def _check_disk(model: str, size: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing: Sequence[Path] = [p for p in (folder, *folder.parents) if p.exists()]
    free = shutil.disk_usage(existing[0]).free
    if free < size:
        raise ResourceError(
            f"{model} does not fit on the disk",
            f"{size / 1e9:.2f} GB are to be downloaded to {folder}, which has {free / 1e9:.2f} GB "
            "free",
            "Make room, or set HF_HOME to a folder on another disk",
        )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
