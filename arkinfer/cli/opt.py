"""`arkinfer-opt`: runs passes on IR text, for tests and for the curious. Knows no model.

Prints IR text again, so that commands can be chained; remarks follow as comments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arkinfer.errors import InternalError, ResourceError, UsageError

if TYPE_CHECKING:
    from arkinfer.ir import Module

EXAMPLE = """\
examples:
  arkinfer-opt step.ir --passes fuse-rms-norm,eliminate-dead-code --remarks
  arkinfer-opt step.ir --passes "quantize{linear=int4-g128, embedding=int8-g32}" -o quantized.ir
  arkinfer build demo --dump-ir dumps && arkinfer-opt dumps/00-input.ir --passes fuse-rope
"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; the console script's entry point.

    Returns:
        The exit code: 0 ok, 1 failed, 2 usage.
    """
    options = _parser().parse_args(args)
    try:
        _run(options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output is gone, and Python would complain about it
        return 1
    except Exception as error:
        from arkinfer.cli.failure import report

        return report(error, json=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arkinfer-opt",
        description="Run passes on the IR's text form and print the result.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", default="-", help="IR text; - is standard input")
    parser.add_argument(
        "--passes", default="", metavar="LIST", help="in order: name or name{option=value}, …"
    )
    parser.add_argument("--remarks", action="store_true", help="add what was left alone, and why")
    parser.add_argument("--verify-only", action="store_true", help="check, and print nothing")
    parser.add_argument("--list", action="store_true", help="list the passes with their options")
    parser.add_argument("--dump-ir", metavar="DIR", help="write the IR after each pass to a folder")
    parser.add_argument("-o", "--output", metavar="FILE", help="write here, not to standard output")
    return parser


def _run(options: argparse.Namespace) -> None:
    from arkinfer.ir import print_module
    from arkinfer.passes import parse_passes, run_pipeline

    if options.list:
        print("\n".join(_listing()))
        return
    if options.verify_only and options.passes:
        raise UsageError("--verify-only runs no passes", "", "Leave one of the two out")
    passes = parse_passes(options.passes)
    module = _read(options.file)
    if options.verify_only:
        return
    run_pipeline(module, passes, dump_dir=Path(options.dump_ir) if options.dump_ir else None)
    text = print_module(module)
    if options.remarks:
        text += "".join(f"// remark: {remark}\n" for remark in module.remarks)
    if options.output is None:
        sys.stdout.write(text)
        return
    try:
        Path(options.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f'"{options.output}" cannot be written', error.strerror or ""
        ) from error


def _read(file: str) -> Module:
    """The module in a file, verified. What is wrong with it is the user's to mend."""
    from arkinfer.ir import parse_module, verify_module

    where = "Standard input" if file == "-" else f'"{file}"'
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{where} cannot be read", error.strerror or "") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not text", "It is no UTF-8") from error
    try:
        module = parse_module(text)
        verify_module(module)
    except InternalError as error:
        raise UsageError(f"{where} is not a module of the IR", str(error)) from error
    return module


def _listing() -> list[str]:
    """Every pass as it is written, with the defaults of its options."""
    import dataclasses

    from arkinfer.passes import NAMES, pass_class

    lines: list[str] = []
    for name in NAMES:
        fields = dataclasses.fields(pass_class(name))
        options = ", ".join(f"{field.name}: {field.type}" for field in fields)
        lines.append(f"{name}{{{options}}}" if options else name)
    return lines


if __name__ == "__main__":
    sys.exit(main())
