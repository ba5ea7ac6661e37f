"""Which scales an int8 key-value cache gets: those that the backends claim. Knows none by name.

A backend is asked as ever, by `supports`, about one attention of the model in either form.
"""

from __future__ import annotations

from dataclasses import replace

from arkinfer import ir
from arkinfer.compiler.options import BuildOptions
from arkinfer.models.config import ModelConfig
from arkinfer.passes.quantize_cache import CHANNEL, TOKEN, QuantizeCache

_RANKS = ("no", "slow", "fast")


def with_kv_scales(options: BuildOptions, config: ModelConfig) -> BuildOptions:
    """The same, with the kind of scales that an int8 cache gets, unless that is known.

    Scales per token need no calibration and are taken wherever every backend runs them as well as
    the others, which are for backends that know no more.
    """
    if options.kv != "int8" or options.kv_scales is not None:
        return options
    token, channel = (_rank(options, config, form) for form in (TOKEN, CHANNEL))
    return replace(options, kv_scales=TOKEN if token >= max(channel, 1) else CHANNEL)


def _rank(options: BuildOptions, config: ModelConfig, form: str) -> int:
    """How well the worst backend runs the worst node."""
    from arkinfer.frontend.dense import dense_module

    module = dense_module(replace(config, num_hidden_layers=1), context=1, chunk=1)
    QuantizeCache(form).run(module)
    nodes = [node for node in module.nodes() if _has_cache(node)]
    answers = [c.supports(node, options.target) for c in options.compilers for node in nodes]
    return min(_RANKS.index(answer.level) for answer in answers)


def _has_cache(node: ir.Node) -> bool:
    return any(isinstance(operand.type, ir.CacheType) for operand in node.operands)
