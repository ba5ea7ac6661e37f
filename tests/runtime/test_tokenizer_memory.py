"""Loading a tokenizer.json: apart as the library does as a whole, and within its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from arkinfer.errors import UnsupportedError
from arkinfer.limits import LimitError
from arkinfer.runtime.tokenizer_memory import load_apart
from tests.runtime.trained import FAMILIES

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
TOO_LARGE = "The tokenizer is too large. "


def apart(source: bytes) -> Any:
    return load_apart(source, 1 << 40)


def plain(tokenizer: Any) -> Any:
    """All that it is, without what we switch off."""
    return {**json.loads(tokenizer.to_str()), "truncation": None, "padding": None}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_tokenizer_loaded_apart_is_the_librarys(family: str):
    source = FAMILIES[family]().encode()
    ours, reference = apart(source), Reference.from_buffer(source)
    assert plain(ours) == plain(reference)
    text = "Why? <s>你好 naïve 🙂\n\tdef add(a, b): <|im_end|> 12345"
    reference.no_truncation()
    reference.no_padding()
    assert ours.encode(text).ids == reference.encode(text).ids
    assert ours.encode(text, add_special_tokens=False).tokens[:1] != ["<s>"]


def encoded(tokenizer: Any, text: str) -> Any:
    try:
        return tokenizer.encode(text).ids
    except Exception as error:  # an unknown token that is none of the vocabulary
        return str(error)


LETTERS = [
    "a",
    "b",
    " ",
    "\n",
    "#version",
    "\u2581",
    '"',
    "\\",
    "é",
    "🙂",
    "\t",
    "}",
    "]",
    ",",
    "\u2028",
    "#",
]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A BPE with any options, its merges in either form, written in any of the usual ways."""
    tokens = list(LETTERS)
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(1, 8))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        merges.append(pair)
        tokens += [] if "".join(pair) in tokens else ["".join(pair)]
    name = st.none() | st.sampled_from(["<unk>", "a", "##", "</w>"])
    model: dict[str, Any] = {"type": "BPE", "unk_token": draw(name)}
    model["continuing_subword_prefix"] = None
    model["end_of_word_suffix"] = draw(name)
    model["dropout"] = draw(st.none() | st.sampled_from([0.0, 0.5, 1.0]))
    for flag in ("fuse_unk", "byte_fallback", "ignore_merges"):
        model[flag] = draw(st.booleans())
    lines = not any(" " in "".join(m) for m in merges) and draw(st.booleans())
    model["vocab"] = {token: i for i, token in enumerate(draw(st.permutations(tokens)))}
    model["merges"] = [" ".join(m) if lines else list(m) for m in merges]
    if draw(st.booleans()):
        model["vocab"] = model.pop("vocab")  # after the merges
    contents = st.sampled_from([*tokens[-3:], "<s>", "</s>", "<new>", '"vocab": {'])
    flags = st.fixed_dictionaries(dict.fromkeys(FLAGS, st.booleans()))
    added = [{"id": draw(st.integers(0, 99)), "content": content, **draw(flags)}
             for content in draw(st.lists(contents, max_size=5))]  # fmt: skip
    whole = {"version": "1.0", "added_tokens": added, "model": model}
    whole["normalizer"] = draw(st.none() | st.just({"type": "Lowercase"}))
    whole["decoder"] = {"type": "Fuse"}
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([None, 2]))
    return json.dumps(whole, ensure_ascii=ascii_only, indent=indent).encode()


@given(source=files(), text=st.text(st.sampled_from("".join(LETTERS) + "<s>new c")))
def test_any_tokenizer_loaded_apart_is_the_librarys(source: bytes, text: str):
    reference = Reference.from_buffer(source)
    ours = apart(source)
    assert plain(ours) == plain(reference)
    if json.loads(source)["model"]["dropout"] is None:
        assert encoded(ours, text) == encoded(reference, text)


def bpe(vocab: object, merges: object, **more: Any) -> bytes:
    model = {"type": "BPE", "vocab": vocab, "merges": merges, **more}
    return json.dumps({"version": "1.0", "model": model}).encode()


def test_added_tokens_that_come_twice_or_share_an_id():
    off = dict.fromkeys(FLAGS, False)
    listed = (("a", True), ("b", True), ("a", False), ("x", True))
    tokens = [{"id": 0, "content": text, **off, "special": special} for text, special in listed]
    whole = json.loads(bpe({"a": 0, "b": 0, "ab": 1}, ["a b"]))
    source = json.dumps({**whole, "added_tokens": tokens}).encode()
    found = [
        {i: repr(token) for i, token in each.get_added_tokens_decoder().items()}
        for each in (apart(source), Reference.from_buffer(source))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 2


LETTER = {"a": 0, "b": 5, "ab": 6}


@pytest.mark.parametrize(
    "source",
    [
        bpe({"a": -1}, ["a a"]), bpe({"a": 1.0}, ["a a"]), bpe({"a": 1 << 32}, ["a a"]),
        bpe({"a": "b"}, ["a a"]),
        bpe({}, ["a a"]), bpe(["a"], ["a a"]), bpe(LETTER, []), bpe(LETTER, {}),
        bpe(LETTER, [["a", "b"], "a b"]), bpe(LETTER, ["a b", 7]),
        bpe(LETTER, ["a b", ["a", "b", "a"]]),
        bpe(LETTER, ["a b"], type="WordPiece"), bpe(LETTER, ["a b"])[:-3],
        bpe(LETTER, ["a b"]).replace(b'"type": "BPE", ', b""),
        b'{"version": "1.0", "decoder": {"vocab": {"a": 0}, "merges": ["a a"]}}',
        bpe(LETTER, ["a b"]).replace(b'"model"', b'"model": {}, "other"'), b"", b"[]",
    ],
    ids=range(18),
)  # fmt: skip
def test_what_is_not_written_in_the_plain_form_is_not_loaded_apart(source: bytes):
    with pytest.raises(UnsupportedError, match=TOO_LARGE):
        apart(source)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (bpe(LETTER, ["a b"]) + b"}", "it is not JSON"),
        (bpe(LETTER, ["a b"]).replace(b'"1.0"', b"NaN"), "NaN is not a JSON number"),
        (bpe(LETTER, ["a b", "a"]), "failed to extract"),
        (bpe(LETTER, ["a b a"]), "failed to extract"),
        (bpe(LETTER, ["b a"]), "Token `ba` out of vocabulary"),
        (bpe(LETTER, ["a b"], dropout=7.0), "[Dd]ropout"),
        (bpe(LETTER, ["a b"]).replace(b'"1.0"', b'"2.0"'), "Unknown tokenizer version '2.0'"),
        (bpe({"\udc00": 0}, ["a a"]), "surrogate|hex escape"),
        (bpe({"a": 0, "\udc00": 1}, ["a \udc00"]), "surrogate"),
    ],
)
def test_what_is_wrong_is_said(source: bytes, why: str):
    with pytest.raises((LimitError, Exception), match=why):
        apart(source)


def large(tokens: int, letters: str, *, indent: int | None = None) -> bytes:
    """A BPE of about as many merges as tokens, of few letters each."""
    names = ["".join(p) for n in range(1, 7) for p in product(letters, repeat=n)][:tokens]
    merges = [[name[:1], name[1:]] for name in names if len(name) > 1]
    model = {"type": "BPE", "vocab": {n: i for i, n in enumerate(names)}, "merges": merges}
    whole = {"version": "1.0", "decoder": {"type": "Fuse"}, "model": model}
    return json.dumps(whole, ensure_ascii=False, indent=indent).encode()


def unigram() -> bytes:
    vocab = [[f"{i * 7919:x}" * 6, 0] for i in range(20_000)]
    return json.dumps({"version": "1.0", "model": {"type": "Unigram", "vocab": vocab}}).encode()


def added(number: int) -> bytes:
    tokens = [
        {"id": i, "content": f"<{i}>" * 40, **dict.fromkeys(FLAGS, True)} for i in range(number)
    ]
    model = {"type": "BPE", "vocab": {}, "merges": []}
    return json.dumps({"version": "1.0", "added_tokens": tokens, "model": model}).encode()


_GROWTH = """
import re, sys
from arkinfer.errors import UnsupportedError
from arkinfer.runtime.tokenizer_file import load

def grown(source):
    status = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    try:
        load(source)
    except UnsupportedError as error:
        print(error.what)
    return status("VmHWM") - before << 10

load(b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}')
source = open(sys.argv[1], "rb").read()
print(grown(source))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's own figures")
@pytest.mark.parametrize(
    ("source", "loads"),
    [
        (large(130_560, "一二三四五六七八"), True),  # MiniCPM5's many, which took 97 MiB
        (large(20_000, "abcdefgh"), True),
        (large(300_000, "abcdefgh"), False),
        (unigram(), False),  # 270 bytes for one of the file
        (added(20_000), False),
        (b'{"version": "1.0", "model": {"x": [' + b'{"a":[0]},' * 100_000 + b"0]}}", False),
    ],
    ids=["large", "small", "dense", "unigram", "added", "values"],
)
def test_loading_takes_no_more_than_twice_the_file_and_64_mib(
    source: bytes, loads: bool, tmp_path: Path
):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(source)
    command = [sys.executable, "-c", _GROWTH, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    assert int(said[-2]) <= 2 * len(source) + (64 << 20)
    assert said[:-2] == ([] if loads else [TOO_LARGE[:-2]])
