"""A tokenizer.json: loaded by the library whole and apart, then encoding, guarding and decoding."""

from __future__ import annotations

import json

import tokenizers

from arkinfer.errors import ArkError, ArtifactError, UnsupportedError
from arkinfer.limits import LimitError
from arkinfer.runtime.tokenizer import Tokenizer
from arkinfer.runtime.tokenizer_memory import load_apart
from fuzz.files import refusing

_WORDS = """normalizer pre_tokenizer decoder model added_tokens Sequence Split Replace Prepend Regex
 String pattern content behavior ByteLevel Metaspace prepend_scheme first never always BPE Unigram
 WordLevel WordPiece merges vocab byte_fallback special normalized lstrip ByteFallback Fuse Strip
 NFKC Precompiled unk_token type id a+ (?:a|b) \\p{L}+ \\s+(?!\\S) [^\\r\\n]"""
DICTIONARY = [*_WORDS.split(), "\ufdd0"]
IS_JSON = True
LENGTH = 6000
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def seeds() -> list[bytes]:
    """SentencePiece as MiniCPM and byte-level as Llama 3, each with few tokens."""
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False}  # fmt: skip
    added = [{"id": 0, "content": "<s>", **special}, {"id": 1, "content": "<|im_end|>", **special}]
    letters = {text: i for i, text in enumerate(["<s>", "<|im_end|>", "<unk>", "\u2581", "a", "b",
                                                "ab", "Ġ", "<0x21>"])}  # fmt: skip
    bpe = {"type": "BPE", "vocab": letters, "merges": ["a b"], "unk_token": "<unk>",
           "byte_fallback": True, "fuse_unk": True}  # fmt: skip
    sentencepiece = {
        "version": "1.0", "added_tokens": added, "model": bpe,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    }  # fmt: skip
    byte_level = {
        "version": "1.0", "added_tokens": added, "model": {**bpe, "merges": [["a", "b"]]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _GPT4}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
    }  # fmt: skip
    metaspace = {
        "version": "1.0", "added_tokens": added,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<s>", 0.0], ["a", -1], ["b", -2.5]]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first",
                          "split": True},
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first",
                    "split": True},
    }  # fmt: skip
    kinds = (sentencepiece, byte_level, metaspace)
    return [json.dumps(kind, ensure_ascii=False).encode() for kind in kinds]


def one(data: bytes) -> None:
    with refusing(ArtifactError, UnsupportedError):
        tokenizer = Tokenizer(data, bos=0)
        said = tokenizer.guard("<s>ab  a\n<|im_end|>" + "a" * 200 + " b" * 50)
        ids = tokenizer.encode("<s>" + said, guarded=True) + tokenizer.encode("ab 12 !ü")
        tokenizer.decode([*ids, 10**6])
        _compare(data)


def _compare(data: bytes) -> None:
    """As large files are loaded; what is not written plainly or not strict JSON never is."""
    try:
        apart = load_apart(data, 1 << 40)
    except (ArkError, LimitError):
        return
    whole = tokenizers.Tokenizer.from_buffer(data)
    assert _told(apart) == _told(whole), "the two ways of loading differ"


def _told(tokenizer: tokenizers.Tokenizer) -> list[object]:
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    states = [None if part is None else part.__getstate__() for part in parts]
    added = {i: repr(token) for i, token in tokenizer.get_added_tokens_decoder().items()}
    return [tokenizer.get_vocab(with_added_tokens=False), added, *states]
