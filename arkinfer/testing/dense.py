"""The hand-built legal module, for tests of backends; see `arkinfer.frontend.dense`."""

from arkinfer.frontend.dense import dense_module

__all__ = ["dense_module"]
