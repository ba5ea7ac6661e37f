"""A tiny tokenizer and a tiny checkpoint with room for outliers, made on the spot."""

from __future__ import annotations

import pytest
import tokenizers
import torch
from torch import Tensor

from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.models.minicpm import CausalLM
from recipes.demo.loop import keep_reserved_zero
from recipes.demo.shape import CONFIG
from recipes.demo.train import initialize
from recipes.demo.vocabulary import train_tokenizer

DOCUMENTS = [
    {
        "name": "library/heapq",
        "text": "# `heapq` --- Heap queue algorithm\n\n"
        "This module provides an implementation of the heap queue algorithm, also known\n"
        "as the priority queue algorithm.\n\nThe following functions are provided:\n\n"
        "`heappush(heap, item)`\n\n"
        "   Push the value `item` onto the `heap`, maintaining the heap invariant. More.\n\n"
        "`Heap()`\n\n   A class of heaps, which keeps its items in order at all times.\n\n"
        "   `pop(index=-1)`\n\n      Remove the item at the index and return it to the caller.\n\n"
        "   `size`\n\n      How many items there are in the heap at this time.\n",
    },
    {
        "name": "glossary",
        "text": "# Glossary\n\n   generator\n"
        "      A function which returns a generator iterator.  It looks like a normal\n"
        "      function.\n\n   abstract base class\n"
        "      Abstract base classes complement duck-typing, e.g. by\n      interfaces.\n",
    },
]


@pytest.fixture(scope="session")
def documents() -> list[dict[str, str]]:
    return DOCUMENTS


@pytest.fixture(scope="session")
def tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer([document["text"] for document in DOCUMENTS], 400)


@pytest.fixture(scope="session")
def roomy() -> tuple[ModelConfig, dict[str, Tensor]]:
    """Three layers of random weights in bfloat16 that leave the reserved places empty."""
    config = parse_config({**CONFIG, "num_hidden_layers": 3, "vocab_size": 512})
    model = CausalLM(config)
    initialize(model, 3)
    generator = torch.Generator().manual_seed(4)
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(p, std=0.06, generator=generator)
    keep_reserved_zero(model)
    weights = {
        name: tensor.to(torch.bfloat16)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    return config, weights
