"""What the settings files say about tokens: stop set, BOS, sampling defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from arkinfer.errors import CheckpointError
from arkinfer.limits import LimitError, parse_json
from arkinfer.runtime.tokens import generation_facts, token_facts
from fuzz.files import refusing

DICTIONARY = ["config", "generation", "tokenizer_config", "tokenizer", "added_tokens", "content",
              "eos_token", "bos_token", "post_processor", "processors", "single", "SpecialToken",
              "vocab", "model", "add_bos_token", "do_sample", "temperature", "top_k", "top_p",
              "repetition_penalty", "min_p", "tokenizer_class", "LlamaTokenizer"]  # fmt: skip
IS_JSON = True
LENGTH = 4096


def seeds() -> list[bytes]:
    """One object with the content of each file."""
    return [
        b'{"config": {"eos_token_id": [2, 73440], "bos_token_id": 1}, "generation": {"do_sample": '
        b'true, "top_p": 0.8, "temperature": 0.8}, "tokenizer_config": {"bos_token": "<s>", '
        b'"eos_token": {"content": "</s>"}, "add_bos_token": true}, "tokenizer": {"model": {"vocab"'
        b': {"a": 0, "<s>": 1, "</s>": 2}}, "added_tokens": [{"id": 2, "content": "</s>"}]}, '
        b'"template": "{{ messages[1].content }}</s>"}',
        b'{"config": {"eos_token_id": 2}, "generation": {"do_sample": false, "top_k": -1}, '
        b'"tokenizer": {"model": {"vocab": [["a", 0.5], ["b", -1]]}, "post_processor": '
        b'{"processors": [{"single": [{"SpecialToken": {"id": "a", "type_id": 0}}]}]}}}',
    ]


def one(data: bytes) -> None:
    try:
        files = parse_json(data)
    except LimitError:
        return
    parts: dict[str, Any] = files if isinstance(files, dict) else {}

    def part(name: str) -> Mapping[str, Any]:
        value = parts.get(name)
        return cast("dict[str, Any]", value) if isinstance(value, dict) else {}

    template = parts.get("template")
    with refusing(CheckpointError):
        facts = token_facts(
            part("config"),
            part("generation"),
            part("tokenizer_config"),
            part("tokenizer"),
            template if isinstance(template, str) else None,
        )
        assert all(isinstance(i, int) for i in facts["stop"])
    with refusing(CheckpointError):
        generation_facts(part("generation"))
