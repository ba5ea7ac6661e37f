"""What manifest.json has to look like, as a JSON schema. Knows no file layout, and no rule that
reaches from one part of it to another: those are `manifest.check`'s.
"""

from __future__ import annotations

from arkinfer.artifact.dtypes import DTYPES
from arkinfer.artifact.schema import Schema

FORMAT = 1


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _count(description: str, minimum: int = 0) -> Schema:
    return {"type": "integer", "minimum": minimum, "description": description}


def _number(description: str, **limits: float) -> Schema:
    return {"type": "number", **limits, "description": description}


def _list(items: Schema, description: str) -> Schema:
    return {"type": "array", "items": items, "description": description}


def _map(values: Schema, description: str) -> Schema:
    return {"type": "object", "additionalProperties": values, "description": description}


def _struct(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


_SHA256: Schema = {
    "type": "string",
    "pattern": "^[0-9a-f]{64}$",
    "description": "a SHA-256 of 64 hexadecimal digits",
}

_MODEL = _struct(
    {
        "name": _text("the checkpoint's name"),
        "architecture": _text("the model class, e.g. MiniCPMForCausalLM"),
    },
    {
        "parameters": _count("weights of the checkpoint, tied ones once"),
        "hidden_size": _count("width of the residual stream", 1),
        "num_hidden_layers": _count("decoder layers", 1),
        "vocab_size": _count("rows of the logits", 1),
        "max_position_embeddings": _count("positions that the model was made for", 1),
    },
)
_TOKENS = _struct(
    {
        "bos": {"type": ["integer", "null"], "minimum": 0, "description": "first token, or null"},
        "stop": _list(_count("a token id"), "tokens that end an answer, from all sources"),
    },
    {
        "stop_strings": _list(_text("text"), "texts that end an answer"),
        "special": _map(_text("a token's text"), "what chat templates call bos_token, eos_token …"),
    },
)
_GENERATION = _struct(
    {},
    {
        "temperature": _number("0: greedy", minimum=0),
        "top_p": _number("kept probability mass", minimum=0, maximum=1),
        "top_k": _count("kept tokens; 0: all"),
        "min_p": _number("least probability, relative to the best token", minimum=0, maximum=1),
        "repetition_penalty": _number("1: none", minimum=0),
    },
)
_SECTION = _struct(
    {
        "backend": {
            "type": "string",
            "pattern": "^[a-z][a-z0-9_-]*$",
            "description": "a name of small letters, digits, _ and -",
        },
        "requires": _map(_text("a version range"), "version ranges by package"),
        "tensors": _list(_text("a name of `tensors`"), "what it loads"),
        "config": {"type": "object", "description": "facts of the executor's own"},
    },
    {
        "activations": _text("what products with quantized matrices take, e.g. int8; absent: none"),
        "caches": _text("how it keeps key-value caches, e.g. fp16; absent: as `kv` says"),
        "variants": _list(
            _text("an instruction set"),
            "what it has kernels for, the poorest first; absent: no choice",
        ),
    },
)
_TENSOR = _struct(
    {
        "dtype": {"enum": list(DTYPES), "description": "element type, little-endian"},
        "shape": {
            "type": "array",
            "maxItems": 8,
            "items": {"type": "integer", "minimum": 1, "maximum": 2**48},
            "description": "dimensions, row-major; [] for a scalar",
        },
    }
)
_CALIBRATION = _struct(
    {
        "method": _text("how the linears were calibrated, e.g. gptq"),
        "text": _text("what it looked at: a file's name"),
        "text_sha256": _SHA256,
        "samples": _count("sequences", 1),
        "tokens": _count("of each sequence", 1),
        "seed": _count("that chose the sequences"),
        "tokens_sha256": _SHA256,
    }
)
SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "manifest.json of an .ark file, format 1",
    **_struct(
        {
            "format": {"type": "integer", "const": FORMAT, "description": "of the file"},
            "arkinfer": _text("the version that wrote the file"),
            "requires": _list(_text("a feature"), "features that a reader must know"),
            "model": _MODEL,
            "context": _count("the longest sequence, in tokens", 1),
            "quant": _text("how the weights were quantized, e.g. int4-g128"),
            "dtype": _text("of what is not quantized, e.g. fp32"),
            "target": _struct({"name": _text("what it was built for")}),
            "tokens": _TOKENS,
            "generation": _GENERATION,
            "source": _struct({"files": _map(_SHA256, "SHA-256 of the checkpoint's files")}),
            "tensors": _map(_TENSOR, "by name; the bytes are the entry weights/<name>"),
            "sections": _list(_SECTION, "what runs the model, the preferred one first"),
            "entries": _map(
                _struct({"size": _count("bytes"), "sha256": _SHA256}),
                "every other entry, in file order",
            ),
        },
        {
            "kv": _text("how the key-value cache is kept: fp32, bf16, fp16 or int8; absent: fp32"),
            "kv_scales": _text(
                "what an int8 cache has scales for: token (each head of each token, found as it is "
                "appended) or channel (calibrated); absent: channel"
            ),
            "calibration": _CALIBRATION,
            "recipe": _struct({"name": _text("the recipe it was built by"), "sha256": _SHA256}),
            "tuned": _text("the processor that kernels were tuned on; absent: they were not"),
        },
    ),
}
