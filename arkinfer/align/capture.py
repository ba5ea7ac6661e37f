"""What torch computes, module by module, with one module's weights in memory at a time.

Knows our torch modules and the locations of the traced IR, and no pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from arkinfer.align.snapshot import Snapshot
from arkinfer.ir import Value
from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import CausalLM

Array = npt.NDArray[Any]

Read = Callable[[str], Array]
"""A whole tensor by its Hugging Face name, in any float dtype."""


@dataclass(frozen=True)
class Called:
    """One call of a torch module: its path, its first argument and its result, float32."""

    path: str
    given: Array | None
    result: Array


@dataclass(frozen=True)
class TorchRun:
    """One step of the torch module from an empty cache.

    Attributes:
        calls: in order of their ends; modules whose result is one tensor.
        outputs: "logits", "k0", "v0" … as the traced function names them.
    """

    calls: tuple[Called, ...]
    outputs: dict[str, Array]

    def values(self, traced: Snapshot) -> dict[Value, Array]:
        """What torch has for values of the traced function.

        The result of a module is that of the last node of its path or below; what a linear is
        given is the operand of its node.
        """
        shown = {traced.outputs[name]: array for name, array in self.outputs.items()}
        for call in self.calls:
            inner = call.path + "."
            lines = [n for n in traced.lines if n.loc == call.path or n.loc.startswith(inner)]
            if not lines:
                continue
            last = lines[-1]
            shown.setdefault(last.results[0], call.result)
            own = [line for line in lines if line.op == "nn.linear" and line.loc == call.path]
            if call.given is not None and len(own) == 1 and own[0].values:
                shown.setdefault(own[0].values[0], call.given)
        return shown


def run_torch(config: ModelConfig, read: Read, context: int, tokens: Array) -> TorchRun:
    """Runs the module in float32 on tokens int64 [T], all rows wanted.

    Weights come before the call of the module that has them, and go after it.
    """
    with torch.device("meta"):
        model = CausalLM(config, context).eval().requires_grad_(False)
    # The table of angles is no parameter, so that it is made again where there is memory.
    model.model.rotary = type(model.model.rotary)(config, context)
    calls = _Calls()
    for path, module in model.named_modules():
        if path:
            names = {own: f"{path}.{own}" for own, _ in module.named_parameters(recurse=False)}
            if path == "lm_head" and config.tie_word_embeddings:
                names = {"weight": "model.embed_tokens.weight"}
            _stream_weights(module, names, read)
            calls.watch(path, module)
    empty = torch.zeros((0, config.num_key_value_heads, config.head_dim))
    past = [(empty, empty) for _ in range(config.num_hidden_layers)]
    with torch.no_grad():
        logits, present = model(torch.from_numpy(tokens), torch.arange(len(tokens)), past)
    outputs = {"logits": _array(logits)}
    for layer, (keys, values) in enumerate(present):
        outputs |= {f"k{layer}": _array(keys), f"v{layer}": _array(values)}
    return TorchRun(tuple(calls.found), outputs)


def _array(tensor: torch.Tensor) -> Array:
    return cast(Array, tensor.detach().to(torch.float32).numpy().copy())


def _stream_weights(module: nn.Module, names: dict[str, str], read: Read) -> None:
    def bring(module: nn.Module, args: Any) -> None:
        for own, name in names.items():
            tensor = torch.from_numpy(read(name).astype(np.float32))
            setattr(module, own, nn.Parameter(tensor, requires_grad=False))

    def drop(module: nn.Module, args: Any, result: Any) -> None:
        for own in names:
            gone = torch.empty(0, device="meta")
            setattr(module, own, nn.Parameter(gone, requires_grad=False))

    if names:
        module.register_forward_pre_hook(bring)
        module.register_forward_hook(drop)


class _Calls:
    """Records calls, but for modules whose children are called from outside as well."""

    def __init__(self) -> None:
        self._ended: list[Called] = []
        self._open: list[str] = []
        self._shared: set[str] = set()

    @property
    def found(self) -> list[Called]:
        return [call for call in self._ended if call.path not in self._shared]

    def watch(self, path: str, module: nn.Module) -> None:
        def enter(module: nn.Module, args: Any) -> None:
            parent = path.rpartition(".")[0]
            while parent:
                if parent not in self._open:
                    self._shared.add(parent)
                parent = parent.rpartition(".")[0]
            self._open.append(path)

        def leave(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            self._open.pop()
            if not isinstance(result, torch.Tensor):
                return
            first = next((a for a in args if isinstance(a, torch.Tensor)), None)
            given = None if first is None or not first.is_floating_point() else _array(first)
            self._ended.append(Called(path, given, _array(result)))

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
