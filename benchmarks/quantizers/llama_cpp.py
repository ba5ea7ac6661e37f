"""llama.cpp's own quantization: a script for a Python that has `llama_cpp`. Knows no judge.

    python llama_cpp.py MODEL.gguf OUT.gguf TYPE

TYPE is the number of a file type: 2 is Q4_0, 15 is Q4_K_M.
"""

from __future__ import annotations

import sys
from ctypes import byref
from pathlib import Path

sys.path = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent]
# This file would hide the package of the same name.


def main(model: str, out: str, kind: str) -> None:
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = int(kind), 2
    if llama_cpp.llama_model_quantize(model.encode(), out.encode(), byref(options)):
        raise SystemExit(f"llama.cpp could not quantize to {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
