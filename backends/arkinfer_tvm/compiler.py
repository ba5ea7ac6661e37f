"""Lowers a module to a program and a library of compiled kernels: the host half.

Matrices are repacked as kernels read them. Knows no pass and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from arkinfer import ir
from arkinfer.artifact import SECTION_IR
from arkinfer.backend.contract import SectionWriter, Support
from arkinfer.errors import DeviceError, UnsupportedError, UsageError
from arkinfer.runtime.drafts import MOST
from arkinfer.targets import Target
from arkinfer_tvm.cpu import ISAS, cpu_flags, isas_for
from arkinfer_tvm.program import INTERFACE, Seen, programs_to_json, seen_to_json
from arkinfer_tvm.support import supports
from arkinfer_tvm.taps import taps_to_json

LIBRARY, PROGRAMS = "libkernels-{}.so", "programs.json"
VALUES, TAPS = "values.json", "taps.json"

SIZES = (1, MOST)
"""The most tokens of the programs for short steps: decoding, speculative trees. One more program is
for as many as a step may have."""


class TvmCompiler:
    """The backend "tvm"; see `arkinfer.backend.contract.Compiler`."""

    name = "tvm"
    legalizations: tuple[str, ...] = ()
    activations: tuple[str, ...] = ("i8", "i16", "f32")

    def __init__(self, tunes: bool = False) -> None:
        self._tunes = tunes

    def supports(self, node: ir.Node, target: Target) -> Support:
        return supports(node, target)

    def caches(self, target: Target) -> tuple[str, ...]:
        """See `arkinfer.backend.contract.CacheKeeper`: half of what attention has to read."""
        return "bf16", "f32"

    def check(self, target: Target) -> None:
        """See `arkinfer.backend.contract.TargetChecker`."""
        try:
            from arkinfer_tvm.build import check_c_compiler
        except ImportError as error:
            raise _missing(error) from error
        isas_of(target)
        check_c_compiler(target.arch)

    def tuned(self, target: Target) -> TvmCompiler:
        """See `arkinfer.backend.contract.Tuner`: which tiles products have. Of several libraries,
        that one is tuned which this processor would run."""
        if not _here(target):
            raise UsageError(
                f"Kernels for {target.name} cannot be tuned here",
                f"They are for {' or '.join(isas_of(target))}, which this processor does not have, "
                "and tuning is running them",
                "Build with --tune on such a machine, or leave --tune out",
            )
        return TvmCompiler(tunes=True)

    def compile(self, module: ir.Module, target: Target, out: SectionWriter) -> None:
        """Writes the library, the program and what the executor checks before it runs them."""
        try:  # imported here, because supports() does without the compiler wheel
            from arkinfer_tvm.kernels import Kernel
            from arkinfer_tvm.lower import KernelTable, Lowering
            from arkinfer_tvm.stored import Stored
            from arkinfer_tvm.tune import measured
            from arkinfer_tvm.works import library_works
        except ImportError as error:
            raise _missing(error) from error
        function = module.functions["step"]
        symbols = _check(module, function, target)
        chunk = _integer(module, "chunk")
        table = KernelTable()
        stored = Stored(out, target.arch, function)
        out.file(SECTION_IR, ir.print_module(module).encode())
        lowerings = [
            Lowering(
                function,
                {symbols["tokens"]: most, symbols["rows"]: most},
                stored,
                table,
                tree=1 < most <= MOST and not ir.obstacle(function),
            )
            for most in (*(size for size in SIZES if size < chunk), chunk)
        ]
        programs = [lowering.program() for lowering in lowerings]
        variants: list[dict[str, Any]] = []
        names: dict[str, dict[Kernel, str]] = dict.fromkeys(isas_of(target), table.names)
        if self._tunes:
            names[_here(target)] = measured(table.names, _here(target), out.made)
        for isa, made in zip(names, out.made(library_works(names)), strict=True):
            library = out.file(LIBRARY.format(isa), made)
            flags = list(ISAS[target.arch][isa])
            variants.append({"isa": isa, "library": library, "flags": flags})
        config: dict[str, Any] = {
            "interface": INTERFACE,
            "programs": out.file(PROGRAMS, programs_to_json(programs)),
            "values": out.file(VALUES, seen_to_json([each.seen() for each in lowerings])),
            "platform": f"linux-{target.arch}",
            "variants": variants,
            "symbols": symbols,
            "vocab_size": _integer(module, "vocab_size"),
            "context": _integer(module, "context"),
            "chunk": chunk,
        }
        taps = taps_of(function, [each.seen() for each in lowerings], out.weight)
        if taps:
            config["taps"] = out.file(TAPS, taps)
        out.configure(config, {}, [variant["isa"] for variant in variants])


def taps_of(
    function: ir.Function,
    seen: Sequence[Sequence[Seen]],
    parts: Callable[[ir.Weight], Mapping[str, str]],
) -> bytes:
    """Where steps have their hidden states, for the executor; b"": not all of them are in memory.

    Args:
        function: the step.
        seen: of each program, where values can be seen.
        parts: stores a weight.
    """
    stream = ir.find_stream(function)
    if stream is None:
        return b""
    names = ir.value_names(function)
    taps = {names[value]: tap for tap, value in zip(stream.taps, stream.layers, strict=False)}
    layers = tuple(
        tuple(replace(each, value=taps[each.value]) for each in values if each.value in taps)
        for values in seen
    )
    if any(len(each) != len(stream.layers) for each in layers):
        return b""
    (gain,), eps = stream.norm.weights, stream.norm.attributes["eps"]
    assert isinstance(eps, float)
    return taps_to_json(layers, parts(gain)[""], eps)


def _missing(error: ImportError) -> DeviceError:
    if not isinstance(error, ModuleNotFoundError):
        return DeviceError(
            'The compiler of the backend "tvm" cannot run here',
            f"TVM is installed and cannot be loaded: {error}",
            'Install it again: pip install --force-reinstall "arkinfer[build]"',
        )
    return DeviceError(
        'The compiler of the backend "tvm" cannot run here',
        f'The Python package "{(error.name or "tvm").partition(".")[0]}" is missing',
        'Install it: pip install "arkinfer[build]"',
    )


def isas_of(target: Target) -> list[str]:
    """The instruction sets that a target's libraries are for, the poorest first.

    Raises:
        DeviceError: the target is this machine, and its processor has none of them.
    """
    flags, known = cpu_flags(), ISAS[target.arch]
    found = isas_for(target.isa, target.arch, flags)
    if not found and "host" in target.isa:
        least = next(iter(known))
        missing = [flag for flag in known[least] if flag not in flags]
        raise DeviceError(
            f"The backend tvm has no kernels for this processor, only from {least} on",
            f"This processor lacks: {', '.join(missing)}",
        )
    return found or list(known)[:1]


def _here(target: Target) -> str:
    """The best of a target's instruction sets that this processor has; "": it has none of them."""
    flags, known = cpu_flags(), ISAS[target.arch]
    return next((isa for isa in reversed(isas_of(target)) if flags.issuperset(known[isa])), "")


def _check(module: ir.Module, function: ir.Function, target: Target) -> dict[str, str]:
    """The symbols that count tokens, rows and cached tokens, by those names.

    Raises:
        UnsupportedError: a node has no kernel, or the step has another interface.
    """
    for node in function.nodes:
        support = supports(node, target)
        if support.level == "no":
            raise UnsupportedError(
                f"The backend tvm cannot run {node.op} at {node.loc or 'an unnamed place'}",
                support.reason[0].upper() + support.reason[1:],
                "Build with another backend: --backend onnxruntime",
            )
    plain = [value for value in function.inputs if not isinstance(value.type, ir.CacheType)]
    caches = [value for value in function.inputs if isinstance(value.type, ir.CacheType)]
    names = [value.name for value in plain]
    outputs = ["logits", *(value.name for value in caches)]
    if sorted(names) != ["rows", "tokens"] or function.output_names != outputs or not caches:
        raise UnsupportedError(
            "The backend tvm cannot run this step",
            f"It takes {', '.join(names)} and gives {', '.join(function.output_names)}; the step "
            "of a model takes tokens, rows and caches, and gives logits and the same caches",
        )
    counted = {**{value.name: value for value in plain}, "cached": caches[0]}
    return {name: str(value.type.shape[0]) for name, value in counted.items()}


def _integer(module: ir.Module, name: str) -> int:
    value = module.attributes[name]
    assert isinstance(value, int)
    return value
