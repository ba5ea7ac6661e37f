"""The kernels, as builders of TVM functions: one dataclass each, its fields what it is made for.

Know no IR and no artifact.
"""

from arkinfer_tvm.kernels.attention import Attention, Combine, tiles
from arkinfer_tvm.kernels.attention_tile import CHANNEL, TOKEN
from arkinfer_tvm.kernels.cache import Append
from arkinfer_tvm.kernels.common import Kernel, Strided
from arkinfer_tvm.kernels.embedding import Embedding, QuantEmbedding
from arkinfer_tvm.kernels.linear import Arrange, Linear, QuantLinear
from arkinfer_tvm.kernels.rope import Angles, Rope
from arkinfer_tvm.kernels.rowwise import Add, Range, RMSNorm, SiluMul, Take

__all__ = [
    "CHANNEL",
    "TOKEN",
    "Add",
    "Angles",
    "Append",
    "Arrange",
    "Attention",
    "Combine",
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
    "tiles",
]
