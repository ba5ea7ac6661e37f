"""Stop sets, first tokens and sampling defaults, as a checkpoint's files state them."""

from __future__ import annotations

import doctest
import json
from typing import Any

import pytest

from arkinfer.errors import CheckpointError
from arkinfer.runtime import tokens
from arkinfer.runtime.stop import stop_set, turn_end
from arkinfer.runtime.tokens import bos_token, generation_facts, token_facts
from tests.runtime.artifacts import TEMPLATE, THINKING
from tests.runtime.trained import BOS, EOS, IM_END, byte_level, sentencepiece

TOKENIZER: dict[str, Any] = json.loads(sentencepiece())
PLAIN: dict[str, Any] = {**TOKENIZER, "post_processor": None}


def stops(
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    template: str | None = None,
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    found = stop_set(config or {}, generation or {}, tokenizer or {}, TOKENIZER, template)
    return found.ids, found.strings


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"config": {"eos_token_id": 2}}, (2,)),
        ({"config": {"eos_token_id": [2, 3]}}, (2, 3)),
        ({"generation": {"eos_token_id": [7, 5]}}, (5, 7)),
        ({"config": {"eos_token_id": 2}, "generation": {"eos_token_id": [3]}}, (2, 3)),
        ({"config": {"eos_token_id": None}, "tokenizer": {"eos_token": "<|im_end|>"}}, (3,)),
        ({"tokenizer": {"eos_token": {"content": "</s>"}}}, (2,)),
        ({"config": {"eos_token_id": 2}, "template": TEMPLATE}, (2, 3)),
        ({"template": THINKING}, (3,)),
    ],
)
def test_the_stop_set_is_the_union(files: dict[str, Any], ids: tuple[int, ...]):
    assert stops(**files) == (ids, ())


def test_every_stop_token_says_who_named_it():
    found = stop_set(
        {"eos_token_id": [EOS, IM_END]}, {"eos_token_id": EOS}, {"eos_token": "<|im_end|>"},
        TOKENIZER, TEMPLATE,
    )  # fmt: skip
    assert found.why == {
        EOS: ["config.json eos_token_id", "generation_config.json eos_token_id"],
        IM_END: [
            "config.json eos_token_id", "tokenizer_config.json eos_token",
            "the chat template's turn end",
        ],
    }  # fmt: skip


def test_a_turn_end_in_ordinary_text_is_a_stop_string():
    template = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n### End\n\n{% endfor %}"
    assert stops({"eos_token_id": 2}, template=template) == ((2,), ("### End",))


def test_a_turn_end_with_text_behind_the_token():
    template = "{% for m in messages %}{{ m.content }}<|im_end|> and more\n{% endfor %}"
    assert turn_end(template, {}) == "<|im_end|> and more"
    assert stops(template=template) == ((IM_END,), ())


def test_a_template_without_turn_end_adds_nothing():
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert stops({"eos_token_id": 2}, template=template) == ((2,), ())


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "No file of the checkpoint says where an answer ends. There is no eos_token_id, no "
         "eos_token and no turn end in a chat template. Add \"eos_token_id\" to "
         "generation_config.json."),
        ({"tokenizer": {"eos_token": "<|end|>"}}, 'tokenizer_config.json has eos_token "<|end|>", '
         "which tokenizer.json does not have. The two files are of different checkpoints. "
         "Restore both files of the checkpoint."),
        ({"template": "{{ raise_exception('no') }}"}, "The chat template cannot render a question "
         "and its answer. no. Correct chat_template.jinja of the checkpoint, or remove it."),
    ],
)  # fmt: skip
def test_what_cannot_stop_is_refused(files: dict[str, Any], text: str):
    with pytest.raises(CheckpointError) as caught:
        stops(**files)
    assert str(caught.value) == text


def bos(config: dict[str, Any], tokenizer: dict[str, Any], raw: Any = PLAIN, template: Any = None):
    return bos_token(config, tokenizer, raw, template)


def test_who_decides_about_the_first_token():
    assert bos({}, {"add_bos_token": True, "bos_token": "<s>"}) == BOS
    assert bos({"bos_token_id": 4}, {"add_bos_token": True}) == 4
    assert bos({"bos_token_id": 1}, {"add_bos_token": False, "bos_token": "<s>"}, TOKENIZER) is None
    assert bos({"bos_token_id": 4}, {"bos_token": "</s>"}, TOKENIZER) == BOS  # its post-processor
    assert bos({"bos_token_id": 1}, {}) is None
    assert bos({"bos_token_id": 1}, {"tokenizer_class": "LlamaTokenizerFast"}) == BOS
    assert bos({"bos_token_id": 1}, {}, template="{{ bos_token }}{{ messages }}") == BOS
    assert bos({}, {"bos_token": "<s>"}, template="<s>{{ messages }}") == BOS
    assert bos({}, {"bos_token": "<s>"}, template=TEMPLATE) is None
    assert bos({}, {"tokenizer_class": "GPT2Tokenizer"}, json.loads(byte_level())) == BOS
    nested = {
        "type": "Sequence",
        "processors": [{"type": "ByteLevel"}, TOKENIZER["post_processor"]],
    }
    assert bos({}, {}, {**PLAIN, "post_processor": nested}) == BOS


def test_a_first_token_that_nobody_knows():
    with pytest.raises(CheckpointError) as caught:
        bos({}, {"add_bos_token": True, "bos_token": "<bos>"})
    assert str(caught.value) == (
        "tokenizer_config.json asks for a first token (add_bos_token). tokenizer.json does not "
        'have its bos_token "<bos>". Restore tokenizer_config.json and tokenizer.json of the '
        "checkpoint."
    )
    with pytest.raises(CheckpointError, match="No file of the checkpoint says which one it is"):
        bos({}, {"add_bos_token": True})


def test_facts_for_the_manifest():
    tokenizer = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "<|im_end|>"}
    assert token_facts({"eos_token_id": 2}, {}, tokenizer, TOKENIZER, TEMPLATE) == {
        "bos": BOS,
        "stop": [EOS, IM_END],
        "special": {"bos_token": "<s>", "eos_token": "<|im_end|>"},
    }
    template = "{{ messages[1].content }}\nUser:"
    facts = token_facts({}, {}, {}, PLAIN, template)
    assert facts == {"bos": None, "stop": [], "stop_strings": ["User:"]}


def test_generation_defaults_for_the_manifest():
    assert generation_facts({}) == {}
    assert generation_facts({"do_sample": True}) == {"temperature": 1.0}
    everything = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05}
    assert generation_facts({**everything, "repetition_penalty": 1.02}) == {
        **everything, "repetition_penalty": 1.02,
    }  # fmt: skip
    assert generation_facts({"top_k": -1, "temperature": 0.5}) == {"temperature": 0.5}
    with pytest.raises(CheckpointError) as caught:
        generation_facts({"top_p": 7})
    assert str(caught.value) == (
        "generation_config.json is not valid: top_p cannot be 7. It must be above 0 and at most "
        "1. Correct generation_config.json."
    )


def test_docstring_examples():
    result = doctest.testmod(tokens)
    assert result.attempted > 0
    assert result.failed == 0
