"""What a file holds against what a build would put there: graphs, weights, and each section's own.

Knows no backend by name: a backend's compiler is run again, with a writer that compares instead
of writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.align.compare import compare
from arkinfer.align.follow import Unknown
from arkinfer.align.report import Finding
from arkinfer.align.snapshot import Snapshot
from arkinfer.align.steps import EXACT
from arkinfer.align.weights import CheckedWeights, bad_group, digest, further_away
from arkinfer.artifact import Artifact, Section
from arkinfer.backend import RowStore, Work
from arkinfer.compiler.prepare import Lowered, Prepared
from arkinfer.compiler.section import part_names
from arkinfer.errors import ArkError, ArtifactError
from arkinfer.ir import QuantizedType, Weight
from arkinfer.packing import QuantizedTensor

Array = npt.NDArray[Any]


def module_of(artifact: Artifact, section: Section) -> ir.Module:
    """The graph that a section was compiled from.

    Raises:
        ArtifactError: the file has none, or the entry is no module.
    """
    if section.ir not in artifact:
        raise ArtifactError(
            f'"{artifact.path}" does not hold the graph that "{section.backend}" runs',
            "An older arkinfer built it",
            "Build it again",
        )
    return parsed(artifact, section.ir)


def parsed(artifact: Artifact, entry: str) -> ir.Module:
    """A module out of the file.

    Raises:
        ArtifactError: the entry is no module.
    """
    try:
        module = ir.parse_module(artifact.read(entry).decode())
        ir.verify_module(module)
        return module
    except (ArkError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f'The entry "{entry}" of "{artifact.path}" is no IR', str(error), "Build it again"
        ) from error


def graphs(artifact: Artifact, section: Section, prepared: Prepared) -> Iterator[Finding]:
    """The first line in which each graph of the file differs from the one that was made here."""
    entries = {"ir.txt": prepared.module, section.ir: prepared.lowered[0].module}
    for entry, module in entries.items():
        if parsed(artifact, entry) != module:
            yield _first_line(entry, artifact.read(entry).decode(), module)


def _first_line(entry: str, text: str, module: ir.Module) -> Finding:
    """Where two texts part; nodes come before weights, whose declarations follow from them."""
    ours = ir.print_module(module).splitlines()
    theirs = text.splitlines()
    functions = [i for i, line in enumerate(ours) if line.startswith("func ")][:1]
    start = functions[0] if functions else 0
    other = next((i for i, line in enumerate(theirs) if line.startswith("func ")), 0)
    pairs = [*zip_longest(ours[start:], theirs[other:]), *zip_longest(ours[:start], theirs[:other])]
    mine, his = next(((a, b) for a, b in pairs if a != b), ("", ""))
    mine, his = (mine or "nothing").strip(), (his or "nothing").strip()
    op = mine.partition(" = ")[2].partition("(")[0]
    names = [line for line in ours[start:] if line.strip() == mine]
    depth = ours.index(names[0]) / max(1, len(ours)) if names else 0.0
    loc = mine.rpartition("  // ")[2] if "  // " in mine else ""
    what = f"{entry} has: {his}"
    return Finding(mine, op, loc, depth, None, None, what=what)


@dataclass
class CheckingWriter:
    """A `SectionWriter` that compares with what a section holds, and writes nothing.

    Attributes:
        artifact, section: what is compared.
        weights: of the build; their digests stand for what was computed before.
        graph: of the legalized module, to name the node that reads a weight.
        first_only: is one difference enough?
        compared: how many tensors were compared.
        found: what differs and may not.
        notes: what is different and may be so: files, versions.
    """

    artifact: Artifact
    section: Section
    weights: CheckedWeights
    graph: Snapshot
    first_only: bool
    compared: int = 0
    found: list[Finding] = field(default_factory=list[Finding])
    notes: list[str] = field(default_factory=list[str])
    _seen: set[str] = field(default_factory=set[str])

    @property
    def store(self) -> RowStore:
        return self.weights.store

    def weight(self, weight: Weight) -> dict[str, str]:
        names = part_names(weight)
        if weight.name in self._seen or self._done:
            return names
        self._seen.add(weight.name)
        self.compared += 1
        missing = [name for name in names.values() if name not in self.artifact.manifest["tensors"]]
        if missing:
            self._differs(weight.name, f"the file has no tensor {missing[0]}")
        elif isinstance(weight.type, QuantizedType):
            self._quantized(weight, weight.type, names)
        else:
            stored = self.artifact.tensor(names[""])
            row = 0
            for block in self.weights.store.blocks(weight):
                part = stored[row : row + len(cast(Array, block))]
                if self._dense(weight.name, names[""], row, part, cast(Array, block)):
                    break
                row += len(cast(Array, block))
        return names

    @property
    def _done(self) -> bool:
        return bool(self.found) and self.first_only

    def _quantized(self, weight: Weight, kind: QuantizedType, names: dict[str, str]) -> None:
        stored = {part: self.artifact.tensor(name) for part, name in names.items()}
        whole = QuantizedTensor.from_parts(kind.scheme, kind.shape, stored)
        starts = self.weights.starts(weight)
        for start, stop in zip(starts, [*starts[1:], kind.shape[0]], strict=True):
            block = whole.rows(slice(start, stop))
            if digest(block) == self.weights.digests[weight.name, start]:
                continue
            computed = self.weights.store.rows(weight, start, stop)
            assert isinstance(computed, QuantizedTensor)
            original = self.weights.original(weight, start, stop)
            expected = computed.dequantize()
            wrong = further_away(block, computed, expected if original is None else original)
            bad = bad_group(weight.name, wrong, start, expected, block.dequantize())
            if bad is not None:
                parts = [name for name, mine in computed.parts().items()
                         if not np.array_equal(block.parts()[name], mine)]  # fmt: skip
                what = f"the file's {' and '.join(parts)} of {bad} are not what the build computes"
                self._differs(weight.name, what, bad.found, bad.expected)
                return

    def tensor(self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[Array]) -> str:
        full = f"{self.section.backend}/{name}"
        if self._done:
            return full
        self.compared += 1
        if full not in self.artifact.manifest["tensors"]:
            self._differs(name, f"the file has no tensor {full}")
            return full
        stored = self.artifact.tensor(full)
        row = 0
        for chunk in chunks:
            if self._dense(name, full, row, stored[row : row + len(chunk)], chunk):
                break
            row += len(chunk)
        return full

    def _dense(self, name: str, tensor: str, start: int, stored: Array, computed: Array) -> bool:
        """Compares some rows; True: they differ."""
        if stored.shape != computed.shape or stored.dtype != computed.dtype:
            what = f"{tensor} is {stored.dtype} {list(stored.shape)}, and the build makes "
            self._differs(name, f"{what}{computed.dtype} {list(computed.shape)}")
            return True
        size = stored.dtype.itemsize
        bits = (np.ascontiguousarray(x).view(f"u{size}") for x in (stored, computed))
        apart = np.argwhere(np.not_equal(*bits))
        if not len(apart):
            return False
        if stored.dtype.kind not in "biu":
            wide = [x.astype(np.float32) for x in (stored, computed)]
            close = np.isclose(*wide, rtol=1e-5, atol=0, equal_nan=True)
            apart = np.argwhere(~close)
        if not len(apart):
            return False
        row, *rest = (int(i) for i in apart[0])
        place = f"row {start + row}" + (f", column {rest[0]}" if rest else "")
        what = f"{tensor}, {place} is not what the build computes ({len(apart):,} elements differ)"
        self._differs(name, what, stored[row], computed[row])
        return True

    def file(self, name: str, data: bytes) -> str:
        full = f"backends/{self.section.backend}/{name}"
        if full not in self.artifact:
            self.notes.append(f"the file has no {full}, which this arkinfer writes")
        elif self.artifact.read(full) != data:
            self.notes.append(f"{full} is not, byte for byte, what this arkinfer writes")
        return full

    def made(self, works: Sequence[Work]) -> list[bytes]:
        return [work.make() for work in works]

    def configure(
        self,
        config: Mapping[str, Any],
        requires: Mapping[str, str],
        variants: Sequence[str] = (),
    ) -> None:
        if dict(config) != self.section.config:
            self.notes.append(f"the configuration of {self.section.backend} is another one")
        if dict(requires) != self.section.requires:
            self.notes.append(f"{self.section.backend} requires other versions")
        if tuple(variants) != self.section.variants:
            self.notes.append(f"{self.section.backend} has kernels for other instruction sets")

    def _differs(
        self, name: str, what: str, found: Array | None = None, expected: Array | None = None
    ) -> None:
        """Blames the first node that reads the weight, or whose weight's name the tensor has."""
        line = next(
            (n for n in self.graph.lines if any(_belongs(name, w.name) for w in n.weights)), None
        )
        difference = None
        if found is not None and expected is not None:
            difference = compare(found, expected)
        index = self.graph.lines.index(line) if line is not None else 0
        self.found.append(
            Finding(
                line.text if line else "",
                line.op if line else "",
                line.loc if line else "",
                index / max(1, len(self.graph.lines) - 1),
                difference,
                None if difference is None else EXACT,
                what=what,
            )
        )


def _belongs(tensor: str, weight: str) -> bool:
    return tensor == weight or tensor.startswith(weight + ".")


def weights(
    artifact: Artifact,
    section: Section,
    lowered: Lowered,
    prepared: Prepared,
    checked: CheckedWeights,
    *,
    first_only: bool,
) -> tuple[int, list[Finding], list[str]]:
    """Compiles the section again and compares: tensors compared, what differs, and notes."""
    graph = Snapshot.of("legalized", lowered.module)
    writer = CheckingWriter(artifact, section, checked, graph, first_only)
    notes: list[str] = []
    try:
        lowered.compiler.compile(lowered.module, prepared.options.target, writer)
    except ArkError as error:
        notes.append(f"the section could not be compiled again: {error}")
    order: dict[str, int] = {line.text: i for i, line in enumerate(graph.lines)}
    found = sorted(writer.found, key=lambda finding: order.get(finding.line, 0))
    return writer.compared, found, [*writer.notes, *notes]


class StoredWeights:
    """The canonical weights of a file by symbol, mapped; what it has not comes from the build.

    Args:
        artifact: the file.
        build: None: there is none, and such a weight is unknown.
    """

    def __init__(self, artifact: Artifact, build: ir.WeightStore | None) -> None:
        self._artifact, self._build = artifact, build

    def load(self, weight: Weight) -> Array | QuantizedTensor:
        names = part_names(weight)
        if any(name not in self._artifact.manifest["tensors"] for name in names.values()):
            if self._build is None:
                raise Unknown(weight.name)
            return self._build.load(weight)
        parts = {part: self._artifact.tensor(name) for part, name in names.items()}
        if isinstance(weight.type, QuantizedType):
            return QuantizedTensor.from_parts(weight.type.scheme, weight.type.shape, parts)
        return parts[""].reshape(cast("tuple[int, ...]", weight.type.shape))
