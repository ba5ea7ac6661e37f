"""Writes into an artifact what a build has prepared: texts, and the sections of its backends.

Knows no backend by name, and nothing of what stands in the manifest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arkinfer.artifact import ArtifactWriter
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.prepare import Prepared
from arkinfer.compiler.reuse import ReusedWeights
from arkinfer.compiler.section import SectionWriter
from arkinfer.compiler.stages import Stages
from arkinfer.compiler.weights import WeightStore, nbytes
from arkinfer.ir import QuantizedType, Weight, print_module

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint


def write_texts(artifact: ArtifactWriter, checkpoint: Checkpoint, prepared: Prepared) -> None:
    """The graph, the tokenizer and the chat template."""
    artifact.add_bytes("ir.txt", print_module(prepared.module).encode())
    artifact.add_bytes("tokenizer.json", checkpoint.tokenizer_json)
    if checkpoint.chat_template is not None:
        artifact.add_bytes("chat_template.jinja", checkpoint.chat_template.encode())


def write_sections(
    artifact: ArtifactWriter,
    prepared: Prepared,
    stages: Stages,
    cache: Cache,
    quantize: ReusedWeights,
) -> None:
    """One section for each backend, with the weights that it reads."""
    stored = prepared.stored_weights()
    numbers = {weight.name: number for number, weight in enumerate(stored, 1)}
    total = sum(map(nbytes, stored))
    for lowered in prepared.lowered:
        stages.start(f"compiling for {lowered.compiler.name}")
        done = 0

        def written(size: int) -> None:
            nonlocal done
            before, done = done, done + size
            cache.keep_free(max(0, total - done))
            if before < total:
                stages.written(done, total)
                if done >= total:  # kernels may be compiled now, which takes its time, too
                    stages.go_on()

        def begun(weight: Weight) -> None:
            verb = "quantizing" if isinstance(weight.type, QuantizedType) else "writing"
            number = numbers.get(weight.name, 0)
            stages.doing(f"{verb} {weight.name} (weight {number} of {len(numbers)})")

        cache.keep_free(total)
        store = WeightStore(lowered.module.weights, prepared.leaves, quantize)
        name = lowered.compiler.name
        writer = SectionWriter(name, artifact, store, written, begun, cache, stages.step)
        lowered.compiler.compile(lowered.module, prepared.options.target, writer)
        kept = lowered.caches(prepared.options.target)
        told = kept == prepared.options.kv
        writer.finish(lowered.activations, None if told else kept)
