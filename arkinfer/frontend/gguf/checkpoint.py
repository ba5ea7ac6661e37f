"""A GGUF file as a checkpoint: the same interface as a Hugging Face folder has.

Puts together what `file.py`, `config.py` and `vocabulary.py` read, and gives tensors under their
Hugging Face names, with the rows of q and k in that order. Knows no torch module and no IR.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError
from arkinfer.frontend.checkpoint import Checkpoint
from arkinfer.frontend.gguf.blocks import BlockType
from arkinfer.frontend.gguf.config import config_json, shortest
from arkinfer.frontend.gguf.file import Entry, Header
from arkinfer.frontend.gguf.split import read_parts
from arkinfer.frontend.gguf.tensors import (
    ROPE_TENSORS,
    gguf_name,
    half_rows,
    hugging_face_name,
    is_rotated,
)
from arkinfer.frontend.gguf.tokenizer import tokenizer_config, tokenizer_json
from arkinfer.frontend.gguf.vocabulary import read_vocabulary
from arkinfer.frontend.quantized import Read
from arkinfer.frontend.slots import Slot, SlotReader, damaged
from arkinfer.limits import TOKENIZER_BYTES
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.packing import QuantizedTensor, Scheme

_MOST_FACTORS = 1 << 16
"""Numbers of a table of rotary factors: half a head."""


def open_gguf(file: Path) -> GgufCheckpoint:
    """A checked checkpoint: every tensor that the metadata needs is there, and no other.

    Reads headers only; weights are read when asked for.

    Raises:
        UnsupportedError: an architecture, a tokenizer, a type of tensors or a value of the
            metadata that arkinfer cannot run.
        CheckpointError: the file is damaged or incomplete, or its tensors contradict its metadata.
    """
    header = read_parts(file)
    try:
        return _opened(file, header)
    except (CheckpointError, UnsupportedError) as error:
        # parse_config speaks of the file that we made for it
        what = re.sub("^config.json", f"The metadata of {file.name}", error.what)
        why, fix = (
            re.sub("(the )?config.json", "the metadata", text) for text in (error.why, error.fix)
        )
        raise type(error)(what, why, fix) from error


def _opened(file: Path, header: Header) -> GgufCheckpoint:
    table = header.tensors.get("token_embd.weight")
    if table is None:
        raise CheckpointError(
            f"The tensor token_embd.weight is missing from {file.name}",
            "Every model has an embedding",
            "Convert or download it again.",
        )
    plain = table.type.dtype
    raw = config_json(
        header.metadata,
        lambda name: _factors(header.tensors.get(name)),
        tied="output.weight" not in header.tensors,
        vocabulary=table.shape[0],
        dtype="float32" if plain is None else plain.name,
    )
    vocabulary = read_vocabulary(header.metadata)
    if len(vocabulary.tokens) > table.shape[0]:
        raise damaged(
            file, f"It has {len(vocabulary.tokens):,} tokens, and {table.shape[0]:,} embeddings"
        )
    raw |= {"bos_token_id": vocabulary.ids.get("bos"), "eos_token_id": list(vocabulary.ends)}
    config = parse_config(raw)
    _check(file, header, config)
    tokenizer = json.dumps(tokenizer_json(vocabulary), ensure_ascii=False).encode()
    if len(tokenizer) > TOKENIZER_BYTES:
        raise damaged(file, f"Its tokenizer has more than {TOKENIZER_BYTES:,} bytes")
    template = header.metadata.get("tokenizer.chat_template")
    settings = Settings(
        raw,
        tokenizer_config(vocabulary),
        tokenizer,
        template if isinstance(template, str) else None,
    )
    return GgufCheckpoint(file, config, settings, header.tensors)


def _factors(entry: Entry | None) -> list[float] | None:
    """A small table of floats, each the shortest decimal that it stands for."""
    if entry is None:
        return None
    if entry.type.name != "F32" or len(entry.shape) != 1 or entry.shape[0] > _MOST_FACTORS:
        raise damaged(entry.file, "Its factors of the rotary embedding are no list of floats")
    slot = Slot(entry.file, entry.offset, np.dtype("<f4"), entry.shape)
    reader = SlotReader()
    values = reader.rows(slot, 0, entry.shape[0])
    reader.close()
    return [shortest(float(value)) for value in values]


def _check(file: Path, header: Header, config: ModelConfig) -> None:
    """Exactly the model's tensors, of its shapes."""
    expected = {gguf_name(name): shape for name, shape in config.tensor_shapes().items()}
    found = {name: entry for name, entry in header.tensors.items() if name not in ROPE_TENSORS}
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing:
        others = f", and so are {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise CheckpointError(
            f"The tensor {missing[0]} is missing from {file.name}{others}",
            f"Its metadata describes a {config.architecture} of {config.num_hidden_layers} layers"
            + (f'; "{extra[0]}" is there instead' if extra else ""),
            "Convert or download it again.",
        )
    if extra:
        raise UnsupportedError(
            f"The tensor {extra[0]} of {file.name} is not part of the model",
            f"A {config.architecture} is run without it",
            "Use a model of the MiniCPM family or a plain Llama.",
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise damaged(
                file,
                f'Its tensor "{name}" has the shape {list(found[name].shape)}, and the metadata '
                f"needs {list(shape)}",
            )
        type = found[name].type
        if len(shape) == 1 and type.dtype is None:
            raise damaged(file, f'Its tensor "{name}" is a vector stored as {type.name}')


@dataclass(frozen=True)
class Settings:
    """What a file says beside its tensors, in the form of a checkpoint's files."""

    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    tokenizer: bytes
    template: str | None


@dataclass(frozen=True)
class _Blocks:
    """A quantized matrix of a file; see `arkinfer.frontend.quantized.Matrix`."""

    shape: tuple[int, int]
    tensors: tuple[str]
    type: BlockType

    @property
    def scheme(self) -> Scheme:
        assert self.type.scheme is not None
        return self.type.scheme

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        try:
            return self.type.decode(read(self.tensors[0], start, stop))
        except ArkError as error:
            raise type(error)(f"{self.tensors[0]}: {error.what}", error.why, error.fix) from None


class GgufCheckpoint(Checkpoint):
    """An opened GGUF file; see `open_gguf`."""

    def __init__(
        self, file: Path, config: ModelConfig, settings: Settings, tensors: Mapping[str, Entry]
    ) -> None:
        super().__init__(file, config)
        self.raw_config = settings.config
        self.tokenizer_config = settings.tokenizer_config
        self.chat_template = settings.template
        self._tokenizer = settings.tokenizer
        self._names = list(config.tensor_shapes())
        for ours, entry in tensors.items():
            name = hugging_face_name(ours)
            if name is not None:
                self._add(name, entry)

    @staticmethod
    def named(folder: Path) -> str:
        return folder.name.removesuffix(".gguf")

    @property
    def has_tokenizer(self) -> bool:
        return True

    @property
    def tokenizer_json(self) -> bytes:
        return self._tokenizer

    def _add(self, name: str, entry: Entry) -> None:
        if entry.type.dtype is not None:
            self._table[name] = Slot(entry.file, entry.offset, entry.type.dtype, entry.shape)
            return
        rows, columns = entry.shape
        bytes_of_rows = (rows, entry.row_bytes)
        self._table[name] = Slot(entry.file, entry.offset, np.dtype(np.uint8), bytes_of_rows)
        self._matrices[name] = _Blocks((rows, columns), (name,), entry.type)

    def _stored(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        if not is_rotated(name):
            return super()._stored(name, start, stop)
        return half_rows(
            lambda first, last: super(GgufCheckpoint, self)._stored(name, first, last),
            self.config.head_dim,
            start,
            stop,
        )

    def settings(self) -> Iterator[tuple[str, bytes]]:
        yield "config.json", json.dumps(self.raw_config).encode()
        yield "tokenizer.json", self._tokenizer
        yield "tokenizer_config.json", json.dumps(self.tokenizer_config).encode()
        yield "chat_template.jinja", (self.chat_template or "").encode()
