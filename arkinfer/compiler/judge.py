"""Measures what a prepared build costs the model, from the cache where it was measured before.

Knows no gate and no file format; how it is measured, `arkinfer.quality` knows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from arkinfer import ir
from arkinfer.artifact import ArtifactWriter
from arkinfer.compiler.cache import Cache, arithmetic, code_of, key_of
from arkinfer.compiler.effective import EffectiveWeights, SourceWeights, Stored, places
from arkinfer.compiler.golden import CODE
from arkinfer.compiler.prepare import Prepared, used_weights
from arkinfer.compiler.text_pass import text_tokens
from arkinfer.compiler.weights import Quantizer, WeightStore
from arkinfer.quality.measure import measure, token_count, work_of
from arkinfer.quality.report import Quality, parse_quality

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint


def judge(
    prepared: Prepared,
    checkpoint: Checkpoint,
    cache: Cache,
    quantize: Quantizer,
    artifact: ArtifactWriter | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Quality | None:
    """What the weights of a build cost on the built-in text; None: nothing is quantized.

    Args:
        prepared: decided.
        checkpoint: the model as it was, and its tokenizer.
        cache: may have the answer.
        quantize: makes the rows of weights by the rule "rtn".
        artifact: being written, with all its weights; None: they are made for this alone.
        on_done: told how many multiplications are done, and how many there are.

    Raises:
        CheckpointError: the tokenizer is missing or gives ids that the model has not, or weights
            are damaged.
    """
    finals = used_weights([prepared.module])
    if not any(isinstance(weight.type, ir.QuantizedType) for weight in finals):
        return None
    tokens = _tokens(prepared, checkpoint)
    if len(tokens) < 2:
        return None
    key = key_of(
        "quality",
        code_of(*CODE, "quality"),
        arithmetic(),
        checkpoint.source_digest(),
        ir.print_module(prepared.traced),
        ir.print_module(prepared.module),
        json.dumps(prepared.calibration),
        repr(tokens),
    )
    kept = cache.get(key)
    if kept is not None:
        return parse_quality(json.loads(bytes(kept)))
    weights = prepared.module.weights
    store = WeightStore(weights, prepared.leaves, quantize)
    stored = EffectiveWeights(prepared.leaves, Stored(artifact, store), places(finals, weights))
    source = SourceWeights(prepared.source)
    found = measure(prepared.traced, source, stored, tokens, on_done)
    facts = found.to_json()
    cache.put(key, [json.dumps(facts).encode()])
    return parse_quality(facts)  # as it will come from the cache


def _tokens(prepared: Prepared, checkpoint: Checkpoint) -> Sequence[int]:
    text = text_tokens(checkpoint, cast(int, prepared.module.attributes["vocab_size"]))
    available = min(len(text), prepared.context)
    return text[: token_count(work_of(prepared.traced), available)]
