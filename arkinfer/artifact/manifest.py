"""What manifest.json says: its types, its schema, its evolution rules. Knows no file layout.

Evolution: a key that this version does not know is ignored; a feature in `requires` that it does
not know is refused; a newer `format` is refused.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, cast

from arkinfer.artifact.dtypes import DTYPES
from arkinfer.artifact.manifest_schema import FORMAT, SCHEMA
from arkinfer.artifact.schema import problem
from arkinfer.limits import LimitError, parse_json

if TYPE_CHECKING:
    from typing_extensions import NotRequired

FEATURES: frozenset[str] = frozenset()
"""What a file may list in `requires` for this version to read it; format 1 began with none."""

WEIGHTS = "weights/"
BACKENDS = "backends/"
SECTION_IR = "module.ir"
"""The file of each section that holds the text of the IR which it was compiled from."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the artifact, stored as the entry `weights/<name>`.

    Attributes:
        name: as the compiler named it.
        dtype: a name of `DTYPES`.
        shape: dimensions, row-major; () for a scalar.
        size: bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Section:
    """What one backend runs; its files are the entries under `backends/<backend>/`.

    Attributes:
        backend: the executor's name, e.g. "onnxruntime".
        config: JSON facts of the executor's own.
        requires: version ranges by package, e.g. {"onnxruntime": ">=1.23"}.
        tensors: names of the tensors that it loads.
        activations: what its products with quantized matrices take, e.g. "int8", or "int8, int16
            in 12 of 41"; None: there are none, or an older arkinfer wrote it.
        caches: how it keeps key-value caches, e.g. "fp16"; None: as the manifest's `kv` says.
        variants: instruction sets that it has kernels for, the poorest first; the best one that the
            device has is what runs. (): it brings no machine code that there is a choice of.
    """

    backend: str
    config: dict[str, Any]
    requires: dict[str, str]
    tensors: tuple[str, ...]
    activations: str | None = None
    caches: str | None = None
    variants: tuple[str, ...] = ()

    @property
    def ir(self) -> str:
        """The entry that holds the IR which the section was compiled from."""
        return f"{BACKENDS}{self.backend}/{SECTION_IR}"


class ModelFacts(TypedDict):
    name: str
    architecture: str
    parameters: NotRequired[int]
    hidden_size: NotRequired[int]
    num_hidden_layers: NotRequired[int]
    vocab_size: NotRequired[int]
    max_position_embeddings: NotRequired[int]


class TargetFacts(TypedDict):
    name: str


class RecipeFacts(TypedDict):
    name: str
    sha256: str


class TokenFacts(TypedDict):
    bos: int | None
    stop: list[int]
    stop_strings: NotRequired[list[str]]
    special: NotRequired[dict[str, str]]


class GenerationFacts(TypedDict, total=False):
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float


class SourceFacts(TypedDict):
    files: dict[str, str]


class TensorFacts(TypedDict):
    dtype: str
    shape: list[int]


class SectionFacts(TypedDict):
    backend: str
    requires: dict[str, str]
    tensors: list[str]
    config: dict[str, Any]
    activations: NotRequired[str]
    caches: NotRequired[str]
    variants: NotRequired[list[str]]


class EntryFacts(TypedDict):
    size: int
    sha256: str


class CalibrationFacts(TypedDict):
    method: str
    text: str
    text_sha256: str
    samples: int
    tokens: int
    seed: int
    tokens_sha256: str


class Manifest(TypedDict):
    """manifest.json, as read; the schema describes each key."""

    format: int
    arkinfer: str
    requires: list[str]
    model: ModelFacts
    context: int
    quant: str
    dtype: str
    target: TargetFacts
    tokens: TokenFacts
    generation: GenerationFacts
    source: SourceFacts
    tensors: dict[str, TensorFacts]
    sections: list[SectionFacts]
    entries: dict[str, EntryFacts]
    kv: NotRequired[str]
    kv_scales: NotRequired[str]
    calibration: NotRequired[CalibrationFacts]
    recipe: NotRequired[RecipeFacts]
    tuned: NotRequired[str]


def kv_scales(manifest: Manifest) -> str | None:
    """What the key-value cache has scales for; None: it is not int8."""
    int8 = manifest.get("kv") == "int8"
    return manifest.get("kv_scales", "channel") if int8 else None


class ManifestError(Exception):
    """manifest.json does not say what it has to; the text says which part."""


class NewerError(Exception):
    """The file wants a newer arkinfer: `what` it has or needs, and the version that wrote it."""

    def __init__(self, what: str, writer: object) -> None:
        super().__init__(what)
        self.what = what
        is_version = isinstance(writer, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+]{0,40}", writer)
        self.writer = writer if is_version else ""


def encode(manifest: Manifest) -> bytes:
    """manifest.json's bytes; the order of keys is kept.

    Raises:
        ManifestError: the manifest breaks the schema or one of its cross references, or is beyond
            the limits of `parse_json`.
    """
    check(manifest)
    data = json.dumps(manifest, indent=1, allow_nan=False).encode() + b"\n"
    try:
        parse_json(data)  # what is written can be read
    except LimitError as error:
        raise ManifestError(str(error)) from None
    return data


def decode(data: bytes) -> Manifest:
    """Reads and checks manifest.json.

    Raises:
        NewerError: its format or a feature that it requires is newer than this version.
        ManifestError: it is not JSON, or breaks the schema or one of its cross references.
    """
    try:
        raw: object = parse_json(data)
    except LimitError as error:
        raise ManifestError(str(error)) from None
    if not isinstance(raw, dict):
        raise ManifestError("it is not a JSON object")
    facts = cast("dict[str, Any]", raw)
    _check_evolution(facts)
    check(facts)
    return cast("Manifest", raw)


def _check_evolution(facts: dict[str, Any]) -> None:
    """Before all else: a newer file may break every other rule."""
    version, requires = facts.get("format"), facts.get("requires")
    if isinstance(version, int) and version > FORMAT:
        raise NewerError(f"has format {version!s:.20}", facts.get("arkinfer"))
    for feature in cast("list[object]", requires) if isinstance(requires, list) else []:
        if isinstance(feature, str) and feature not in FEATURES:
            raise NewerError(f'needs the feature "{feature:.80}"', facts.get("arkinfer"))


def check(manifest: object) -> None:
    """Raises ManifestError when the schema or a reference from one part to another is broken."""
    if found := problem(manifest, SCHEMA):
        raise ManifestError(found)
    facts = cast("Manifest", manifest)
    tensors, entries = facts["tensors"], facts["entries"]
    for name, tensor in tensors.items():
        entry = entries.get(WEIGHTS + name)
        size = tensor_size(tensor["dtype"], tensor["shape"])
        if entry is None:
            raise ManifestError(f'the tensor "{name}" has no entry')
        if entry["size"] != size:
            raise ManifestError(f'"{name}" has {entry["size"]} bytes, its shape needs {size}')
    for name in entries:
        if name.startswith(WEIGHTS) and name.removeprefix(WEIGHTS) not in tensors:
            raise ManifestError(f'the entry "{name}" is not among the tensors')
    backends: set[str] = set()
    for section in facts["sections"]:
        if section["backend"] in backends:
            raise ManifestError(f'two sections are for "{section["backend"]}"')
        backends.add(section["backend"])
        for name in section["tensors"]:
            if name not in tensors:
                raise ManifestError(
                    f'section "{section["backend"]}" names "{name}", which is no tensor'
                )


def tensor_size(dtype: str, shape: list[int] | tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * DTYPES[dtype]
