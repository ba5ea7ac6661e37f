"""Runs passes one after the other: verifies after each, times, dumps. Knows no particular pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from arkinfer.errors import ArkError, InternalError
from arkinfer.ir import Module, print_module, verify_module
from arkinfer.passes.base import Pass, spec_of


@dataclass(frozen=True)
class PassRun:
    """How one pass went.

    Attributes:
        spec: the pass with its options, as `arkinfer-opt` takes it.
        changed: whether the module is another one now.
        seconds: what the pass took, without verification and dumps.
        remarks: how many things it left alone, each with a reason in `Module.remarks`.
    """

    spec: str
    changed: bool
    seconds: float
    remarks: int


def run_pipeline(
    module: Module,
    passes: Iterable[Pass],
    *,
    dump_dir: Path | None = None,
    on_pass: Callable[[PassRun], None] | None = None,
) -> list[PassRun]:
    """Runs the passes on a module, in place.

    Args:
        module: verified before the first pass.
        passes: in this order.
        dump_dir: a folder, made if need be, for `00-input.ir` and `NN-<pass>.ir` after each pass.
        on_pass: told after each pass.

    Returns:
        How each pass went.

    Raises:
        InternalError: a pass broke down or left a module that is not well-formed; names the
            passes that had run. The broken module is dumped, too.
        ArkError: of any other kind, as a pass raised it: what was asked for cannot be done.
    """
    verify_module(module)
    runs: list[PassRun] = []
    _dump(module, dump_dir, 0, "input")
    for number, each in enumerate(passes, 1):
        spec, known = spec_of(each), len(module.remarks)
        start = time.perf_counter()
        try:
            changed = each.run(module)
            seconds = time.perf_counter() - start
            _dump(module, dump_dir, number, each.name, known)
            verify_module(module)
        except Exception as error:
            if isinstance(error, ArkError) and not isinstance(error, InternalError):
                raise
            raise _failed(spec, runs, error) from error
        runs.append(PassRun(spec, changed, seconds, len(module.remarks) - known))
        if on_pass is not None:
            on_pass(runs[-1])
    return runs


def _failed(spec: str, runs: list[PassRun], error: Exception) -> InternalError:
    before = ", ".join(run.spec for run in runs) or "none"
    why = str(error) if isinstance(error, ArkError) else f"{type(error).__name__}: {error}"
    return InternalError(f"the pass {spec} failed (passes before it: {before})", why)


def _dump(module: Module, folder: Path | None, number: int, name: str, known: int = 0) -> None:
    """Remarks of the pass follow as comments, which the parser skips."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    remarks = "".join(f"// remark: {remark}\n" for remark in module.remarks[known:])
    text = print_module(module) + remarks
    (folder / f"{number:02d}-{name}.ir").write_text(text, encoding="utf-8")
