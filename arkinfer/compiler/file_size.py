"""How large a file will be: backends' own compilers run against a writer that only measures.

Knows no checkpoint and reads no weight.
"""

from __future__ import annotations

import json

from arkinfer.artifact.manifest import WEIGHTS
from arkinfer.compiler.options import BuildOptions
from arkinfer.compiler.prepare import Lowered, Prepared
from arkinfer.compiler.section import ALIGNMENT, MeasuringWriter
from arkinfer.compiler.weights import Leaves, WeightStore

MANIFEST = "manifest.json"


def weight_bytes(prepared: Prepared) -> int:
    """Of all tensors of the file: what several sections read as it is counts once, and what one has
    in an order of its own counts for itself."""
    entries: dict[str, int] = {}
    for lowered in prepared.lowered:
        add_section(entries, lowered, prepared.leaves, prepared.options)
    return sum(size for name, size in entries.items() if name.startswith(WEIGHTS))


def add_section(
    entries: dict[str, int], lowered: Lowered, leaves: Leaves, options: BuildOptions
) -> list[str]:
    """Adds what a backend's compiler would write.

    Args:
        entries: bytes by name; the manifest's are those of all sections.
        lowered: the section.
        leaves: tables are computed from them, such as rotary ones; no weight is asked for.
        options: of the build.

    Returns:
        The names of the entries that the section loads.

    Raises:
        DeviceError: a package is missing that sections are counted with.
    """
    store = WeightStore(lowered.module.weights, leaves)
    writer = MeasuringWriter(lowered.compiler.name, store)
    with options.naming_another(lowered.compiler):
        lowered.compiler.compile(lowered.module, options.target, writer)
    own = {name: size for name, size in writer.entries.items() if name != MANIFEST}
    entries[MANIFEST] = entries.get(MANIFEST, 0) + len(json.dumps(writer.config))
    entries |= own
    return list(own)


def file_size(entries: dict[str, int]) -> int:
    """Of an .ark file with these entries; docs/format.md."""
    end = 0
    listed = sum(len(name) + 190 for name in entries)  # in manifest.json: sizes, digests, tensors
    sizes = {**entries, MANIFEST: entries.get(MANIFEST, 0) + listed + 1500}
    for name, size in sizes.items():
        end = -(-(end + 56 + len(name)) // ALIGNMENT) * ALIGNMENT + size
    return end + sum(74 + len(name) for name in sizes) + 98
