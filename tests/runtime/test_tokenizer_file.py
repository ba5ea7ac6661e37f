"""What a tokenizer.json may ask for: patterns that end, steps that do not make text longer."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import pytest

from arkinfer.errors import ArtifactError, UnsupportedError
from arkinfer.limits import TOKENIZER_BYTES
from arkinfer.runtime.tokenizer import GUARD, Tokenizer
from arkinfer.runtime.tokenizer_file import LONGEST_SPECIAL, MOST_ADDED, check_pattern

MODEL = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [], "unk_token": "a"}


def source(**parts: Any) -> bytes:
    whole = {"version": "1.0", "model": MODEL, "decoder": {"type": "Fuse"}, **parts}
    return json.dumps(whole).encode()


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def added(text: str) -> list[dict[str, Any]]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": 2, "content": text, "special": True, **off}]


PUBLISHED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",  # GPT-4, Llama 3; Qwen's has one digit
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # GPT-4o
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # DeepSeek
    "[一-龥぀-ゟ゠-ヿ]+", " {2,}", "(?:ab)+", "(?i)a",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_are_accepted(pattern: str):
    check_pattern(pattern)
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    assert Tokenizer(source(pre_tokenizer=step)).encode("ab ba")


INSIDE = "It repeats a group that repeats or branches in itself"
BRANCH = "Two unbounded repeats stand before something that may fail"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a+)+$", INSIDE), ("(a|a)*$", INSIDE), ("(?:a*)*b", INSIDE), ("((a+))+", INSIDE),
        ("(a?){30}", INSIDE), ("(?:a+|b){2,}", INSIDE), ("(.*)(.*)(.*)b", BRANCH),
        ("a*a*b", BRANCH), ("(?:a*a*b)?", BRANCH), ("a*(?:a*b|c)", BRANCH), ("a*a+?(?=b)", BRANCH),
        ("(a*)a*b", BRANCH), ("a*a+b{1,}", BRANCH), ("a*(a*b)?", BRANCH), ("(a*a*|b)a*c", BRANCH),
        ("a{1,999}", "It repeats something more"),
        ("a{200}{200}", "It repeats a repeat"), (r"(a)\1", 'It has "\\1"'),
        (r"(?<n>a)\k<n>", 'It has "(?"'), ("(?x)(a+ #)\n)+", 'It has "(?"'),
        (r"\Q(a+\E)+", 'It has "\\Q"'), ("[a[b]]", 'It has "["'), ("a)+", 'It has ")"'),
        ("x" * 2001, "It is longer than 2,000 characters"),
    ],
)  # fmt: skip
def test_patterns_that_could_run_on_are_refused(pattern: str, why: str):
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    with pytest.raises(UnsupportedError) as caught:
        Tokenizer(source(pre_tokenizer=step))
    assert "could run on without an end" in caught.value.what
    assert caught.value.why.startswith(why)
    with pytest.raises(UnsupportedError):
        Tokenizer(source(normalizer=replace({"Regex": pattern}, "")))


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"normalizer": replace({"String": "a"}, "aa")}, "Replace makes text longer"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 257}}, "Prepend adds a long text"),
        ({"normalizer": {"type": "Sequence", "normalizers": [replace({"Regex": ""}, "a")] * 5}},
         "Replace makes text longer"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 33}},
         "It has too many steps"),
        ({"normalizer": {"type": "Nmt"}}, "Its normalizer Nmt is not supported"),
        ({"decoder": replace({"String": "a"}, "aa")}, 'decoder "Replace" is not supported'),
    ],
)  # fmt: skip
def test_steps_that_grow_or_are_unknown_are_refused(parts: dict[str, Any], text: str):
    with pytest.raises(UnsupportedError, match=text):
        Tokenizer(source(**parts))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (source(added_tokens=added("x" * (LONGEST_SPECIAL + 1))), "An added token is too long"),
        (source(added_tokens=added(f"x{GUARD}")), "has a character that is no text"),
        (b'"content"' * (MOST_ADDED + 1), "It has more than 20,000 added tokens"),
        (b" " * (TOKENIZER_BYTES + 1), "It has more than 33,554,432 bytes"),
        (source(x="\\u0052egex").replace(b"\\\\", b"\\"), "It writes plain letters as escapes"),
        (b"\xff", "expected value at line 1"),
        (b'{"version": ' * 10_000, "tokenizer.json cannot be read"),
        (
            source(model={**MODEL, "end_of_word_suffix": "x" * 300}),
            "word_suffix is too long",
        ),
    ],
    ids=range(8),
)
def test_files_beyond_the_limits_are_refused(data: bytes, text: str):
    with pytest.raises(ArtifactError, match=text) as caught:
        Tokenizer(data)
    assert str(caught.value).startswith("tokenizer.json cannot be read. ")


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_long_runs_of_one_letter_take_no_time(pattern: str):
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer(source(pre_tokenizer=step))
    start = process_time()
    for text in ("a" * 9000, " " * 9000, "\n" * 9000, "!" * 9000, "aA" * 4500, "a" * 9000 + "'"):
        tokenizer.encode(text)
    assert process_time() - start < 5


def test_what_the_library_cannot_encode_is_an_error_of_ours():
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"}
    with pytest.raises(ArtifactError) as caught:
        Tokenizer(source(model=model)).encode("b")
    assert caught.value.what == "tokenizer.json cannot encode this text"
