"""Runs an artifact: logits, raw generation and chat. Knows no torch, no IR and no backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from arkinfer.artifact import open_artifact
from arkinfer.errors import UsageError
from arkinfer.runtime.chat import ChatTemplate, Message, with_system
from arkinfer.runtime.contract import Chosen, Executable, Executor, FloatArray, LoadOptions
from arkinfer.runtime.demo import located
from arkinfer.runtime.generation import Generation
from arkinfer.runtime.later import Later
from arkinfer.runtime.registry import open_section
from arkinfer.runtime.sampling import Sampler, SamplingParams
from arkinfer.runtime.session import Progress, Session
from arkinfer.runtime.stream import TextStream
from arkinfer.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact


def load(
    path: str | Path,
    *,
    backend: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    executor: Executor | None = None,
    device: str | None = None,
    options: LoadOptions | None = None,
) -> Engine:
    """Opens an artifact and loads one of its sections; close it, or use it in `with`.

    Args:
        path: an .ark file, or "demo" or "demo-ternary" for a model that comes with arkinfer.
        backend: whose section to run; None: the first, which is what the target asked for.
        threads: worker threads; None: what the backend finds best for this machine.
        context: room for prompt and answer, in tokens; None: all that the artifact has.
        executor: what runs the section; None: the installed one of the section's backend.
        device: "cpu" or "gpu": the first section that runs there, instead of `backend`.
        options: all else that there is to say of opening the section; `threads` wins over it.

    Raises:
        UsageError: no such file, no such section, or an impossible number.
        ArtifactError: the file is damaged or needs a newer arkinfer.
        DeviceError: this device lacks what the section needs.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads cannot be {threads}", "", "Give at least 1")
    artifact = open_artifact(located(path))
    try:
        tokenizer = Later(partial(_tokenizer, artifact))  # while the weights are loaded
        asked = options or LoadOptions()
        asked = asked if threads is None else replace(asked, threads=threads)
        name, executable = open_section(artifact, backend, asked, executor, device)
        try:
            return Engine(artifact, executable, tokenizer, backend=name, context=context)
        except BaseException:
            executable.close()
            raise
    except BaseException:
        artifact.close()
        raise


class Engine:
    """A loaded artifact; a context manager. Made by `load`.

    One state is kept between calls, and a prompt that begins as the last one did, such as the
    next turn of a chat, computes its new tokens only. A generation that starts while another one
    is unfinished gets a state of its own (and its memory). Not for use by two threads at once.

    Attributes:
        context: room for prompt and answer, in tokens.
        artifact: the open file.
        manifest: its manifest.
        executable: the loaded section.
        backend: the name of its backend.
        sampling: what the checkpoint's generation config recommends; `arkinfer run` uses it.
    """

    def __init__(
        self,
        artifact: Artifact,
        executable: Executable,
        tokenizer: Later[Tokenizer],
        *,
        backend: str,
        context: int | None = None,
    ) -> None:
        self.artifact = artifact
        self.executable = executable
        self.manifest = artifact.manifest
        self.backend = backend
        self.context = _context(context, executable.max_context)
        self.sampling = SamplingParams.from_generation(
            cast("dict[str, Any]", self.manifest.get("generation", {}))
        )
        self._tokenizer = tokenizer
        self._idle: Session | None = None
        self._closed = False

    @property
    def vocab_size(self) -> int:
        """Columns of the logits; the tokenizer may know fewer tokens."""
        return self.executable.vocab_size

    @property
    def variant(self) -> str | None:
        """The instruction set whose kernels run here; None: the section has no choice of them."""
        return self.executable.variant if isinstance(self.executable, Chosen) else None

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer.

        Raises:
            ArtifactError: it has none, or one that cannot be read.
            UnsupportedError: one that cannot be streamed.
        """
        return self._tokenizer.get()

    @cached_property
    def template(self) -> ChatTemplate:
        """The artifact's chat template.

        Raises:
            UsageError: it has none; no other one is guessed.
        """
        if "chat_template.jinja" not in self.artifact:
            raise UsageError(
                "This model has no chat template",
                "Its checkpoint brought none, so it may not be a chat model",
                "Run it with --raw (Engine.generate), which continues the prompt as it is",
            )
        tokens = cast("dict[str, Any]", self.manifest["tokens"])
        special = dict(tokens.get("special") or {})
        if "bos_token" not in special and tokens["bos"] is not None:
            special["bos_token"] = self.tokenizer.token(tokens["bos"]) or ""
        return ChatTemplate(self.artifact.read("chat_template.jinja").decode(), special)

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Teacher-forced logits from an empty cache, float32 [len(token_ids), vocab_size].

        The ids are taken as they are: no BOS is added.

        Raises:
            UsageError: no id, one outside the vocabulary, or more than the context holds.
        """
        ids = self._checked_ids(token_ids)
        if len(ids) > self.context:
            raise self._too_long(len(ids), "at most as many tokens as that")
        result = np.empty((len(ids), self.vocab_size), np.float32)
        session = self._acquire()
        try:
            session.resume([])
            done = 0
            for rows in session.rows(ids):
                result[done : done + len(rows)] = rows
                done += len(rows)
        finally:
            self._release(session)
        return result

    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Generation:
        """Continues a raw prompt; yields pieces of text.

        Args:
            prompt: text, in which special tokens are recognised and to which the one BOS is
                added; or token ids, taken as they are.
            max_new_tokens: the most to generate; None: up to a stop or the context's end.
            temperature: 0 is greedy; see `SamplingParams`, also for the next five.
            seed: of the random numbers.
            top_k: see `SamplingParams`.
            top_p: see `SamplingParams`.
            min_p: see `SamplingParams`.
            repetition_penalty: see `SamplingParams`.
            stop: texts that end the answer, besides the model's own stop set.
            progress: called with (done, all) tokens of the prompt after each chunk of it.

        Raises:
            UsageError: a value out of range, an empty prompt, or one that the context does not
                hold; raised here, not while iterating.
        """
        params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return self._start(ids, max_new_tokens, params, stop, progress, continuation=True)

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        thinking: bool | None = None,
        system: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Generation:
        """Answers a conversation through the model's chat template; yields pieces of text.

        Args:
            messages: {"role", "content"} objects, oldest first; a text is one user message.
            thinking: think before answering; None: see `ChatTemplate.render`.
            system: a system prompt, put in front.
            max_new_tokens: as for `generate`, as all that follow.
            temperature: see `generate`.
            seed: see `generate`.
            top_k: see `generate`.
            top_p: see `generate`.
            min_p: see `generate`.
            repetition_penalty: see `generate`.
            stop: see `generate`.
            progress: see `generate`.

        Raises:
            UsageError: as `generate`; also without a template, with malformed messages, and with
                `thinking` on a model that has no such switch.
        """
        params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        ids = self.chat_ids(messages, thinking=thinking, system=system)
        return self._start(ids, max_new_tokens, params, stop, progress, continuation=False)

    def chat_ids(
        self,
        messages: str | Sequence[Message],
        *,
        thinking: bool | None = None,
        system: str | None = None,
    ) -> list[int]:
        """The prompt of a conversation as token ids; see `chat`."""
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        text = self.template.render(
            with_system(turns, system), thinking=thinking, guard=self.tokenizer.guard
        )
        return self.tokenizer.encode(text, guarded=True)

    def close(self) -> None:
        """Gives memory and threads back; generations made before are unusable afterwards."""
        if not self._closed:
            self._closed, self._idle = True, None
            self.executable.close()
            self.artifact.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(
        self,
        prompt: Sequence[int],
        max_new_tokens: int | None,
        params: SamplingParams,
        stop: str | Sequence[str],
        progress: Progress | None,
        *,
        continuation: bool,
    ) -> Generation:
        ids = self._checked_ids(prompt)
        room = self.context - len(ids)
        if room < 1:
            raise self._too_long(len(ids), "the prompt and at least one new token")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UsageError(f"max_new_tokens cannot be {max_new_tokens}", "", "Give at least 1")
        tokens = self.manifest["tokens"]
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
        strings += tuple(tokens.get("stop_strings", ()))
        return Generation(
            ids,
            limit=room if max_new_tokens is None else min(room, max_new_tokens),
            sampler=Sampler(params, ids),
            stream=TextStream(self.tokenizer, strings, continuation=continuation),
            stop_ids=frozenset(tokens["stop"]),
            acquire=self._acquire,
            release=self._release,
            progress=progress,
        )

    def _acquire(self) -> Session:
        if self._closed:
            raise UsageError("The engine is closed", fix="Load the artifact again")
        session, self._idle = self._idle, None
        if session is None:
            session = Session(self.executable.new_state(self.context), self.executable.chunk)
        return session

    def _release(self, session: Session) -> None:
        if not self._closed:
            self._idle = session

    def _checked_ids(self, token_ids: Sequence[int]) -> list[int]:
        try:
            ids = np.asarray(token_ids)
        except ValueError:  # lists of several lengths
            ids = np.zeros((1, 1), np.int64)
        if ids.size == 0:
            raise UsageError("The prompt is empty", fix="Give at least one token")
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise UsageError("Token ids must be a flat list of whole numbers")
        bad = np.flatnonzero((ids < 0) | (ids >= self.vocab_size))
        if bad.size:
            raise UsageError(
                f"Token {bad[0]} of the prompt has the id {ids[bad[0]]}",
                f"The model's vocabulary ends at {self.vocab_size - 1}",
                "Encode the text with this model's own tokenizer",
            )
        return cast("list[int]", ids.tolist())

    def _too_long(self, length: int, holds: str) -> UsageError:
        most = self.executable.max_context
        wider = (
            f"load with a larger context: --context N, up to {most}"
            if self.context < most
            else "build the artifact for a longer context"
        )
        return UsageError(
            f"The prompt has {length} tokens, but the context holds {self.context}",
            f"It has to hold {holds}",
            f"Shorten the prompt, or {wider}",
        )


def _tokenizer(artifact: Artifact) -> Tokenizer:
    return Tokenizer(artifact.read("tokenizer.json"), bos=artifact.manifest["tokens"]["bos"])


def _context(wanted: int | None, most: int) -> int:
    if wanted is None:
        return most
    if not 1 <= wanted <= most:
        raise UsageError(
            f"The context cannot be {wanted} tokens",
            f"This artifact was built for at most {most}",
            f"Give a number from 1 to {most}, or build it for a longer context",
        )
    return wanted
