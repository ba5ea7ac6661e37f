"""Where every tensor of a checkpoint's folder lies, over all shards and file formats.

`safetensors_files.py` and `torch_bin.py` each give where the tensors of one file lie. Knows no
model: which tensors there should be is `checkpoint.py`'s business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from arkinfer.errors import CheckpointError
from arkinfer.frontend import safetensors_files, torch_bin
from arkinfer.frontend.json_files import read_json
from arkinfer.frontend.slots import Slot

FORMATS: dict[str, Callable[[Path], dict[str, Slot]]] = {
    "model.safetensors": safetensors_files.read_table,
    "model_gptq.safetensors": safetensors_files.read_table,  # CPM.cu's, in Marlin's layout
    "pytorch_model.bin": torch_bin.read_table,
}
"""The name of an unsharded weight file -> its reader; the first that stands in the folder wins."""


def read_table(folder: Path) -> dict[str, Slot]:
    """Name -> where the tensor lies.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or a file is damaged.
        UnsupportedError: a pytorch_model.bin that is more than a plain state dict.
    """
    for name, read_table in FORMATS.items():
        if (folder / name).is_file():
            return read_table(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _sharded(folder, index, read_table)
    raise CheckpointError(
        f"{folder} holds no weights",
        f"It has neither {' nor '.join(FORMATS)}, nor an index of shards",
        "Download the checkpoint again, with its weight files.",
    )


def has_weights(folder: Path) -> bool:
    """Whether a folder has any weight file, or an index of shards."""
    names = [name for known in FORMATS for name in (known, f"{known}.index.json")]
    return any((folder / name).is_file() for name in names)


def _sharded(
    folder: Path, index: Path, read_table: Callable[[Path], dict[str, Slot]]
) -> dict[str, Slot]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index.name} is damaged", "it has no weight_map", f"Download {index.name} again."
        )
    homes = cast("dict[str, Any]", weight_map)
    table: dict[str, Slot] = {}
    for shard in sorted({str(home) for home in homes.values()}):
        if Path(shard).name != shard or not os.path.isfile(folder / shard):
            raise CheckpointError(
                f"The shard {shard} is missing from {folder}",
                f"{index.name} says that weights are in it",
                f"Download {shard} again.",
            )
        for name, slot in read_table(folder / shard).items():
            if name in table:
                raise CheckpointError(
                    f"{name} is in two shards",
                    f"In {table[name].file.name} and in {shard}",
                    "Download the checkpoint again.",
                )
            table[name] = slot
    for name, home in homes.items():
        if name not in table:
            raise CheckpointError(
                f"{name} is missing from {home}",
                f"{index.name} says that it is there",
                f"Download {home} again.",
            )
    return table
