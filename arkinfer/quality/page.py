"""The page of `arkinfer quality --html`: pictures of error and size by layer. Knows no file."""

from __future__ import annotations

from typing import Any, cast

from arkinfer.quality.report import COLUMNS, OUTSIDE, Quality, layer_rows, parse_quality
from arkinfer.report import (
    Bar,
    Block,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Series,
    Table,
    bar_chart,
    line_chart,
    page,
)

_READING = """\
Both models read the same text, token by token, from an empty cache: the one with the checkpoint's
weights, and the one with the weights of this file. The divergence is that of Kullback and Leibler
between what they expect next, in nats.

The error of a layer is the length of the change in the residual stream by the length of the stream,
the mean over tokens. "Own" is by the matrices of this layer alone, on the input that it would have
had; the other is by all layers up to this one. A layer with a large error of its own is where more
bits pay first."""


def quality_page(facts: dict[str, Any]) -> str:
    """The page of what `arkinfer quality --json` prints."""
    found = None if facts["quality"] is None else parse_quality(facts["quality"])
    sizes = cast("list[dict[str, Any]]", facts["sizes"])
    blocks: list[Block] = []
    if found is not None:
        blocks += [Facts(_figures(found)), Figure(_errors(found))]
    layers = Table(COLUMNS, layer_rows(sizes, found), align="llr")
    blocks += [Figure(_bytes(sizes)), Heading("Layers"), layers]
    if found is not None:
        blocks += [Heading("How to read it"), Paragraph(_READING)]
    lead = f"{facts['quant']}, {facts['bits_per_weight']:.2f} bits per weight, scales included."
    if facts["raised"]:
        lead += f" {len(facts['raised'])} layers are in 8 bits so that the gates hold."
    return page(f"Quality of {facts['path']}", lead, blocks)


def _figures(found: Quality) -> list[tuple[str, object]]:
    return [
        ("mean KL", f"{found.mean_kl:.4f}"),
        ("99 % of the KL below", f"{found.p99_kl:.4f}"),
        ("perplexity", f"{found.perplexity:.3f}, {found.perplexity_ratio:.4f} times as high"),
        ("same best token", f"{100 * found.same_top1:.1f} %"),
        ("tokens read", f"{found.tokens:,}"),
        ("most sensitive", ", ".join(layer.path for layer in found.most_sensitive()[:3])),
    ]


def _errors(found: Quality) -> str:
    own = [(float(i), layer.own) for i, layer in enumerate(found.layers)]
    whole = [(float(i), layer.whole) for i, layer in enumerate(found.layers)]
    return line_chart(
        "Error by layer", "layer", "error", [Series("so far", whole), Series("its own", own)]
    )


def _bytes(sizes: list[dict[str, Any]]) -> str:
    bars = [
        Bar(each["path"] or OUTSIDE, each["nbytes"] / 1e6, ", ".join(each["schemes"]))
        for each in sizes
    ]
    return bar_chart("Size by layer", "MB", bars)
