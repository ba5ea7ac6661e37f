"""`arkinfer plan`: what a build would make and cost. Knows no backend and builds nothing."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from arkinfer.cli.caches import cache_words
from arkinfer.cli.options import (
    Activations,
    Calib,
    CalibSamples,
    CalibSeed,
    CalibTokens,
    Checkpoint,
    Chunk,
    Dtype,
    Embedding,
    Json,
    Kv,
    Longest,
    NoCpu,
    Offline,
    Quant,
    Recipe,
    Requantize,
    Sections,
    Target,
)
from arkinfer.cli.placed import placed

if TYPE_CHECKING:
    from arkinfer.compiler.plan import Plan


def plan(
    model: Checkpoint = None,
    target: Target = None,
    quant: Quant = None,
    backend: Sections = None,
    no_cpu: NoCpu = False,
    embedding: Embedding = None,
    dtype: Dtype = None,
    context: Longest = None,
    chunk: Chunk = None,
    kv: Kv = None,
    activations: Activations = None,
    recipe: Recipe = None,
    requantize: Requantize = False,
    calib: Calib = None,
    calib_samples: CalibSamples = None,
    calib_tokens: CalibTokens = None,
    calib_seed: CalibSeed = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Predict a build's size, memory, time and largest context.

    Example: arkinfer plan models/MiniCPM4-8B --target jetson-orin --quant int4-g128
    """
    from arkinfer.compiler.calibration.text import text_options
    from arkinfer.compiler.plan import plan as predict

    found = predict(
        model,
        target,
        quant,
        backend=tuple(backend) if backend else None,
        embedding=embedding,
        dtype=dtype,
        context=context,
        chunk=chunk,
        kv=kv,
        activations=activations,
        requantize=requantize,
        no_cpu=no_cpu,
        calib=text_options(calib, calib_samples, calib_tokens, calib_seed),
        recipe=recipe,
        offline=offline,
    )
    if json:
        from json import dumps

        print(dumps(found.to_json(), indent=2))
    else:
        _show(found)


def _show(found: Plan) -> None:
    print(f"{found.model} for {found.target} on {found.backend}, {found.quant}")
    if found.recipe is not None:
        print(f"recipe      {found.recipe['name']}")
    print(f"parameters  {found.parameters:,}")
    print(
        f"artifact    {_size(found.artifact_bytes)}, of which {_size(found.weight_bytes)} is loaded"
    )
    kept = cache_words(found.kv, found.kv_scales)
    per = f"{found.kv_bytes_per_token:,} bytes a token in {kept}"
    print(f"KV cache    {_size(found.kv_bytes)} for {found.context:,} tokens ({per})")
    print(f"run         {_size(found.run_bytes)} of memory at that length (predicted)")
    room = f"in {_size(found.memory)} of memory (predicted)"
    print(f"largest     {found.largest_context:,} tokens {room}")
    spent = f"{found.build_seconds:,.0f} s"
    print(f"build       {_size(found.build_bytes)} of memory, {spent} (predicted)")
    if found.engine_bytes:
        print(f"engine      {_engine(found)} (predicted)")
    if found.decode:
        print(f"decode      at most {_rates(found)}, by memory bandwidth (predicted)")
    for by, models in groupby(found.published, lambda each: each.by):
        rates = ", ".join(f"{each.model} {each.tokens_per_second:g}" for each in models)
        print(f"published   {rates} tok/s on it, by {by}")
    if found.activations is not None:
        print(f"products    with activations in {_activations(found)}")
    for line in placed(found.placement):
        print(f"placed      {line}")
    for line in found.requantized:
        print(f"again       {line}")
    for line in found.slow:
        print(f"slow        {line}")


def _activations(found: Plan) -> str:
    """Of the products, as far as a plan can know."""
    if not found.measures_bits:
        return str(found.activations)
    return f"{found.activations}; a build takes int16 where it measures that int8 loses too much"


def _engine(found: Plan) -> str:
    """Of what the target makes of the file."""
    made = f"{_size(found.engine_bytes)}, made on the target in {_size(found.prepare_bytes)}"
    return made + (", which is more than it has" if found.prepare_bytes > found.memory else "")


def _rates(found: Plan) -> str:
    """The rate of an empty cache, and of some that are not."""
    first, *deeper = found.decode
    after = [f"{each.tokens_per_second:,.0f} after {each.depth:,}" for each in deeper]
    return ", ".join([f"{first.tokens_per_second:,.0f} tok/s", *after])


def _size(count: int) -> str:
    """Bytes for people: decimal, as disks are sold."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} bytes"
