"""When a build looks whether a checkpoint is ternary, and what it makes of the answer.

Knows neither how such matrices are found nor how they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from arkinfer.compiler.options import BuildOptions
from arkinfer.errors import ArkError, UnsupportedError
from arkinfer.frontend.quantized.ternary import Dense, is_linear
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.quant import parse_quant
from arkinfer.quant.spec import TERNARY

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.quantized.ternary import TernaryMatrix

FOUND = (
    "The checkpoint is ternary: its linears keep their numbers, in two bits each, as with "
    "--quant ternary"
)


def take_ternary(
    options: BuildOptions,
    checkpoint: Checkpoint,
    on_part: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> BuildOptions:
    """Has a ternary checkpoint give its linears in two bits, where that is wanted.

    It is looked for when `--quant ternary` says so, which a checkpoint that is not ternary does
    not survive; when nothing is said of quantization, where a ternary one is then built as with
    `ternary`; and for `none`, which keeps what is there, unless a dtype is asked for: that is how
    to get a ternary model as a dense one.

    Args:
        options: as the user gave them.
        checkpoint: opened; afterwards it may have its linears quantized.
        on_part: told how many of how many linears were looked at.
        on_note: told what was decided without being asked.

    Raises:
        UnsupportedError: `ternary` was asked of a checkpoint that is not.
        CheckpointError: a weight holds numbers that are not finite, or a file is cut off.
    """
    if checkpoint.schemes():
        return _quantized(options, checkpoint.schemes())
    if not (_demanded(options) or _open(options)):
        return options
    found = checkpoint.find_ternary(on_part)
    if isinstance(found, Dense):
        if _demanded(options):
            raise _refusal(f"In {found.name}, {found.reason}")
        return options
    checkpoint.adopt(found)
    if options.quant_given is None:
        on_note(FOUND)
    return _as_ternary(options)


def plan_ternary(
    options: BuildOptions, folder: Path, config: ModelConfig, schemes: Mapping[str, Scheme]
) -> tuple[BuildOptions, Mapping[str, Scheme]]:
    """The same for a plan, which reads a row of each linear where there are weights.

    Args:
        options: as the user gave them.
        folder: the checkpoint's; weights need not be there.
        config: the model.
        schemes: of the matrices that it has quantized.

    Returns:
        The options, and the schemes to reckon with; without weights, `ternary` has a scale for
        each row.

    Raises:
        UnsupportedError: `ternary` was asked of a checkpoint that is not.
    """
    from arkinfer.frontend.checkpoint import open_checkpoint

    if schemes or not (_demanded(options) or _open(options)):
        return _quantized(options, schemes), schemes
    found: Mapping[str, TernaryMatrix] | Dense | None = None
    with suppress(ArkError), open_checkpoint(folder) as checkpoint:
        found = checkpoint.find_ternary(glance=True)
    if _demanded(options) and isinstance(found, Dense):
        raise _refusal(f"In {found.name}, {found.reason}")
    if _demanded(options) and found is None:
        return options, {name: Scheme(2, 0) for name in config.tensor_shapes() if is_linear(name)}
    if found is None or isinstance(found, Dense):
        return options, schemes
    return _as_ternary(options), {name: matrix.scheme for name, matrix in found.items()}


def _demanded(options: BuildOptions) -> bool:
    return options.quant.name == TERNARY


def _open(options: BuildOptions) -> bool:
    """Whether a ternary checkpoint is taken as one without being called that."""
    if options.quant_given is None:
        return True
    return options.quant.name == "none" and options.dtype is None


def _quantized(options: BuildOptions, schemes: Mapping[str, Scheme]) -> BuildOptions:
    """The options for a checkpoint whose matrices are quantized otherwise."""
    if schemes and _demanded(options):
        names = ", ".join(sorted({scheme.name for scheme in schemes.values()}))
        raise _refusal(f"Its matrices are quantized already, to {names}")
    return options


def _as_ternary(options: BuildOptions) -> BuildOptions:
    """What nobody asked for otherwise follows `ternary`."""
    if options.quant_given is not None:
        return options
    return replace(options, quant=parse_quant(TERNARY, options.embedding_given))


def _refusal(reason: str) -> UnsupportedError:
    return UnsupportedError(
        "The checkpoint is not ternary",
        reason,
        "Quantize it otherwise, such as with --quant int4; --quant ternary only takes over what "
        "was trained as ternary (recipes/bitcpm does that)",
    )
