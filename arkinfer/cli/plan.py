"""`arkinfer plan`: what a build would make and cost. Knows no backend and builds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from arkinfer.compiler.plan import Plan


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint's folder (config.json is enough) or hub id; default: as for build.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="What the artifact would be for.")] = "cpu",
    quant: Annotated[
        str, typer.Option(help="none, int8, int4, or a form such as int4-g128-asym.")
    ] = "int4",
    backend: Annotated[
        list[str] | None, typer.Option(help="Whose section; default: the target's first.")
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="Scheme of embedding and head; default: by --quant.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16, of what is not quantized.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="The longest sequence, in tokens; default: the model's.")
    ] = None,
    kv: Annotated[str, typer.Option(help="fp32 or int8, of the key-value cache.")] = "fp32",
    offline: Annotated[bool, typer.Option(help="Use no network.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
) -> None:
    """Predict a build's size, memory, time and largest context.

    Example: arkinfer plan models/MiniCPM4-8B --target jetson-orin --quant int4-g128
    """
    from arkinfer.compiler.plan import plan as predict

    found = predict(
        model,
        target,
        quant,
        backend=tuple(backend) if backend else None,
        embedding=embedding,
        dtype=dtype,
        context=context,
        kv=kv,
        offline=offline,
    )
    if json:
        from json import dumps

        print(dumps(found.to_json(), indent=2))
    else:
        _show(found)


def _show(found: Plan) -> None:
    print(f"{found.model} for {found.target} on {found.backend}, {found.quant}")
    print(f"parameters  {found.parameters:,}")
    print(
        f"artifact    {_size(found.artifact_bytes)}, of which {_size(found.weight_bytes)} is loaded"
    )
    per = f"{found.kv_bytes_per_token:,} bytes a token in {found.kv}"
    print(f"KV cache    {_size(found.kv_bytes)} for {found.context:,} tokens ({per})")
    print(f"run         {_size(found.run_bytes)} of memory at that length (predicted)")
    room = f"in {_size(found.memory)} of memory (predicted)"
    print(f"largest     {found.largest_context:,} tokens {room}")
    spent = f"{found.build_seconds:,.0f} s"
    print(f"build       {_size(found.build_bytes)} of memory, {spent} (predicted)")
    if found.decode_tokens_per_second is not None:
        rate = found.decode_tokens_per_second
        print(f"decode      at most {rate:,.0f} tok/s by memory bandwidth (predicted)")
    for line in found.slow:
        print(f"slow        {line}")


def _size(count: int) -> str:
    """Bytes for people: decimal, as disks are sold."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} bytes"
