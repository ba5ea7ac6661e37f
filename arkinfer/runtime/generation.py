"""One answer in the making: an iterator of text that also says how it went.

Knows no artifact, no template and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter

from arkinfer.runtime.sampling import Sampler
from arkinfer.runtime.session import Progress, Session
from arkinfer.runtime.stop import FinishReason
from arkinfer.runtime.stream import TextStream


@dataclass
class Timings:
    """Seconds of computing, without what the caller does between two pieces.

    Attributes:
        prefill: seconds until the first token.
        decode: seconds of all tokens after it.
        prefill_tokens: prompt tokens that were computed.
        reused_tokens: prompt tokens that the caches still held from before.
        decode_tokens: tokens after the first.
    """

    prefill: float = 0.0
    decode: float = 0.0
    prefill_tokens: int = 0
    reused_tokens: int = 0
    decode_tokens: int = 0

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """None: not measured."""
        return self.prefill_tokens / self.prefill if self.prefill and self.prefill_tokens else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """None: not measured."""
        return self.decode_tokens / self.decode if self.decode and self.decode_tokens else None


class Generation(Iterator[str]):
    """Pieces of text as they become certain; made by `Engine.generate` and `Engine.chat`.

    Computing starts with the first piece. An exception inside, KeyboardInterrupt too, ends it as
    "cancelled" and leaves the engine usable; so do `close` and dropping it half-way.

    Attributes:
        tokens: ids that were sampled so far; a stop token is the last of them.
        finish_reason: "stop", "length" or "cancelled"; None: not finished.
        prompt_tokens: length of the prompt, BOS and template included.
        timings: see `Timings`.
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        limit: int,
        sampler: Sampler,
        stream: TextStream,
        stop_ids: Collection[int],
        acquire: Callable[[], Session],
        release: Callable[[Session], None],
        progress: Progress | None = None,
    ) -> None:
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = len(prompt)
        self.timings = Timings()
        self._parts: list[str] = []
        self._prompt, self._limit, self._stop_ids = prompt, limit, stop_ids
        self._sampler, self._stream = sampler, stream
        self._acquire, self._release, self._progress = acquire, release, progress
        self._pieces = self._run()

    @property
    def text(self) -> str:
        """What was given out so far; no stop token or stop string, and no special tokens."""
        return "".join(self._parts)

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        self._parts.append(piece)
        return piece

    def close(self) -> None:
        """Ends the answer here; nothing happens when it has ended."""
        self._pieces.close()
        if self.finish_reason is None:
            self.finish_reason = "cancelled"

    def read(self) -> str:
        """Runs to the end; the whole text."""
        for _ in self:
            pass
        return self.text

    def _run(self) -> Generator[str, None, None]:
        session = self._acquire()
        try:
            yield from self._decode(session)
        finally:
            self.finish_reason = self.finish_reason or "cancelled"
            self._release(session)

    def _decode(self, session: Session) -> Iterator[str]:
        start = perf_counter()
        # One token at least is computed: the caches hold no logits.
        reused = session.resume(self._prompt[:-1])
        self.timings.reused_tokens = reused
        self.timings.prefill_tokens = len(self._prompt) - reused
        logits = session.extend(self._prompt[reused:], self._progress)
        token = self._sampler.sample(logits)
        self.timings.prefill = perf_counter() - start
        while True:
            piece, reason = self._take(token)
            if piece:
                yield piece
            if reason is not None:
                self.finish_reason = reason
                return
            start = perf_counter()
            token = self._sampler.sample(session.extend([token]))
            self.timings.decode += perf_counter() - start
            self.timings.decode_tokens += 1

    def _take(self, token: int) -> tuple[str, FinishReason | None]:
        """Notes a token; the text that it makes certain, and why the answer ends, if it does."""
        self.tokens.append(token)
        if token in self._stop_ids:
            return self._stream.finish(), "stop"
        piece = self._stream.push(token)
        if self._stream.stopped:
            return piece, "stop"
        if len(self.tokens) >= self._limit:
            return piece + self._stream.finish(), "length"
        return piece, None
