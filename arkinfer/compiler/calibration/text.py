"""The text that calibrated methods look at: read, cut into sequences, told by its hash. Knows no
method and no model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, UsageError
from arkinfer.limits import LimitError, parse_json

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint

SAMPLES, TOKENS, SEED = 128, 512, 0
"""Sequences, their length, and where the dice start, unless asked otherwise."""

LEAST = 256
"""Tokens without which a text says nothing about a model."""

MOST = 16 << 20
"""Bytes of a text that are read; more is for training."""

BUILT_IN = "the built-in text"


@dataclass(frozen=True)
class TextOptions:
    """What a user asked for.

    Attributes:
        file: text, or JSON lines with a field "text"; None: the built-in text.
        samples: the most sequences.
        tokens: the most tokens of each.
        seed: decides where sequences begin.
    """

    file: Path | None = None
    samples: int = SAMPLES
    tokens: int = TOKENS
    seed: int = SEED

    def __post_init__(self) -> None:
        for what, number, least in (
            ("number of calibration sequences", self.samples, 1),
            ("length of calibration sequences", self.tokens, 16),
            ("seed of the calibration", self.seed, 0),
        ):
            if number < least:
                raise UsageError(f"The {what} cannot be {number}", "", f"Give at least {least}")


def text_options(
    file: Path | None, samples: int | None, tokens: int | None, seed: int | None
) -> TextOptions | None:
    """What was given, and defaults for the rest; None: nothing was.

    Raises:
        UsageError: a number makes no sense.
    """
    if file is None and samples is None and tokens is None and seed is None:
        return None
    return TextOptions(
        file,
        SAMPLES if samples is None else samples,
        TOKENS if tokens is None else tokens,
        SEED if seed is None else seed,
    )


@dataclass(frozen=True, eq=False)
class Sequences:
    """What the model will read.

    Attributes:
        ids: int64 [sequences, tokens]; each begins with BOS if the model has one.
        source: the name of the file, or "the built-in text".
        sha256: of the text's bytes.
        seed: as asked.
    """

    ids: npt.NDArray[np.int64]
    source: str
    sha256: str
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens: what results depend on."""
        shape = f"{self.ids.shape}\n".encode()
        return hashlib.sha256(shape + self.ids.astype("<i8").tobytes()).hexdigest()

    def facts(self) -> dict[str, str | int]:
        """For the manifest."""
        samples, tokens = self.ids.shape
        return {
            "text": self.source,
            "text_sha256": self.sha256,
            "samples": samples,
            "tokens": tokens,
            "seed": self.seed,
            "tokens_sha256": self.digest,
        }


def sequences(options: TextOptions, checkpoint: Checkpoint) -> Sequences:
    """Cuts sequences out of the text as the model's tokenizer reads it.

    The text is cut into windows that do not overlap, from a random offset on, and of the windows
    as many are taken as are asked for, or all. So a short text gives fewer sequences, and one
    shorter than a sequence gives one shorter sequence.

    Raises:
        UsageError: the text cannot be read, or is too short.
        CheckpointError: the tokenizer is missing, or gives ids that the model has not.
    """
    data, name = _read(options.file)
    tokenizer, bos = _tokenizer(checkpoint)
    tokens: list[int] = []
    for document in _documents(data, name):
        ids = tokenizer.encode(document)
        tokens += ids[1:] if bos is not None and ids[:1] == [bos] else ids
    stream = np.asarray(tokens, np.int64)
    if len(stream) < LEAST:
        raise UsageError(
            f"{name} is too short to calibrate with: it has {len(stream):,} tokens",
            f"At least {LEAST} are needed, and {options.samples * options.tokens:,} were asked for",
            "Give a longer text of the kind that the model will meet, or leave --calib out",
        )
    if int(stream.max()) >= checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path} has a tokenizer that does not belong to its model",
            f"It gives the token {int(stream.max())}, and vocab_size is "
            f"{checkpoint.config.vocab_size}",
            "Use the tokenizer.json that belongs to these weights",
        )
    length = min(options.tokens, checkpoint.config.max_position_embeddings)
    windows = _windows(stream, length - (bos is not None), options.samples, options.seed)
    if bos is not None:
        windows = np.insert(windows, 0, bos, axis=1)
    return Sequences(windows, name, hashlib.sha256(data).hexdigest(), options.seed)


def _windows(
    stream: npt.NDArray[np.int64], length: int, samples: int, seed: int
) -> npt.NDArray[np.int64]:
    """int64 [at most `samples`, at most `length`], in the order of the text."""
    length = min(length, len(stream))
    rng = np.random.Generator(np.random.PCG64(seed))
    count, rest = divmod(len(stream), length)
    offset = int(rng.integers(rest + 1))
    chosen = np.sort(rng.permutation(count)[:samples])
    return stream[offset : offset + count * length].reshape(count, length)[chosen]


def _tokenizer(checkpoint: Checkpoint) -> tuple[Any, int | None]:
    from arkinfer.runtime.tokenizer import Tokenizer
    from arkinfer.runtime.tokens import bos_token

    bos = bos_token(
        checkpoint.raw_config,
        checkpoint.tokenizer_config,
        checkpoint.tokenizer_facts,
        checkpoint.chat_template,
    )
    return Tokenizer(checkpoint.tokenizer_json, bos=bos), bos


def _read(file: Path | None) -> tuple[bytes, str]:
    """The bytes, and what to call them."""
    if file is None:
        return (files("arkinfer.compiler.calibration") / "text.txt").read_bytes(), BUILT_IN
    return read_text(file), file.name


def read_text(file: Path) -> bytes:
    """The bytes of a text.

    Raises:
        UsageError: it cannot be read, or is too long.
    """
    try:
        with file.open("rb") as source:
            data = source.read(MOST + 1)
    except OSError as error:
        raise UsageError(
            f'The calibration text "{file}" cannot be read',
            error.strerror or "",
            "Name a text file, or one of JSON lines",
        ) from None
    if len(data) > MOST:
        raise UsageError(
            f'The calibration text "{file}" is too long',
            f"It has more than {MOST:,} bytes, of which {SAMPLES * TOKENS:,} tokens are used",
            "Give a part of it",
        )
    return data


def _documents(data: bytes, name: str) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not text", f"Byte {error.start:,} is not UTF-8", "Save it as UTF-8"
        ) from None
    if not name.endswith((".jsonl", ".json", ".ndjson")):
        return [text]
    found: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found.append(_field(line, number, name))
    return found


def _field(line: str, number: int, name: str) -> str:
    try:
        content = parse_json(line.encode(), most=MOST, values=MOST)
    except LimitError:
        content = None
    text = cast("dict[str, Any]", content).get("text") if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise UsageError(
            f'Line {number} of {name} is no JSON object with a field "text"',
            "JSON lines have one on each line",
            'Write {"text": "…"}, or give plain text with another ending than .jsonl',
        )
    return text
