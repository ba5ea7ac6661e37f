"""The TensorRT backend: networks in standard ONNX, which a board's TensorRT finishes and runs.

On the host, `compiler.py` writes a section; `section.py` says what is in it. On the board,
`executor.py` opens one: `prepare.py` finishes it, for which `choose.py` times products and
`build.py` builds an engine, which `store.py` keeps; `executable.py` runs it, with a `state.py` for
each sequence and a `steps.py` for each kind of step. `kernels/` are our own.
"""
