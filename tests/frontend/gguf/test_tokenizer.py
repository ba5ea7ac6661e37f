"""Tokenizers out of GGUF files split texts as the tokenizers that they were made from."""

from __future__ import annotations

import json
import tracemalloc
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError
from arkinfer.export.gguf.writer import Value, write_gguf
from arkinfer.frontend.gguf import bpe
from arkinfer.frontend.gguf.file import read_header
from arkinfer.frontend.gguf.spm import merges, scores_of
from arkinfer.frontend.gguf.tokenizer import tokenizer_config, tokenizer_json
from arkinfer.frontend.gguf.vocabulary import read_vocabulary
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.runtime.tokenizer_file import load
from tests.frontend.gguf.converted import add_bpe
from tests.frontend.gguf.pieces import TEXT, slow_split, spm_metadata, spm_vocabulary

TEXTS = [
    "", " ", "  ", "\n", "\t\r\n\0\x1f\x7f", "Hello, world!", " leading", "trailing ", "a  b   c",
    "don't WON'T I'll", "1234567 3.14 ½ ٣", "中文，標點。かな한국어",
    "🙂🙃👩‍👩‍👧 é e\u0301", "x" * 300,
    "aaaaaaaaaaaaa abababababa", "    def f(x):\n\treturn x\n\n\n", "<s> </s> <|im_end|>",
    *(" " * count + "a" for count in range(3, 20)), "\u00a0\u3000\u200b\ufeff",
    "\ue000\U0010ffff", TEXT,
]  # fmt: skip


@cache
def spm_tokenizer() -> tokenizers.Tokenizer:
    return loaded(spm_metadata())


def loaded(metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    content = tokenizer_json(read_vocabulary(metadata))
    return load(json.dumps(content, ensure_ascii=False).encode())


def expected_ids(text: str) -> list[int]:
    tokens, scores, types = spm_vocabulary()
    known = {t: s for t, s, kind in zip(tokens, scores, types, strict=True) if kind == 1}
    ids = {token: i for i, token in enumerate(tokens)}
    return slow_split("▁" + text.replace(" ", "▁"), known, ids) if text else []


@pytest.mark.parametrize("text", [t for t in TEXTS if "<s>" not in t])
def test_pieces_merge_by_score(text: str) -> None:
    assert spm_tokenizer().encode(text, add_special_tokens=False).ids == expected_ids(text)


@settings(max_examples=150, derandomize=True)
@given(st.text(st.sampled_from("abnth er.1快今天🙂🙃Æ▁\n"), max_size=40))
def test_any_text_of_few_letters(text: str) -> None:
    assert spm_tokenizer().encode(text, add_special_tokens=False).ids == expected_ids(text)


def test_special_tokens_stand_for_themselves() -> None:
    tokens, _, _ = spm_vocabulary()
    ids = {token: i for i, token in enumerate(tokens)}
    text = "<|im_start|>the<|im_end|><tool>then"
    encoded = spm_tokenizer().encode(text)
    expected = [1, ids["<|im_start|>"], *expected_ids("the"), ids["<|im_end|>"], ids["<tool>"]]
    assert encoded.ids == [*expected, *expected_ids("then")]
    assert spm_tokenizer().decode(encoded.ids).replace(" ", "") == "the<tool>then"


@pytest.mark.parametrize("text", [t for t in TEXTS if "<s>" not in t])
def test_pieces_decode_to_the_text(text: str) -> None:
    assert spm_tokenizer().decode(spm_tokenizer().encode(text).ids) == text


def test_flags_and_ids_of_the_file_count() -> None:
    vocabulary = read_vocabulary(spm_metadata())
    assert (vocabulary.add_bos, vocabulary.add_eos, vocabulary.add_space) == (True, False, True)
    end = vocabulary.tokens.index("<|im_end|>")
    assert (vocabulary.ids, vocabulary.ends) == ({"bos": 1, "eos": 2, "unk": 0}, (2, end))
    assert tokenizer_config(vocabulary) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True,
        "add_eos_token": False, "clean_up_tokenization_spaces": False, "bos_token": "<s>",
        "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    other = spm_metadata() | {
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.unknown_token_id": 4_294_967_295,
    }  # fmt: skip
    changed = read_vocabulary(other)
    assert (changed.ids, changed.ends) == ({"bos": 1, "eos": end}, (2, end))
    encoded = loaded(other).encode("the")
    assert encoded.ids[-1] == end
    assert not encoded.tokens[0].startswith("▁")


def test_scores_and_merges_stand_for_each_other() -> None:
    tokens, scores, types = spm_vocabulary()
    known = {t: s for t, s, kind in zip(tokens, scores, types, strict=True) if kind == 1}
    ranked = merges(known)
    again, wrong = scores_of(known, ranked)
    assert wrong == 0
    assert merges(again) == ranked
    assert scores_of(known, ranked[:-3])[1] > 0
    made = [left + right for left, right in ranked]
    twice = next(i for i, piece in enumerate(made) if made.count(piece) > 1)
    apart = [*ranked[:twice], *ranked[twice + 1 :], ranked[twice]]
    assert scores_of(known, apart)[1] > 0


@cache
def demo() -> tuple[tokenizers.Tokenizer, bytes]:
    data = (demo_checkpoint() / "tokenizer.json").read_bytes()
    return load(data), data


@pytest.fixture(scope="module")
def demo_metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("bpe") / "m.gguf"
    writer = gguf.GGUFWriter(file, "minicpm")
    add_bpe(writer, json.loads(demo()[1]), "smollm", 4096)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dict(read_header(file).metadata)


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_tokens_are_those_of_the_original(
    demo_metadata: dict[str, Any], text: str
) -> None:
    ours, original = loaded(demo_metadata), demo()[0]
    assert ours.encode(text).ids == original.encode(text).ids
    ids = original.encode(text).ids
    assert ours.decode(ids) == original.decode(ids)


def test_the_demo_model_comes_back_whole(demo_metadata: dict[str, Any]) -> None:
    ours = tokenizer_json(read_vocabulary(demo_metadata))
    theirs = json.loads(demo()[1])
    for key in ("model", "added_tokens", "pre_tokenizer", "post_processor"):
        assert ours[key] == theirs[key]


@pytest.mark.parametrize("name", [*bpe._SPLITTERS, *bpe._SAME])
def test_every_way_to_split_words_is_accepted_by_the_runner(
    demo_metadata: dict[str, Any], name: str
) -> None:
    tokenizer = loaded(demo_metadata | {"tokenizer.ggml.pre": name})
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False).endswith(
            text
        )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-2", ["it", "'s", " 12345", " WON", "'", "T", "  ", " end"]),
        ("smollm", ["it", "'s", " ", "1", "2", "3", "4", "5", " WON", "'", "T", "  ", " end"]),
        ("llama-bpe", ["it", "'s", " ", "123", "45", " WON", "'T", "  ", " end"]),
        ("qwen2", ["it", "'s", " ", "1", "2", "3", "4", "5", " WON", "'T", "  ", " end"]),
        ("minicpm5", ["it", "'s", " ", "123", "45", " WON", "'T", "  ", " end"]),
    ],
)
def test_words_are_split_as_the_name_says(name: str, words: list[str]) -> None:
    step = json.dumps(bpe.splitter(name))
    content = {"version": "1.0", "added_tokens": [], "pre_tokenizer": json.loads(step),
               "model": {"type": "BPE", "vocab": {}, "merges": []}}  # fmt: skip
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    found = tokenizer.pre_tokenizer.pre_tokenize_str("it's 12345 WON'T   end")
    assert [text.replace("Ġ", " ") for text, _ in found] == words
    assert bpe.name_of(json.loads(step), name in ("llama-bpe", "minicpm5")) == name


def damaged_spm(**changes: Any) -> dict[str, Any]:
    return spm_metadata() | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("metadata", "kind", "words"),
    [
        ({}, UnsupportedError, "has no tokenizer"),
        (damaged_spm(model="t5"), UnsupportedError, 'of the kind "t5"'),
        (damaged_spm(tokens=[]), CheckpointError, "has no tokenizer.ggml.tokens"),
        (damaged_spm(tokens=["a", "b", "a"]), CheckpointError, "are the same text"),
        (damaged_spm(tokens=["a" * 1025]), CheckpointError, "One of its tokens is too long"),
        (damaged_spm(scores=None), CheckpointError, "tokenizer.ggml.scores has not as many"),
        (damaged_spm(scores=np.zeros(3, np.float32)), CheckpointError, "has not as many"),
        (damaged_spm(token_type=np.zeros(3, np.int32)), CheckpointError, "has not as many"),
        (damaged_spm(model="gpt2"), CheckpointError, "has no tokenizer.ggml.merges"),
        (damaged_spm(model="gpt2", pre="tekken", merges=["a b"]), UnsupportedError,
         'in the way "tekken"'),
        (damaged_spm(model="gpt2", pre="gpt-2", merges=["a zzz"]), CheckpointError,
         "merge 'a zzz' is no pair of tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    metadata: dict[str, Any], kind: type[ArkError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        tokenizer_json(read_vocabulary(metadata))
    assert words in str(caught.value)


@pytest.mark.slow
def test_the_largest_vocabulary_takes_bounded_memory(tmp_path: Path) -> None:
    """Of 700,000 texts, as many as are read, with nearly as many merges."""
    tokens = ["a", "b", "ab", *(f"😀{number:x}" for number in range(300_000))]
    keys: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["a b"] * 390_000,
    }  # fmt: skip
    write_gguf(tmp_path / "m.gguf", keys, [])
    tracemalloc.start()
    content = tokenizer_json(read_vocabulary(read_header(tmp_path / "m.gguf").metadata))
    json.dumps(content, ensure_ascii=False).encode()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 320 << 20


def test_pieces_that_can_be_halved_in_too_many_ways() -> None:
    digits = [f"{number:x}" for number in range(1 << 16)]
    known = {text: 0.0 for text in digits} | {
        a + b: 0.0 for a in digits[:800] for b in digits[:800]
    }
    with pytest.raises(CheckpointError, match="halved in more than 700,000 ways"):
        merges(known)


def test_a_token_without_a_text_gets_a_name() -> None:
    tokens = [*spm_metadata()["tokenizer.ggml.tokens"]]
    tokens[300] = ""
    vocabulary = read_vocabulary(damaged_spm(tokens=tokens))
    assert vocabulary.tokens[300] == "[EMPTY_300]"
