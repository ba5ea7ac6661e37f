"""The kernels, as builders of TVM functions: one dataclass each, its fields what it is made for.

Know no IR and no artifact.
"""

from arkinfer_tvm.kernels.attention import Attention, Combine, tiles
from arkinfer_tvm.kernels.attention_tile import CHANNEL, TOKEN
from arkinfer_tvm.kernels.cache import Append
from arkinfer_tvm.kernels.common import Kernel, Strided
from arkinfer_tvm.kernels.embedding import Embedding, StreamEmbedding
from arkinfer_tvm.kernels.finish import AddTo, Finish, Gate
from arkinfer_tvm.kernels.linear import QuantLinear
from arkinfer_tvm.kernels.linear_float import FloatLinear
from arkinfer_tvm.kernels.quantize import Arrange, Inputs, Norm, Quantize
from arkinfer_tvm.kernels.rope import Angles, Rope
from arkinfer_tvm.kernels.rowwise import Add, Range, RMSNorm, SiluMul, Take

__all__ = [
    "CHANNEL",
    "TOKEN",
    "Add",
    "AddTo",
    "Angles",
    "Append",
    "Arrange",
    "Attention",
    "Combine",
    "Embedding",
    "Finish",
    "FloatLinear",
    "Gate",
    "Inputs",
    "Kernel",
    "Norm",
    "QuantLinear",
    "Quantize",
    "RMSNorm",
    "Range",
    "Rope",
    "SiluMul",
    "StreamEmbedding",
    "Strided",
    "Take",
    "tiles",
]
