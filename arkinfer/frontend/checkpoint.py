"""A Hugging Face checkpoint on disk: its config, its tokenizer, and its weights by name.

Knows no torch module and no IR. Where the tensors lie is `weight_files.py`'s business, and what
quantized ones mean that of `quantized/`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, UnsupportedError, UsageError
from arkinfer.frontend import quantized
from arkinfer.frontend.gguf.split import gguf_file
from arkinfer.frontend.json_files import json_object, read_bytes, read_json, read_text
from arkinfer.frontend.quantized import Matrix, ternary
from arkinfer.frontend.quantized.claimed import claimed
from arkinfer.frontend.quantized.ternary import Dense, TernaryMatrix
from arkinfer.frontend.slots import Slot, SlotReader
from arkinfer.frontend.weight_files import has_weights, read_table
from arkinfer.limits import TOKENIZER_BYTES, TOKENIZER_VALUES
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.packing import QuantizedTensor, Scheme

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

    def __init__(
        self, folder: Path, config: ModelConfig, table: Mapping[str, Slot] | None = None
    ) -> None:
        self.path = folder
        self.config = config
        self.raw_config = read_json(folder / "config.json")
        self.generation = read_json(folder / "generation_config.json")
        self.tokenizer_config = read_json(folder / "tokenizer_config.json")
        self.chat_template = _chat_template(folder, self.tokenizer_config)
        self._reader = SlotReader()
        self._table = dict(table or {})
        self._matrices: dict[str, Matrix] = {}
        self._names: list[str] = []
        if table is not None:
            self._sort(config)

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
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer.json."""
        return (self.path / "tokenizer.json").is_file()

    @property
    def tokenizer_json(self) -> bytes:
        """The bytes of tokenizer.json.

        Raises:
            CheckpointError: there is none.
        """
        file = self.path / "tokenizer.json"
        if not self.has_tokenizer:
            raise CheckpointError(
                f"{self.path} has no tokenizer.json",
                "Other tokenizer files cannot be read without the code that came with them",
                "Write one with transformers: AutoTokenizer.from_pretrained(folder)"
                ".save_pretrained(folder).",
            )
        return read_bytes(file, TOKENIZER_BYTES)

    @property
    def tokenizer_facts(self) -> dict[str, Any]:
        """tokenizer.json as a JSON object.

        Raises:
            CheckpointError: there is none, or it is none.
        """
        return json_object("tokenizer.json", self.tokenizer_json, TOKENIZER_BYTES, TOKENIZER_VALUES)

    def names(self) -> list[str]:
        """Every tensor of the model, in the model's order."""
        return list(self._names)

    def schemes(self) -> dict[str, Scheme]:
        """The matrices that are quantized, and how."""
        return {name: matrix.scheme for name, matrix in self._matrices.items()}

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype that a tensor is stored in: bfloat16, float16 or float32.

        That of a quantized matrix is float32, in which its numbers are exact.
        """
        return np.dtype(np.float32) if name in self._matrices else self._table[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._matrices[name].shape if name in self._matrices else self._table[name].shape

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start:stop) of a tensor as stored (bf16 as `ml_dtypes.bfloat16`), in new memory.

        Of a quantized matrix, the numbers that it stands for. Both ends are those of a slice:
        beyond the last row there is nothing.

        Raises:
            CheckpointError: the file was cut off after it was opened.
        """
        start, stop, _ = slice(start, stop).indices(self.shape(name)[0])
        if name in self._matrices:
            return self.quantized(name, start, max(start, stop)).dequantize()
        return self._stored(name, start, max(start, stop))

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        """Rows [start, stop) of a matrix that `schemes` lists, bit-exact.

        Raises:
            CheckpointError: the file was cut off after it was opened, or its numbers contradict
                its format.
        """
        return self._matrices[name].rows(self._stored, start, stop)

    def find_ternary(
        self,
        on_part: Callable[[int, int], None] = lambda done, total: None,
        *,
        glance: bool = False,
    ) -> dict[str, TernaryMatrix] | Dense:
        """The layers' linears, if all are ternary; see `frontend.quantized.ternary.find`."""
        shapes = {name: self.shape(name) for name in self._names}
        return ternary.find(shapes, self._stored, on_part, glance=glance)

    def adopt(self, matrices: Mapping[str, Matrix]) -> None:
        """Has these matrices be quantized from now on: `schemes` lists them."""
        self._matrices |= matrices

    def _stored(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        return self._reader.rows(self._table[name], start, stop)

    def _sort(self, config: ModelConfig) -> None:
        """Finds what is quantized; the rest must be exactly the model's other tensors."""
        expected = config.tensor_shapes()
        shapes = {name: (slot.dtype, slot.shape) for name, slot in self._table.items()}
        matrices = {name: (s[0], s[1]) for name, s in expected.items() if len(s) == 2}
        facts = config.quantization or {}
        self._matrices = quantized.find(shapes, matrices, facts, self._stored)
        used = {name for matrix in self._matrices.values() for name in matrix.tensors}
        rest = {name: slot for name, slot in self._table.items() if name not in used}
        dense = {name: s for name, s in expected.items() if name not in self._matrices}
        _check(rest, dense, config)
        self._names = list(expected)
        self._table = {name: self._table[name] for name in (*dense, *sorted(used))}

    def source_digest(self) -> str:
        """SHA-256, in hex, of what a build takes from the checkpoint; how it is sharded is not.

        Covers config, generation config, tokenizer and template files, and every tensor's name,
        dtype, shape and bytes. Of a checkpoint above 256 MiB only 3 x 16 KiB of each tensor are
        read (beginning, middle, end): training changes them all, so that this tells checkpoints
        apart; it does not prove that a download is intact.
        """
        digest = hashlib.sha256()
        for name, content in self.settings():
            digest.update(f"{name} {len(content)}\n".encode() + content)
        whole = sum(slot.nbytes for slot in self._table.values()) <= _SMALL
        for name, slot in sorted(self._table.items()):
            digest.update(f"{name} {slot.dtype.name} {list(slot.shape)}\n".encode())
            for start, count in _samples(slot.nbytes, whole):
                digest.update(self._reader.bytes(slot.file, slot.offset + start, count).data)
        return digest.hexdigest()

    def settings(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of what a build takes beside the weights."""
        for name in _SETTINGS:
            file = self.path / name
            yield name, read_bytes(file, TOKENIZER_BYTES) if file.is_file() else b""

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

    Reads headers only; weights are read when asked for. A GGUF file is a checkpoint, too.

    Raises:
        UsageError: the path is no checkpoint folder.
        UnsupportedError: a model, a config value or a weight format that arkinfer cannot run.
        CheckpointError: a file is missing or damaged, or a tensor is missing, unknown, or not of
            the shape that the config gives; names it.
    """
    if (file := gguf_file(Path(path))) is not None:
        return _gguf(file)
    bare = open_config(path)
    return Checkpoint(bare.path, bare.config, read_table(bare.path))


def open_config(path: str | Path) -> Checkpoint:
    """A checkpoint without its weights: config, tokenizer and template, all that a plan needs.

    Raises:
        UsageError, UnsupportedError, CheckpointError: as `open_checkpoint`, weights apart.
    """
    folder = Path(path)
    if (file := gguf_file(folder)) is not None:
        return _gguf(file)
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(
            f"{folder} {state}",
            "",
            _GIVE,
        )
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} is not a checkpoint",
            "It has no config.json",
            _GIVE,
        )
    raw = read_json(folder / "config.json")
    config = parse_config(raw, read_json(folder / "generation_config.json"))
    return Checkpoint(folder, config)


_GIVE = "Give the folder of a checkpoint's config.json, a GGUF file, or a hub id like org/name."


def _gguf(file: Path) -> Checkpoint:
    from arkinfer.frontend.gguf.checkpoint import open_gguf  # a subclass of ours

    return open_gguf(file)


def stored_schemes(folder: Path, config: ModelConfig) -> dict[str, Scheme]:
    """The matrices that a checkpoint has quantized, for a plan: reads headers at most.

    Where the weights are not there yet, those that config.json says are quantized.

    Raises:
        UsageError, UnsupportedError, CheckpointError: as `open_checkpoint`.
    """
    if config.quantization is None and gguf_file(folder) is None:
        return {}
    if config.quantization is not None and not has_weights(folder):
        shapes = config.tensor_shapes()
        return claimed(config.quantization, [name for name in shapes if len(shapes[name]) == 2])
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.schemes()


def _check(
    table: Mapping[str, Slot], expected: Mapping[str, tuple[int, ...]], config: ModelConfig
) -> None:
    """The table must hold these tensors, and no other."""
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
        return read_text(file)
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
