"""The kernels, as builders of TVM functions: one dataclass each, its fields what it is made for.

Know no IR and no artifact.
"""

from arkinfer_tvm.kernels.attention import CHANNEL, TOKEN, Append, AppendScaled, Attention
from arkinfer_tvm.kernels.common import Kernel, Strided
from arkinfer_tvm.kernels.embedding import Embedding, QuantEmbedding
from arkinfer_tvm.kernels.linear import Arrange, Linear, QuantLinear
from arkinfer_tvm.kernels.rowwise import Add, Range, RMSNorm, Rope, SiluMul, Take

__all__ = [
    "CHANNEL",
    "TOKEN",
    "Add",
    "Append",
    "AppendScaled",
    "Arrange",
    "Attention",
    "Embedding",
    "Kernel",
    "Linear",
    "QuantEmbedding",
    "QuantLinear",
    "RMSNorm",
    "Range",
    "Rope",
    "SiluMul",
    "Strided",
    "Take",
]
