"""Has the library load a tokenizer.json in no more memory than twice the file and 64 MiB.

The library reads a whole file by way of two trees of JSON values. Small files go that way; the
vocabulary and the merges of a large BPE are handed to it apart, token by token. Knows nothing of
what the tokenizer's parts do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from arkinfer.errors import InternalError, UnsupportedError
from arkinfer.limits import parse_json

if TYPE_CHECKING:
    import tokenizers

_SPARE = 64 << 20
_PER_BYTE, _PER_MARK, _PER_ADDED, _PER_UNIGRAM, _PER_PATTERN = 5, 450, 60, 320, 3200
"""The most that is taken for a byte of the file, for a `,`, `:`, `[` or `{`, for a byte of an added
token, for one of a Unigram model, and for a character of a regular expression (measured with
tokenizers 0.23: 4.3, 422, 56, 270 and 3,060)."""

_SPACE = rb"[ \t\n\r]*"
_TEXT = rb'"([^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*)"'
_CONTENT = re.compile(rb'"content"\s*:\s*' + _TEXT)
_VOCAB = re.compile(rb'"vocab"\s*:\s*(?=\{)')
_MERGES = re.compile(rb'"merges"\s*:\s*(?=\[)')
_UNIGRAM = re.compile(rb'"vocab"\s*:\s*\[')
_ENTRY = re.compile(
    _SPACE.join([b"", _TEXT, b":", rb"(0|[1-9][0-9]{0,8})", rb"[,}]"])
)  # so that an id has no sign, no fraction and 32 bits
_PAIR = re.compile(_SPACE.join([b"", rb"\[", _TEXT, b",", _TEXT, rb"\]", rb"[,\]]"]))
_LINE = re.compile(_SPACE.join([b"", _TEXT, rb"[,\]]"]))
_UNCOUNTED = {_ENTRY: -32, _LINE: 32}
"""What a group is taken for that is no text, and what a text is that will be two."""
_HOLE = "\ufdd0 taken out"

_OPTIONS = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
            "byte_fallback", "ignore_merges")  # fmt: skip
_ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def load_within(source: bytes, patterns: int = 0) -> tokenizers.Tokenizer:
    """The library's tokenizer, the same as its own `from_buffer` makes.

    Args:
        source: the bytes of tokenizer.json, whose plain letters are written as such.
        patterns: characters of all regular expressions in it.

    Raises:
        UnsupportedError: it could take more memory.
        LimitError: it is no tokenizer.json.
        Exception: whatever the library raises.
    """
    import tokenizers

    most = _SPARE + 2 * len(source) - _PER_PATTERN * patterns
    if _cost(source) <= most:
        return tokenizers.Tokenizer.from_buffer(source)
    return load_apart(source, most)


def load_apart(source: bytes, most: int) -> tokenizers.Tokenizer:
    """The same in at most that many bytes, vocabulary and merges apart; see `load_within`."""
    import tokenizers

    vocab = _walk(source, _VOCAB.search(source), _ENTRY)
    at = _MERGES.search(source, vocab.place.stop) or _MERGES.search(source, 0, vocab.place.start)
    merges = _walk(source, at, _PAIR, _LINE)
    rest = _without(source, vocab.place, merges.place)
    if _cost(rest) + _cost_apart(vocab, merges) > most:
        raise _too_large()
    small = tokenizers.Tokenizer.from_buffer(rest)
    options = {name: getattr(small.model, name) for name in _OPTIONS}
    given = {name: value for name, value in options.items() if value is not None}
    ids = {_plain(token): int(number) for token, number in vocab.items(source)}
    number, lazily = len(ids), cast("Any", _Merges(source, merges, ids))
    whole = tokenizers.Tokenizer(tokenizers.models.BPE(ids, lazily, **given))
    if whole.get_vocab_size() != number:
        raise InternalError("The library asked for the merges before it had the vocabulary")
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (part := getattr(small, name)) is not None:
            setattr(whole, name, part)
    listed = json.loads(rest).get("added_tokens", [])  # in this order they get their ids
    whole.add_tokens([tokenizers.AddedToken(**{k: one[k] for k in _ADDED}) for one in listed])
    return whole


def _cost(source: bytes) -> int:
    """The most bytes that the library takes to load it as a whole."""
    marks = sum(map(source.count, (b",", b":", b"[", b"{")))
    added = sum(len(match[1]) for match in _CONTENT.finditer(source))
    each = _PER_UNIGRAM if _UNIGRAM.search(source) else _PER_BYTE
    return _PER_MARK * marks + _PER_ADDED * added + each * len(source)


@dataclass(frozen=True)
class _Part:
    """A vocabulary or a list of merges as it stands in the file.

    Attributes:
        place: from its first bracket to its last.
        item: the form of its items.
        number: of items.
        texts: bytes that an allocator gives for the texts in them.
    """

    place: slice
    item: re.Pattern[bytes]
    number: int
    texts: int

    @property
    def slots(self) -> int:
        """Of a hash table of that many; it doubles when seven eighths are full."""
        return 1 << (self.number * 8 // 7 - 1).bit_length()

    def items(self, source: bytes) -> Iterator[tuple[bytes, ...]]:
        for match in self.item.finditer(source, self.place.start + 1, self.place.stop):
            yield match.groups()


class _Merges:
    """The pairs of tokens as a sequence, each made when it is asked for.

    By then the library has the vocabulary, which goes to make room.
    """

    def __init__(self, source: bytes, part: _Part, vocab: dict[str, int]) -> None:
        self._source, self._part, self._vocab = source, part, vocab

    def __len__(self) -> int:
        return self._part.number

    def __getitem__(self, index: int) -> tuple[str, ...]:
        """The library takes nothing for a sequence without this, but never uses it."""
        return next(islice(self, index, None))

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        self._vocab.clear()
        for texts in self._part.items(self._source):
            merge = tuple(map(_plain, texts))
            if len(merge) == 1:
                if merge[0].startswith("#version"):  # which the library skips
                    continue
                merge = tuple(merge[0].split(" "))
            yield merge


def _plain(text: bytes) -> str:
    return str(json.loads(b'"' + text + b'"')) if b"\\" in text else text.decode()


def _cost_apart(vocab: _Part, merges: _Part) -> int:
    """The most bytes that it takes to hand them over.

    First the vocabulary, from Python's table to one that may just grow; then two tables of it, and
    the merges as texts and in a table (measured with tokenizers 0.23: 70 to 100 % of it).
    """
    first = 2 * vocab.texts + 100 * vocab.number + 50 * vocab.slots
    then = 2 * vocab.texts + 26 * vocab.number + 66 * vocab.slots
    then += merges.texts + 50 * merges.number + 26 * merges.slots
    return (1 << 20) + max(first, then)


def _walk(source: bytes, before: re.Match[bytes] | None, *kinds: re.Pattern[bytes]) -> _Part:
    """The object or list that begins after a match; all its items are of one of the kinds."""
    start = before.end() if before else 0
    for item in kinds if before else ():
        at, number, texts = start + 1, 0, 0
        while (match := item.match(source, at)) is not None:
            at, number = match.end(), number + 1
            for a, b in match.regs[1:]:
                texts += b - a + 23 if b - a > 9 else 32
            if source[at - 1 : at] != b",":
                texts += _UNCOUNTED.get(item, 0) * number
                return _Part(slice(start, at), item, number, texts)
    raise _too_large()


def _without(source: bytes, *places: slice) -> bytes:
    """The file with an empty vocabulary and no merges, once it is sure that they were a BPE's."""
    first, last = sorted(places, key=lambda place: place.start)
    hole = json.dumps(_HOLE).encode()
    outside = (source[: first.start], source[first.stop : last.start], source[last.stop :])
    whole = parse_json(hole.join(outside))
    model: Any = cast("dict[str, Any]", whole).get("model") if isinstance(whole, dict) else None
    facts = isinstance(model, dict) and [model.get(key) for key in ("vocab", "merges", "type")]
    if facts != [_HOLE, _HOLE, "BPE"]:  # without its type, a broken BPE may pass for a WordPiece
        raise _too_large()
    model.update(vocab={}, merges=[])
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def _too_large() -> UnsupportedError:
    return UnsupportedError(
        "The tokenizer is too large",
        "Loading it could take more memory than twice its size and 64 MiB",
        "Use a checkpoint of the MiniCPM family or a plain Llama",
    )
