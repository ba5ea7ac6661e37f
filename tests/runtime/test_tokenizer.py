"""Our tokenizer: text to ids and back, special tokens, damaged files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from arkinfer.errors import ArtifactError, UnsupportedError
from arkinfer.runtime.tokenizer import GUARD, Tokenizer
from tests.runtime.trained import BOS, FAMILIES, IM_END, IM_START, SPECIAL, byte_level

TOKENIZERS = {name: Tokenizer(make(), bos=BOS) for name, make in FAMILIES.items()}
REFERENCES = {name: Reference.from_str(make()) for name, make in FAMILIES.items()}
for _reference in REFERENCES.values():
    _reference.no_truncation()
    _reference.no_padding()

family = pytest.mark.parametrize("family", list(FAMILIES))
texts = st.text(st.sampled_from("ab <s>/|im_end你好é🙂👍🏽\n\t€Ω")) | st.text()


@family
def test_raw_text_gets_exactly_one_bos(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    for prompt in ("What is a list?", "<s>What is a list?", "<s>", ""):
        ids = tokenizer.encode(prompt)
        assert ids[0] == BOS
        assert ids.count(BOS) == 1, prompt


@family
def test_a_model_without_bos_gets_none(family: str) -> None:
    tokenizer = Tokenizer(FAMILIES[family](), bos=None)
    assert BOS not in tokenizer.encode("What is a list?")


@family
@given(text=texts)
def test_encoding_is_the_librarys_after_the_bos(family: str, text: str) -> None:
    expected = REFERENCES[family].encode(text, add_special_tokens=False).ids
    if expected[:1] != [BOS]:
        expected = [BOS, *expected]
    assert TOKENIZERS[family].encode(text) == expected


@family
def test_special_tokens_of_a_raw_prompt_are_recognised(family: str) -> None:
    ids = TOKENIZERS[family].encode("<|im_start|>user\nWhy?<|im_end|>")
    assert ids[1] == IM_START
    assert ids[-1] == IM_END


@family
@given(text=st.lists(st.sampled_from([*SPECIAL, "<", "<|", "s>", "hi", " ", "é🙂"])).map("".join))
def test_guarded_text_never_yields_a_special_token(family: str, text: str) -> None:
    tokenizer = TOKENIZERS[family]
    rendered = "<|im_start|>" + tokenizer.guard(text) + "<|im_end|>"
    ids = tokenizer.encode(rendered, guarded=True)
    special = [i for i in ids if i in tokenizer.special.values()]
    assert special == [BOS, IM_START, IM_END]
    # SentencePiece puts a space after a special token; the text itself is untouched.
    decoded = tokenizer.decode(ids)
    assert decoded in (text, " " + text, text.removeprefix(" "))


@family
def test_guarding_changes_nothing_where_no_special_token_is_spelled(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    assert tokenizer.guard("a < b | c") == "a < b | c"
    assert tokenizer.guard(f"a{GUARD}b") == "ab"


@family
@given(parts=st.lists(st.sampled_from([*SPECIAL, "<", " hi", "é🙂", "\n", "user\nWhy  not? "])))
def test_the_text_around_what_was_guarded_is_encoded_as_ever(family: str, parts: list[str]) -> None:
    """A guarded token at the very end sends all of the text through the guarded way."""
    tokenizer = TOKENIZERS[family]
    text = "".join(parts) + "<|im_end|>"
    ids = tokenizer.encode(text + tokenizer.guard("</s>"), guarded=True)
    plain = tokenizer.encode(text)
    assert ids[: len(plain)] == plain
    assert tokenizer.decode(ids[len(plain) :]).strip() == "</s>"


@family
@given(text=texts)
def test_decoding_valid_text_is_the_librarys(family: str, text: str) -> None:
    ids = REFERENCES[family].encode(text, add_special_tokens=False).ids
    assert TOKENIZERS[family].decode(ids) == REFERENCES[family].decode(ids)


@family
@given(data=st.data())
def test_decoding_any_tokens_is_the_librarys(family: str, data: st.DataObject) -> None:
    reference = REFERENCES[family]
    ids = data.draw(st.lists(st.integers(0, reference.get_vocab_size() + 3), max_size=30))
    expected = reference.decode(ids)
    decoded = TOKENIZERS[family].decode(ids)
    if family == "byte_level" or "\ufffd" not in expected:
        assert decoded == expected
    else:  # the library gives a whole run of byte tokens up for one bad byte
        assert decoded.count("\ufffd") <= expected.count("\ufffd")


def test_one_bad_byte_costs_one_character() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    good = [i for i in tokenizer.encode("Ω") if (tokenizer.token(i) or "").startswith("<0x")]
    bad = next(i for i in range(999) if tokenizer.token(i) == "<0xFF>")
    assert tokenizer.decode([*good, bad, *good]) == "Ω\ufffdΩ"


def test_a_file_that_is_no_tokenizer_is_one_sentence() -> None:
    with pytest.raises(ArtifactError, match=r"^tokenizer\.json cannot be read\. .*Build the"):
        Tokenizer(b"{}")


def test_a_decoder_that_cannot_be_streamed_is_refused() -> None:
    raw = json.loads(byte_level())
    raw["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(UnsupportedError, match='decoder "WordPiece" is not supported'):
        Tokenizer(json.dumps(raw))
