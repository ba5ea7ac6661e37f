"""Conversations through the checkpoint's own Jinja template. Knows no tokenizer and no model.

The environment is the one that Hugging Face renders templates in, so that both give the same
text: real Jinja2, immutable sandbox, trimmed blocks, loop controls, `raise_exception`,
`strftime_now`, a plain `tojson`, and the `generation` tag.
Source: `transformers/utils/chat_template_utils.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from arkinfer.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import jinja2

Message: TypeAlias = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant" | "tool" …, "content": text}, and more if a template
knows more."""

UNTRUSTED_ROLES = frozenset({"user", "tool"})
"""Whose text must not be able to end a turn or begin another one."""

LONGEST = 64 << 10
"""Characters of a template; the largest in use have 20 Ki. Each takes a KiB to be compiled."""

_SWITCHES = {"/think": True, "/no_think": False}


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the text of chat_template.jinja.
        special: texts of special tokens by the names that templates use, e.g. "bos_token".

    Raises:
        CheckpointError: `source` is not a Jinja template.
    """

    def __init__(self, source: str, special: Mapping[str, str] | None = None) -> None:
        import jinja2.meta

        environment = _environment()
        try:
            if len(source) > LONGEST:
                raise ValueError(f"It has more than {LONGEST:,} characters")
            tree = environment.parse(source)
            names = jinja2.meta.find_undeclared_variables(tree)
            self._template = environment.from_string(tree)
        except Exception as error:  # Jinja compiles to Python, whose compiler has limits of its own
            raise CheckpointError(
                "The chat template is not valid",
                str(error) or type(error).__name__,
                "Correct chat_template.jinja of the checkpoint and build again; "
                "--raw runs without it",
            ) from error
        self._special = dict(special or {})
        self.can_think = "enable_thinking" in names
        """Whether the template has a thinking switch."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
        guard: Callable[[str], str] | None = None,
    ) -> str:
        """The conversation as the model's prompt.

        Args:
            messages: the turns so far, oldest first.
            thinking: the template's `enable_thinking`. None: what the most recent user message
                that ends with "/think" or "/no_think" asks for (the words stay in the text, as
                models are trained on them), else the template's own default.
            add_generation_prompt: end with the beginning of the assistant's turn.
            guard: applied to what users and tools say.

        Raises:
            UsageError: malformed messages, a conversation that the template refuses, work or
                text beyond the limits of `meter`, or `thinking` with a template that has no such
                switch.
        """
        from arkinfer.runtime.meter import metered

        turns = [_checked(message, guard) for message in _nonempty(messages)]
        variables: dict[str, Any] = {**self._special, "tools": None, "documents": None}
        wanted = requested_thinking(turns) if thinking is None and self.can_think else thinking
        if wanted is not None:
            if not self.can_think:
                raise UsageError(
                    "This model has no thinking switch",
                    "Its chat template does not know enable_thinking",
                    "Leave out --think and --no-think (thinking=None)",
                )
            variables["enable_thinking"] = wanted
        try:
            with metered(turns):
                return self._template.render(
                    messages=turns, add_generation_prompt=add_generation_prompt, **variables
                )
        except Exception as error:  # a template is a program: it can raise anything
            raise UsageError(
                "The model's chat template refused the conversation",
                str(error) or type(error).__name__,
                "Change the messages, or write the prompt yourself and run it with --raw",
            ) from error


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """The messages after a system prompt.

    Raises:
        UsageError: they already begin with one.
    """
    if system is None:
        return list(messages)
    if messages and messages[0].get("role") == "system":
        raise UsageError(
            "There are two system prompts",
            "The messages already begin with one",
            "Give it either as a message or as `system`",
        )
    return [{"role": "system", "content": system}, *messages]


def requested_thinking(messages: Sequence[Message]) -> bool | None:
    """What the most recent user message with a switch at its end asks for; None: no switch.

    >>> requested_thinking([{"role": "user", "content": "Why? /no_think"}])
    False
    """
    for message in reversed(messages):
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str):
            words = content.split()
            if words and words[-1] in _SWITCHES:
                return _SWITCHES[words[-1]]
    return None


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Texts of special tokens by name, from tokenizer_config.json, as templates want them."""
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
    found = {name: token_text(tokenizer_config.get(name)) for name in (*names, "mask_token")}
    return {name: text for name, text in found.items() if text is not None}


def token_text(token: Any) -> str | None:
    """A token of tokenizer_config.json, which may be a string or an object with "content"."""
    if isinstance(token, Mapping):
        token = cast("Mapping[str, Any]", token).get("content")
    return token if isinstance(token, str) else None


def _nonempty(messages: Sequence[Message]) -> Sequence[Message]:
    if not messages:
        raise UsageError(
            "The conversation has no message", fix='Give at least {"role": "user", "content": "…"}'
        )
    return messages


def _checked(message: Message, guard: Callable[[str], str] | None) -> dict[str, Any]:
    """A plain copy of a message, so that a template sees JSON types only."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers may be untyped)
        raise UsageError(
            "A message has no role", f"It is {message!r}", 'Give {"role": "user", "content": "…"}'
        )
    try:
        turn: dict[str, Any] = json.loads(json.dumps(dict(message)))
    except (TypeError, ValueError) as error:
        raise UsageError(
            "A message is not plain data", str(error), "Give texts, numbers, lists and objects only"
        ) from error
    if guard is not None and turn["role"] in UNTRUSTED_ROLES:
        turn = {key: _guarded(value, guard) for key, value in turn.items()}
    return turn


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, list):
        return [_guarded(item, guard) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {k: _guarded(v, guard) for k, v in cast("dict[str, Any]", value).items()}
    return value


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2
    import jinja2.ext
    import jinja2.nodes

    from arkinfer.runtime.sandbox import Environment

    class Generation(jinja2.ext.Extension):
        """{% generation %}…{% endgeneration %} marks the assistant's words; here, just text."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    return Environment(
        {"raise_exception": _raise_exception, "strftime_now": _strftime_now},
        {"tojson": _tojson},
        [Generation, jinja2.ext.loopcontrols],
    )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which no model expects."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    if len(form) > 100:
        raise ValueError("a date's form is longer than 100 characters")
    return datetime.now().strftime(form)
