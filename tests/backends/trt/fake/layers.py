"""Layers of a network that was parsed, as far as the executor looks at them."""

from __future__ import annotations

from enum import Enum

import onnx


class LayerType(Enum):
    CAST = 1
    ATTENTION_INPUT = 52
    ATTENTION_OUTPUT = 53


class IAttention:
    """What the two layers at its borders enclose."""

    decomposable = False


class ILayer:
    """TensorRT gives every layer in this class, whatever it is."""

    def __init__(self, type: LayerType, attention: IAttention | None = None) -> None:
        self.type, self._attention = type, attention


class IAttentionOutputLayer(ILayer):
    @property
    def attention(self) -> IAttention:
        assert self._attention is not None, "this layer is no border of an attention"
        return self._attention


def layers_of(model: onnx.ModelProto) -> list[ILayer]:
    found: list[ILayer] = []
    for node in model.graph.node:
        if node.op_type == "Attention":
            inside = IAttention()
            found += [
                ILayer(kind, inside)
                for kind in (LayerType.ATTENTION_INPUT, LayerType.ATTENTION_OUTPUT)
            ]
        else:
            found.append(ILayer(LayerType.CAST))
    return found


def is_refused(layer: ILayer) -> bool:
    """An attention for which there is no kernel, and that may not be made of others."""
    ends = layer.type == LayerType.ATTENTION_OUTPUT
    return ends and layer._attention is not None and not layer._attention.decomposable
