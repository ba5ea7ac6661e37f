"""Loads a tokenizer.json within limits: its patterns must not run on, its steps must not grow text.

The library (tokenizers, in Rust) bounds neither, and reports some failures by panics. Knows no
model, no prompt and no decoding; what loading may take is known to `tokenizer_memory`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from arkinfer.errors import ArkError, ArtifactError, UnsupportedError
from arkinfer.limits import TOKENIZER_BYTES, LimitError
from arkinfer.runtime.tokenizer_memory import load_within

if TYPE_CHECKING:
    import tokenizers

GUARD = "\ufdd0"
"""A Unicode noncharacter (never in text that is interchanged) that breaks a special token up."""

MOST_STEPS = 32
"""Normalizers and pre-tokenizers; five are usual."""
MOST_ADDED = 20_000
"""Tokens beside the model's vocabulary; Gemma has 6,400."""
LONGEST_SPECIAL = 256
"""Characters of an added token; 30 are many."""
LONGEST_PATTERN = 2000

_NORMALIZERS = frozenset(
    {"Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Strip", "StripAccents"}
)
_PRE_TOKENIZERS = frozenset(
    {"BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation",
     "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"}
)  # fmt: skip
_REGEX = re.compile(rb'"Regex"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")')
_HIDDEN = re.compile(rb"(?i)(?<!\\)(?:\\\\)*\\u00(?:4[1-9a-f]|5[0-9a]|6[1-9a-f]|7[0-9a])")
"""Plain letters written as escapes, which no program does: "Regex" is looked for in the bytes."""


def load(source: bytes) -> tokenizers.Tokenizer:
    """The library's tokenizer, without truncation and padding.

    Raises:
        ArtifactError: it is not a tokenizer.json.
        UnsupportedError: a step or a pattern of a kind whose work is not bounded, or a file that
            could take more memory than twice its size and 64 MiB.
    """
    if len(source) > TOKENIZER_BYTES:
        raise _unreadable(f"It has more than {TOKENIZER_BYTES:,} bytes")
    if source.count(b'"content"') > MOST_ADDED:
        raise _unreadable(f"It has more than {MOST_ADDED:,} added tokens")
    if _HIDDEN.search(source):
        raise _unreadable("It writes plain letters as escapes")
    patterns = [_text(match[1]) for match in _REGEX.finditer(source)]
    for pattern in patterns:  # before the library compiles them
        check_pattern(pattern)
    try:
        tokenizer = load_within(source, sum(map(len, patterns)))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except ArkError:
        raise
    except LimitError as error:
        raise _unreadable(f"Reason: {error}") from error
    except BaseException as error:  # a panic of the library is no Exception
        raise unless_interrupt(error, _unreadable(str(error))) from error
    _check_steps(tokenizer)
    _check_tokens(tokenizer)
    return tokenizer


def spec(part: Any) -> dict[str, Any] | None:
    """A normalizer, pre-tokenizer or decoder as it stands in tokenizer.json; None: there is none.

    Asked of the library, whose reading of a file is the one that counts.
    """
    return None if part is None else json.loads(part.__getstate__())


def unless_interrupt(error: BaseException, other: ArtifactError) -> BaseException:
    """What to raise for an exception of the library: the user's Ctrl-C stays that."""
    return error if isinstance(error, (KeyboardInterrupt, SystemExit)) else other


def check_pattern(pattern: str) -> None:
    """Refuses a regular expression that takes more than linear time at one place of a text.

    Accepted: in each branch at most one unbounded repeat (`*`, `+`, `{n,}`) that something may
    still fail after, and no repeat of a group that has repeats or branches in it. All published
    patterns of GPT-2 to GPT-4o, Llama 3, Qwen and DeepSeek are of this kind.

    Raises:
        UnsupportedError: another one.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise _pattern(pattern, f"It is longer than {LONGEST_PATTERN:,} characters")
    groups, ended, repeated = [_Group()], None, False
    for match in _TOKENS.finditer(pattern):
        kind, text, group = str(match.lastgroup), match[0], groups[-1]
        before, ended, twice, repeated = ended, None, repeated, False
        if kind in ("refused", "unclosed") or (kind == "close" and len(groups) == 1):
            raise _pattern(pattern, f'It has "{text}"')
        if kind == "close":
            ended = groups.pop()
            groups[-1].take(ended)
        elif kind == "branch":
            group.branch()
        elif kind == "repeat":
            if text != "?" and before is not None and before.varies:
                raise _pattern(pattern, "It repeats a group that repeats or branches in itself")
            if twice and text not in ("?", "+"):
                raise _pattern(pattern, "It repeats a repeat")
            if max(map(int, re.findall("[0-9]{1,9}", text)), default=0) > 256:
                raise _pattern(pattern, "It repeats something more than 256 times")
            group.varies = repeated = True
            if not twice:
                group.repeat(text)
        elif kind != "flags":
            group.item()
            if kind == "open":
                groups.append(_Group())
        if groups[0].failing > 1 or groups[-1].failing > 1:
            raise _pattern(pattern, "Two unbounded repeats stand before something that may fail")
    groups[0].settle()
    if groups[0].failing > 1:
        raise _pattern(pattern, "Two unbounded repeats stand before something that may fail")


@dataclass
class _Group:
    """A group of a pattern, as far as it was read.

    Attributes:
        unbounded: repeats of its present branch.
        most: those of the branch that has most.
        pending: repeats before the last item, which may turn out to be optional.
        failing: the most repeats that stand before something that may fail.
        varies: whether it repeats or branches.
    """

    unbounded: int = 0
    most: int = 0
    pending: int = 0
    failing: int = 0
    varies: bool = False

    def settle(self) -> None:
        """The last item is not optional."""
        self.failing, self.pending = max(self.failing, self.pending), 0

    def item(self) -> None:
        self.settle()
        self.pending = self.unbounded

    def repeat(self, text: str) -> None:
        if text in ("?", "*") or text.startswith(("{0", "{,")):
            self.pending = 0
        self.unbounded += text in ("*", "+") or text.endswith(",}")

    def branch(self) -> None:
        self.settle()
        self.most, self.unbounded, self.varies = max(self.most, self.unbounded), 0, True

    def take(self, inner: _Group) -> None:
        """A group in it has ended."""
        inner.settle()
        if inner.failing:
            self.failing = max(self.failing, self.unbounded + inner.failing)
        self.unbounded += max(inner.most, inner.unbounded)
        self.varies |= inner.varies


_TOKENS = re.compile(
    r"""(?P<refused>\\[1-9gkKQRXyY] | \(\?(?![:=!>]|<[=!]|[ims-]+[:)]) | \(\*)
      | (?P<flags>\(\?[ims-]+\))
      | (?P<escape>\\.)
      | (?P<set>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\\[])*\])
      | (?P<unclosed>\[)
      | (?P<open>\((?:\?(?:[:=!>]|<[=!]|[ims-]+:))?)
      | (?P<close>\))
      | (?P<branch>\|)
      | (?P<repeat>[*+?]|\{[0-9]*,?[0-9]*\})
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def _check_steps(tokenizer: tokenizers.Tokenizer) -> None:
    grown = 0
    normalizers, pre_tokenizers = (
        list(_steps(part, "normalizers", "pretokenizers"))
        for part in (tokenizer.normalizer, tokenizer.pre_tokenizer)
    )
    if len(normalizers) + len(pre_tokenizers) > MOST_STEPS:
        raise _step("It has too many steps", f"{MOST_STEPS} are read")
    for step in normalizers:
        if step["type"] not in _NORMALIZERS:
            raise _step(f"Its normalizer {step['type']} is not supported")
        if step["type"] == "Prepend" and len(step["prepend"]) > LONGEST_SPECIAL:
            raise _step("Its normalizer Prepend adds a long text")
        if step["type"] == "Replace":
            text = cast("dict[str, str]", step["pattern"]).get("String")
            grown += text is None or not text
            if len(step["content"]) > max(1, len(text or "")) or grown > 4:
                raise _step("Its normalizer Replace makes text longer")
    for step in pre_tokenizers:
        if step["type"] not in _PRE_TOKENIZERS:
            raise _step(f"Its pre-tokenizer {step['type']} is not supported")


def _steps(part: Any, *inner: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, of sequences their parts."""
    whole = spec(part)
    waiting = [] if whole is None else [whole]
    while waiting:
        step = waiting.pop()
        if step["type"] != "Sequence":
            yield step
        for key in inner:
            waiting += step.get(key, ())


def _check_tokens(tokenizer: tokenizers.Tokenizer) -> None:
    model = tokenizer.model
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(getattr(model, name, None) or "") > LONGEST_SPECIAL:
            raise _unreadable(f"Its {name} is too long")
    for token in tokenizer.get_added_tokens_decoder().values():
        if len(token.content) > LONGEST_SPECIAL or GUARD in token.content:
            raise _unreadable("An added token is too long, or has a character that is no text")


def _text(literal: bytes) -> str:
    try:
        return str(json.loads(literal))
    except ValueError as error:
        raise _unreadable(str(error)) from error


def _unreadable(why: str) -> ArtifactError:
    return ArtifactError("tokenizer.json cannot be read", why, "Build the artifact again")


_FIX = "Use a checkpoint of the MiniCPM family or a plain Llama"


def _step(what: str, why: str = "Its work is not bounded") -> UnsupportedError:
    return UnsupportedError(f"The tokenizer cannot be used. {what}", why, _FIX)


def _pattern(pattern: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"The tokenizer's pattern {pattern[:200]!r} could run on without an end", why, _FIX
    )
