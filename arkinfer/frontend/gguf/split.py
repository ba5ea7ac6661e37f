"""Which GGUF file a path means, and a model that is cut into several files as one. Knows no model.

llama.cpp's `gguf-split` names them `NAME-00001-of-00003.gguf`; the first has the metadata.
Source: llama.cpp `src/llama.cpp` (`llama_split_path`), `tools/gguf-split`.
"""

from __future__ import annotations

import re
from pathlib import Path

from arkinfer.errors import CheckpointError, UsageError
from arkinfer.frontend.gguf.file import Entry, Header, read_header
from arkinfer.frontend.slots import damaged

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only model of a folder without config.json.

    Raises:
        UsageError: the folder holds several models.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" else None
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(file for file in path.glob("*.gguf") if _first_part(file))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise UsageError(
            f"{path} holds {len(found)} GGUF models", f"They are {names}", "Name one of the files."
        )
    return found[0] if found else None


def read_parts(file: Path) -> Header:
    """The header of a model: of the file, or of all files that it is one of.

    Raises:
        CheckpointError: a part is missing, damaged, or of another model.
        UnsupportedError: see `read_header`.
    """
    match = _PART.fullmatch(file.name)
    if match is None:
        header = read_header(file)
        count = header.metadata.get("split.count", 1)
        if count != 1:
            raise CheckpointError(
                f"{file.name} is one of {count} files of a model, and its name does not say which",
                "Such files are named like model-00001-of-00003.gguf",
                "Give the file its name back, and keep all of them in one folder.",
            )
        return header
    return _joined(file.parent, match[1], int(match[3]))


def _joined(folder: Path, stem: str, count: int) -> Header:
    files = [folder / f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise CheckpointError(
            f"{(missing or [stem])[0]} is missing from {folder}",
            f"The model is cut into {count} files, and all are needed",
            "Download it, too.",
        )
    headers = [read_header(file) for file in files]
    tensors: dict[str, Entry] = {}
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        said = (header.metadata.get("split.no"), header.metadata.get("split.count"))
        if said != (number, count):
            raise damaged(file, f"It says that it is part {said[0]} of {said[1]}, from 0 on")
        for name, entry in header.tensors.items():
            if name in tensors:
                raise damaged(file, f'It has the tensor "{name}", which another part has, too')
            tensors[name] = entry
    return Header(headers[0].metadata, tensors)


def _first_part(file: Path) -> bool:
    """Whether a GGUF file is whole, or the first one of several."""
    match = _PART.fullmatch(file.name)
    return match is None or int(match[2]) == 1
