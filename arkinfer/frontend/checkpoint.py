"""A Hugging Face checkpoint on disk: its config, its tokenizer, and its weights by name.

Knows no torch module and no IR. Which file format the weights have is asked once, in `_table`;
`safetensors_files.py` and `torch_bin.py` each give where every tensor lies.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, UnsupportedError, UsageError
from arkinfer.frontend import safetensors_files, torch_bin
from arkinfer.frontend.slots import Slot, SlotReader
from arkinfer.limits import (
    JSON_BYTES,
    JSON_VALUES,
    TEXT_BYTES,
    TOKENIZER_BYTES,
    TOKENIZER_VALUES,
    LimitError,
    parse_json,
)
from arkinfer.models.config import ModelConfig, parse_config

_FORMATS: dict[str, Callable[[Path], dict[str, Slot]]] = {
    "model.safetensors": safetensors_files.read_table,
    "pytorch_model.bin": torch_bin.read_table,
}
"""The name of an unsharded weight file -> its reader; the first that stands in the folder wins."""

_WEIGHT_DTYPES = ("bfloat16", "float16", "float32")

_HARMLESS = re.compile(r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Buffers that old checkpoints carry; the config says the same."""

_SMALL = 256 << 20
"""Bytes of weights up to which `source_digest` reads all of them."""

_SAMPLE = 16 << 10
"""Bytes that it reads at the beginning, middle and end of each tensor of a larger checkpoint."""


class Checkpoint:
    """An opened checkpoint; see `open_checkpoint`. A context manager: closes its files.

    Attributes:
        path: its folder.
        config: the model's shape.
        raw_config: config.json as it stands there.
        generation: generation_config.json, or empty.
        tokenizer_config: tokenizer_config.json, or empty.
        chat_template: chat_template.jinja, else the one in tokenizer_config.json, else None.
    """

    def __init__(self, folder: Path, table: Mapping[str, Slot], config: ModelConfig) -> None:
        self.path = folder
        self.config = config
        self.raw_config = _read_json(folder / "config.json")
        self.generation = _read_json(folder / "generation_config.json")
        self.tokenizer_config = _read_json(folder / "tokenizer_config.json")
        self.chat_template = _chat_template(folder, self.tokenizer_config)
        self._table = dict(table)
        self._reader = SlotReader()

    @property
    def name(self) -> str:
        """What to call the model: its folder; in a hub's cache, its repository.

        >>> Checkpoint.named(Path("/cache/models--openbmb--MiniCPM4-0.5B/snapshots/01ab"))
        'MiniCPM4-0.5B'
        """
        return self.named(self.path.resolve())

    @staticmethod
    def named(folder: Path) -> str:
        """The name that goes with an absolute folder; see `name`."""
        repository = folder.parent.parent.name
        if folder.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.rpartition("--")[2]
        return folder.parent.name if folder.name == "checkpoint" else folder.name

    @property
    def tokenizer_json(self) -> bytes:
        """The bytes of tokenizer.json.

        Raises:
            CheckpointError: there is none.
        """
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"{self.path} has no tokenizer.json",
                "Other tokenizer files cannot be read without the code that came with them",
                "Write one with transformers: AutoTokenizer.from_pretrained(folder)"
                ".save_pretrained(folder).",
            )
        return _read_bytes(file, TOKENIZER_BYTES)

    @property
    def tokenizer_facts(self) -> dict[str, Any]:
        """tokenizer.json as a JSON object.

        Raises:
            CheckpointError: there is none, or it is none.
        """
        return _object("tokenizer.json", self.tokenizer_json, TOKENIZER_BYTES, TOKENIZER_VALUES)

    def names(self) -> list[str]:
        """Every tensor of the model, in the model's order."""
        return list(self._table)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype that a tensor is stored in: bfloat16, float16 or float32."""
        return self._table[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._table[name].shape

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start:stop) of a tensor as stored (bf16 as `ml_dtypes.bfloat16`), in new memory.

        Both ends are those of a slice: beyond the last row there is nothing.

        Raises:
            CheckpointError: the file was cut off after it was opened.
        """
        slot = self._table[name]
        start, stop, _ = slice(start, stop).indices(slot.shape[0])
        return self._reader.rows(slot, start, max(start, stop))

    def source_digest(self) -> str:
        """SHA-256, in hex, of what a build takes from the checkpoint; how it is sharded is not.

        Covers config, generation config, tokenizer and template files, and every tensor's name,
        dtype, shape and bytes. Of a checkpoint above 256 MiB only 3 x 16 KiB of each tensor are
        read (beginning, middle, end): training changes them all, so that this tells checkpoints
        apart; it does not prove that a download is intact.
        """
        digest = hashlib.sha256()
        for name in _SETTINGS:
            file = self.path / name
            content = _read_bytes(file, TOKENIZER_BYTES) if file.is_file() else b""
            digest.update(f"{name} {len(content)}\n".encode() + content)
        whole = sum(slot.nbytes for slot in self._table.values()) <= _SMALL
        for name, slot in sorted(self._table.items()):
            digest.update(f"{name} {slot.dtype.name} {list(slot.shape)}\n".encode())
            for start, count in _samples(slot.nbytes, whole):
                digest.update(self._reader.bytes(slot.file, slot.offset + start, count).data)
        return digest.hexdigest()

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A checked checkpoint: every tensor that the config needs is there, and no other.

    Reads headers only; weights are read when asked for.

    Raises:
        UsageError: the path is no checkpoint folder.
        UnsupportedError: a model, a config value or a weight format that arkinfer cannot run.
        CheckpointError: a file is missing or damaged, or a tensor is missing, unknown, or not of
            the shape that the config gives; names it.
    """
    bare = open_config(path)
    return Checkpoint(bare.path, _checked(_table(bare.path), bare.config), bare.config)


def open_config(path: str | Path) -> Checkpoint:
    """A checkpoint without its weights: config, tokenizer and template, all that a plan needs.

    Raises:
        UsageError, UnsupportedError, CheckpointError: as `open_checkpoint`, weights apart.
    """
    folder = Path(path)
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(
            f"{folder} {state}",
            "",
            "Give the folder that holds the checkpoint's config.json, or a hub id like org/name.",
        )
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} is not a checkpoint",
            "It has no config.json",
            "Give the folder that holds the checkpoint's config.json, or a hub id like org/name.",
        )
    raw = _read_json(folder / "config.json")
    config = parse_config(raw, _read_json(folder / "generation_config.json"))
    return Checkpoint(folder, {}, config)


def _table(folder: Path) -> dict[str, Slot]:
    """Where every tensor of the folder lies, over all shards."""
    for name, read_table in _FORMATS.items():
        if (folder / name).is_file():
            return read_table(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _sharded(folder, index, read_table)
    raise CheckpointError(
        f"{folder} holds no weights",
        f"It has neither {' nor '.join(_FORMATS)}, nor an index of shards",
        "Download the checkpoint again, with its weight files.",
    )


def _sharded(
    folder: Path, index: Path, read_table: Callable[[Path], dict[str, Slot]]
) -> dict[str, Slot]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index.name} is damaged", "it has no weight_map", f"Download {index.name} again."
        )
    homes = cast("dict[str, Any]", weight_map)
    table: dict[str, Slot] = {}
    for shard in sorted({str(home) for home in homes.values()}):
        if Path(shard).name != shard or not os.path.isfile(folder / shard):
            raise CheckpointError(
                f"The shard {shard} is missing from {folder}",
                f"{index.name} says that weights are in it",
                f"Download {shard} again.",
            )
        for name, slot in read_table(folder / shard).items():
            if name in table:
                raise CheckpointError(
                    f"{name} is in two shards",
                    f"In {table[name].file.name} and in {shard}",
                    "Download the checkpoint again.",
                )
            table[name] = slot
    for name, home in homes.items():
        if name not in table:
            raise CheckpointError(
                f"{name} is missing from {home}",
                f"{index.name} says that it is there",
                f"Download {home} again.",
            )
    return table


def _checked(table: Mapping[str, Slot], config: ModelConfig) -> dict[str, Slot]:
    """Exactly the model's tensors, in the model's order."""
    expected = config.tensor_shapes()
    extra = [name for name in table if name not in expected and not _harmless(name, config)]
    missing = [name for name in expected if name not in table]
    if missing:
        others = f", nor are {len(missing) - 1:,} others" if len(missing) > 1 else ""
        found = f'; "{extra[0]}" is there instead' if extra else ""
        raise CheckpointError(
            f"The tensor {missing[0]} is missing",
            f"config.json needs it with the shape {list(expected[missing[0]])}, and it is in no "
            f"weight file{others}{found}",
            "Use the config.json that belongs to these weights, or download them again.",
        )
    if extra:
        slot = table[extra[0]]
        others = f" ({len(extra) - 1:,} others neither)" if len(extra) > 1 else ""
        raise CheckpointError(
            f"The tensor {extra[0]} in {slot.file.name} is not part of the model",
            f"config.json describes a {config.architecture} without it{others}; its shape is "
            f"{list(slot.shape)}",
            "Use the config.json that belongs to these weights.",
        )
    for name, shape in expected.items():
        slot = table[name]
        if slot.shape != shape:
            raise CheckpointError(
                f"The tensor {name} in {slot.file.name} has the shape {list(slot.shape)}",
                f"config.json needs {list(shape)}",
                "Use the config.json that belongs to these weights.",
            )
        if slot.dtype.name not in _WEIGHT_DTYPES:
            raise UnsupportedError(
                f"The tensor {name} in {slot.file.name} is stored as {slot.dtype.name}",
                f"Weights must be of {', '.join(_WEIGHT_DTYPES)}",
                "Use the checkpoint's bf16 release.",
            )
    return {name: table[name] for name in expected}


def _harmless(name: str, config: ModelConfig) -> bool:
    tied = config.tie_word_embeddings and name == "lm_head.weight"
    return tied or _HARMLESS.fullmatch(name) is not None


def _samples(nbytes: int, whole: bool) -> list[tuple[int, int]]:
    """(start, count) of what is read of a tensor."""
    if not whole and nbytes > 3 * _SAMPLE:
        middle = (nbytes - _SAMPLE) // 2
        return [(0, _SAMPLE), (middle, _SAMPLE), (nbytes - _SAMPLE, _SAMPLE)]
    step = 16 << 20
    return [(start, min(step, nbytes - start)) for start in range(0, nbytes, step)]


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _read_text(file)
    template: Any = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name, as older tool-using models have
        pairs = [pair for pair in cast("list[Any]", template) if isinstance(pair, dict)]
        named = {str(pair.get("name")): pair.get("template") for pair in pairs}
        template = named.get("default")
    if template is None or isinstance(template, str):
        return template
    raise CheckpointError(
        "The chat_template of tokenizer_config.json is no text",
        f"It is a {type(template).__name__}",
        "Restore tokenizer_config.json of the checkpoint.",
    )


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file does not exist."""
    return _object(file.name, _read_bytes(file, JSON_BYTES)) if file.is_file() else {}


def _object(
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


def _read_bytes(file: Path, most: int) -> bytes:
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


def _read_text(file: Path) -> str:
    try:
        return _read_bytes(file, TEXT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file.name} is not UTF-8 text", str(error), f"Download {file.name} again."
        ) from error
