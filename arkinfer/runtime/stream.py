"""Text as tokens arrive: never half a character, never the beginning of a stop string.

Knows no model and no sampling. Cost is linear in the number of tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from arkinfer.runtime.tokenizer import Tokenizer


class TextStream:
    """Turns tokens into pieces of text; the pieces joined are the tokens' text.

    Args:
        tokenizer: what spells the tokens.
        stop: texts that end the stream; neither they nor what follows them is given out.
        continuation: the tokens go on from text before them, so that a leading space counts.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, continuation: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = StopStrings(stop)
        self._first = not continuation

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self._stop.found is not None

    def push(self, token_id: int) -> str:
        """The text that is certain now; often "", sometimes more than the token's own."""
        data = self._tokenizer.token_bytes(token_id, first=self._first)
        if data is None:
            return ""
        self._first = False
        return self._stop.push(self._characters.decode(data))

    def finish(self) -> str:
        """What was held back, at the end; an unfinished character becomes U+FFFD."""
        rest = self._stop.push(self._characters.decode(b"", final=True))
        return rest + self._stop.finish()


class StopStrings:
    """Passes text through up to the first stop string, however the text is cut into pieces.

    The first is the one that is complete first; of two that end together, the longer.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        self._strings = tuple(dict.fromkeys(s for s in strings if s))
        self._pending = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that cannot be part of a stop string."""
        if self.found is not None:
            return ""
        self._pending += text
        ends = [
            (start + len(string), start, string)
            for string in self._strings
            if (start := self._pending.find(string)) >= 0
        ]
        if ends:
            _, start, self.found = min(ends)
            return self._take(start)
        return self._take(len(self._pending) - held_back(self._pending, self._strings))

    def finish(self) -> str:
        """What was held back and is no stop string after all."""
        return "" if self.found is not None else self._take(len(self._pending))

    def _take(self, count: int) -> str:
        given, self._pending = self._pending[:count], self._pending[count:]
        return given


def held_back(text: str, strings: Sequence[str]) -> int:
    """How many characters at the end of `text` may begin one of `strings`.

    >>> held_back("so be it <|im_", ["<|im_end|>", "<s>"])
    5
    """
    longest = max(map(len, strings), default=1) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(len(s) > count and s.startswith(text[-count:]) for s in strings):
            return count
    return 0
