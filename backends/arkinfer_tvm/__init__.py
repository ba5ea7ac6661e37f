"""The TVM backend: simple kernels compiled at build time, run without any TVM library.

`compiler` is the host half (needs the compiler wheel), `executor` the device half (needs libc).
"""
