"""Incremental text: pieces join to the whole, and no character is ever split."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkinfer.runtime.stream import StopStrings, TextStream
from arkinfer.runtime.tokenizer import Tokenizer
from tests.runtime.trained import BOS, FAMILIES

TOKENIZERS = {name: Tokenizer(make(), bos=BOS) for name, make in FAMILIES.items()}
family = pytest.mark.parametrize("family", list(FAMILIES))
EMOJI = "👩‍👩‍👧 says 你好 and 👍🏽, “naïve” Ελλάδα!"


def stream(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    text = TextStream(tokenizer, **options)
    return [*(text.push(i) for i in ids), text.finish()]


@family
@given(data=st.data())
def test_pieces_join_to_the_decoded_text(family: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[family]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=40))
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)


@family
@given(text=st.text(st.sampled_from(EMOJI + " <|>\n")) | st.text())
def test_no_character_is_ever_split(family: str, text: str) -> None:
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.encode(text)
    decoded = tokenizer.decode(ids)
    if "\ufffd" not in decoded:
        assert not any("\ufffd" in piece for piece in stream(tokenizer, ids))


@family
def test_a_character_comes_with_its_last_byte(family: str) -> None:
    """Also in a script that is all byte tokens: nothing waits for the end of a run."""
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.encode("ΩΨΦ" * 30)[1:]
    pieces = stream(tokenizer, ids)
    assert pieces[-1] == ""
    longest_wait, wait = 0, 0
    for piece in pieces[:-1]:
        wait = 0 if piece else wait + 1
        longest_wait = max(longest_wait, wait)
    assert longest_wait <= 2


@family
def test_an_unfinished_character_ends_as_a_replacement(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.encode("a🙂")[:-1]
    assert "".join(stream(tokenizer, ids)) in ("a\ufffd", "a")


@family
@given(cut=st.integers(1, 30))
def test_a_continuation_joins_its_prompt(family: str, cut: int) -> None:
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.encode("The quick brown fox, because it can, jumps over it.")
    prompt, rest = ids[:cut], ids[cut:]
    joined = tokenizer.decode(prompt) + "".join(stream(tokenizer, rest, continuation=cut > 1))
    assert joined == tokenizer.decode(ids)


@family
def test_cost_is_linear(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.encode("ΩΨΦ emoji 🙂 and 你好 " * 400)

    def seconds(part: list[int]) -> float:
        start = time.process_time()  # whatever else runs on this machine
        stream(tokenizer, part)
        return time.process_time() - start

    seconds(ids)
    short = min(seconds(ids[: len(ids) // 8]) for _ in range(5))
    assert min(seconds(ids) for _ in range(3)) < 8 * short * 4


def naive_stop(text: str, strings: list[str]) -> tuple[str, bool]:
    for end in range(len(text) + 1):
        hits = [s for s in strings if s and text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


@given(
    text=st.text("abc", max_size=30),
    strings=st.lists(st.text("abc", max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30)),
)
def test_stop_strings_do_not_depend_on_the_cuts(
    text: str, strings: list[str], cuts: list[int]
) -> None:
    stop = StopStrings(strings)
    edges = sorted({0, *cuts, len(text)})
    given_out = ""
    expected, stops = naive_stop(text, strings)
    for start, end in pairwise(edges):
        given_out += stop.push(text[start:end])
        assert expected.startswith(given_out)
    assert given_out + stop.finish() == expected
    assert (stop.found is not None) == stops


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    stop = StopStrings(["\nUser:"])
    assert [stop.push(p) for p in ("Fine.", "\nUs", "ually", "\nUser", ": no")] == [
        "Fine.", "", "\nUsually", "", "",
    ]  # fmt: skip
    assert stop.found == "\nUser:"
    assert stop.finish() == ""
