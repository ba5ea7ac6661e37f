"""Text to token ids and back, with exactly one BOS. Knows no model, no template and no stop rule.

Special tokens in text:

- A *raw* prompt is the caller's own: special tokens spelled in it are recognised, as in
  llama.cpp and vLLM completions, so that any prompt format can be written by hand.
- In a *chat*, only those that the template writes are recognised. What a user or a tool says is
  marked by `Tokenizer.guard` before rendering; "<|im_end|>" in it is then ordinary text that ends
  no turn, and the HTML tag "<s>" stays an HTML tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from arkinfer.errors import ArtifactError, UnsupportedError, UsageError
from arkinfer.runtime.tokenizer_file import GUARD, load, spec, unless_interrupt

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """The model's tokenizer, from its tokenizer.json.

    Args:
        source: the bytes of tokenizer.json.
        bos: the id that every sequence starts with; None: the model has no such token.

    Raises:
        ArtifactError: `source` is not a tokenizer.
        UnsupportedError: its decoder is of a kind that cannot be streamed, or one of its steps
            could run on without an end (see `tokenizer_file`).
    """

    def __init__(self, source: bytes | str, *, bos: int | None = None) -> None:
        self._source = source.encode() if isinstance(source, str) else source
        self._tokenizer = load(self._source)
        self.bos = bos
        added = self._tokenizer.get_added_tokens_decoder()
        self.special = {str(t.content): i for i, t in sorted(added.items()) if t.special}
        """Ids of special tokens by their text."""
        self._special_ids = frozenset(self.special.values())
        self._decoder = ByteDecoder(spec(self._tokenizer.decoder))
        self._bytes: dict[int, bytes | None] = {}

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included; the model's own vocabulary may be padded beyond."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None when there is none of that id."""
        return self._tokenizer.id_to_token(token_id)

    def encode(self, text: str, *, guarded: bool = False) -> list[int]:
        """Token ids, with one BOS in front where the model has one and `text` brings none.

        The post-processor of tokenizer.json is not applied: whether it adds a BOS is known not
        to be reliable (templates write one, too), so that the BOS is added here and only here.

        Args:
            text: what to encode.
            guarded: `text` was rendered from guarded messages; see `guard`.

        Raises:
            UsageError: `text` has half a surrogate pair, as Python makes of bytes that are not
                UTF-8.
            ArtifactError: the tokenizer gives up on the text.
        """
        if not text.isascii() and _SURROGATE.search(text):
            raise UsageError(
                "The prompt is not valid Unicode",
                "It has bytes that are not UTF-8",
                "Convert it to UTF-8",
            )
        if guarded and GUARD in text:
            ids = self._encode_guarded(text)
        else:
            ids = _encode(self._tokenizer, text)
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]

    def guard(self, text: str) -> str:
        """Marks special tokens in somebody's text, so that `encode(guarded=True)` sees none."""
        text = text.replace(GUARD, "")
        while self._special_text.search(text):
            text = self._special_text.sub(lambda m: m[0][0] + GUARD + m[0][1:], text)
        return text

    def decode(self, ids: Iterable[int]) -> str:
        """Text of tokens without special ones; invalid UTF-8 becomes U+FFFD.

        Equals `tokenizers`' own decoding, except that a run of byte-fallback tokens with one
        invalid byte loses that byte and not the whole run.
        """
        parts: list[bytes] = []
        for token_id in ids:
            data = self.token_bytes(token_id, first=not parts)
            if data is not None:
                parts.append(data)
        return b"".join(parts).decode(errors="replace")

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes | None:
        """UTF-8 bytes that a token adds to text; None for special and unknown ones.

        Args:
            token_id: the token.
            first: it begins the text, where SentencePiece drops the space that it put in front.
        """
        if first:
            return self._spell(token_id, first=True)
        if token_id not in self._bytes:
            self._bytes[token_id] = self._spell(token_id, first=False)
        return self._bytes[token_id]

    def _spell(self, token_id: int, *, first: bool) -> bytes | None:
        token = None if token_id in self._special_ids else self.token(token_id)
        return None if token is None else self._decoder(token, first=first)

    def _encode_guarded(self, text: str) -> list[int]:
        """Each part between special tokens by itself, as the library does it, but literally."""
        ids: list[int] = []
        literal = self._literal
        for index, part in enumerate(self._special_text.split(text)):
            if index % 2:
                ids.append(self.special[part])
            elif plain := part.replace(GUARD, ""):
                ids += _encode(literal, plain)
            if part:
                literal = self._literal_inside
        return ids

    @cached_property
    def _special_text(self) -> re.Pattern[str]:
        """Longest first; a special token of one character cannot be broken up, so is left out."""
        texts = sorted((t for t in self.special if len(t) > 1), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else r"(?!)()")

    @cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        """A second instance that reads special tokens as ordinary text."""
        tokenizer = load(self._source)
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def _literal_inside(self) -> tokenizers.Tokenizer:
        """The same for parts that do not begin the text, where Metaspace may put no space."""
        import tokenizers

        tokenizer = load(self._source)
        step = spec(tokenizer.pre_tokenizer) or {}
        spaces = [s for s in (step, *step.get("pretokenizers", ())) if s.get("type") == "Metaspace"]
        if all(space.get("prepend_scheme") != "first" for space in spaces):
            return self._literal
        for space in spaces:
            space["prepend_scheme"] = "never"
        changed = tokenizers.pre_tokenizers.Metaspace()
        changed.__setstate__(json.dumps(step).encode())
        tokenizer.pre_tokenizer = changed
        tokenizer.encode_special_tokens = True
        return tokenizer


class ByteDecoder:
    """Turns one token's text into the bytes it stands for, as the decoder of tokenizer.json does.

    Covers the two families in use: byte-level BPE (GPT-2's byte alphabet) and SentencePiece
    (U+2581 for a space, <0xNN> for a byte). Source: the decoders of Hugging Face tokenizers.

    Args:
        spec: the "decoder" object of tokenizer.json.

    Raises:
        UnsupportedError: a decoder that is neither, or whose output depends on later tokens.
    """

    def __init__(self, spec: dict[str, Any] | None) -> None:
        self._replace: list[tuple[str, str]] = []
        self._byte_level = self._byte_fallback = False
        self._first_drops = ""  # what is taken out of the whole first token
        self._first_strips = b""  # what is cut once from the front of the first token
        steps = (spec or {"type": "none"}).get("decoders") or [spec or {"type": "none"}]
        for step in steps:
            self._add(step)

    def _add(self, step: dict[str, Any]) -> None:
        kind = step["type"]
        if kind == "ByteLevel":
            self._byte_level = True
        elif kind == "ByteFallback":
            self._byte_fallback = True
        elif kind == "Replace" and _shrinks(step):
            self._replace.append((step["pattern"]["String"], step["content"]))
        elif kind == "Metaspace":
            self._replace.append((step["replacement"], " "))
            if step.get("prepend_scheme", "always") != "never":
                self._first_drops = step["replacement"]
        elif kind == "Strip" and step["start"] <= 1 and step["stop"] == 0:
            self._first_strips = step["content"].encode() * step["start"]
        elif kind != "Fuse":
            raise UnsupportedError(
                f'The tokenizer\'s decoder "{kind}" is not supported',
                "arkinfer streams byte-level BPE and SentencePiece tokenizers",
                "Use a checkpoint of the MiniCPM family or a plain Llama",
            )

    def __call__(self, token: str, *, first: bool) -> bytes:
        if self._byte_level:
            try:
                return bytes(_BYTE_ALPHABET[c] for c in token)
            except KeyError:  # an added token, spelled as it is
                return token.encode()
        if first and self._first_drops:
            token = token.replace(self._first_drops, "")
        for old, new in self._replace:
            token = token.replace(old, new)
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        data = bytes([int(byte[1], 16)]) if byte else token.encode()
        return data.removeprefix(self._first_strips) if first else data


def _shrinks(step: dict[str, Any]) -> bool:
    """Whether a step replaces a text by one that is no longer: a row of others would explode."""
    text = step["pattern"].get("String", "")
    return bool(text) and len(step["content"]) <= len(text)


_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte. Source: `bytes_to_unicode` of GPT-2's encoder."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {chr(byte): byte for byte in printable}
    return stand_ins | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_ALPHABET = _byte_alphabet()


def _encode(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException as error:  # a panic of the library is no Exception
        refused = ArtifactError(
            "tokenizer.json cannot encode this text", str(error), "Build the artifact again"
        )
        raise unless_interrupt(error, refused) from error
