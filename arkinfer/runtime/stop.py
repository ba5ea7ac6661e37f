"""Which tokens and texts end an answer. Knows no model and no sampling.

Checkpoints say it in up to four places that often disagree, and an engine that trusts one of them
never stops on some model; so the stop set is their union, found once at build time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from arkinfer.errors import CheckpointError, UsageError
from arkinfer.runtime.chat import ChatTemplate, special_tokens

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]
"""Why a generation ended: a stop token or text, a limit, or somebody stopped it."""

_MARK = "arkinfer-turn"


@dataclass(frozen=True)
class StopSet:
    """What ends an answer.

    Attributes:
        ids: stop tokens, ascending.
        strings: stop texts, where a template ends turns with ordinary text.
        why: the places that name each id, e.g. {2: ["config.json eos_token_id"]}.
    """

    ids: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()
    why: dict[int, list[str]] = field(default_factory=dict[int, "list[str]"])


def stop_set(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    tokenizer_json: Mapping[str, Any],
    template: str | None,
) -> StopSet:
    """The union of what a checkpoint's files say; each argument is the content of one file.

    Args:
        config: config.json.
        generation: generation_config.json; {} when absent.
        tokenizer_config: tokenizer_config.json.
        tokenizer_json: tokenizer.json.
        template: the chat template; None: the checkpoint has none.

    Raises:
        CheckpointError: a file names an end token that the tokenizer does not have, the template
            is not valid or refuses a question and its answer, or no file names any end.
    """
    found: dict[int, list[str]] = {}
    strings: tuple[str, ...] = ()
    for where, values in (("config.json", config), ("generation_config.json", generation)):
        for token_id in _ids(where, values.get("eos_token_id")):
            found.setdefault(token_id, []).append(f"{where} eos_token_id")
    known = vocabulary(tokenizer_json)
    special = special_tokens(tokenizer_config)
    if eos := special.get("eos_token"):
        if eos not in known:
            raise CheckpointError(
                f'tokenizer_config.json has eos_token "{eos}", which tokenizer.json does not have',
                "The two files are of different checkpoints",
                "Restore both files of the checkpoint",
            )
        found.setdefault(known[eos], []).append("tokenizer_config.json eos_token")
    if template is not None:
        end = turn_end(template, special)
        token_id = _leading_token(end, tokenizer_json)
        if token_id is not None:
            found.setdefault(token_id, []).append("the chat template's turn end")
        elif end:
            strings = (end,)
    if not found and not strings:
        raise CheckpointError(
            "No file of the checkpoint says where an answer ends",
            "There is no eos_token_id, no eos_token and no turn end in a chat template",
            'Add "eos_token_id" to generation_config.json',
        )
    return StopSet(tuple(sorted(found)), strings, dict(sorted(found.items())))


def turn_end(template: str, special: Mapping[str, str]) -> str:
    """The first line that the template writes after the assistant's words, stripped.

    Raises:
        CheckpointError: the template is not valid, or refuses a question and its answer.
    """
    conversation = [
        {"role": "user", "content": f"{_MARK}-1"},
        {"role": "assistant", "content": f"{_MARK}-2"},
    ]
    chat = ChatTemplate(template, special)
    try:
        rendered = chat.render(conversation, add_generation_prompt=False)
    except UsageError as error:
        raise CheckpointError(
            "The chat template cannot render a question and its answer",
            error.why,
            "Correct chat_template.jinja of the checkpoint, or remove it",
        ) from error
    _, answer, end = rendered.rpartition(f"{_MARK}-2")
    return end.strip().partition("\n")[0].strip() if answer else ""


def _leading_token(text: str, tokenizer_json: Mapping[str, Any]) -> int | None:
    """The longest added token that `text` begins with."""
    added = cast("list[dict[str, Any]]", tokenizer_json.get("added_tokens") or [])
    fitting = [t for t in added if t["content"] and text.startswith(t["content"])]
    return max(fitting, key=lambda t: len(t["content"]))["id"] if fitting else None


def vocabulary(tokenizer_json: Mapping[str, Any]) -> dict[str, int]:
    """Ids of a tokenizer.json's tokens by text; Unigram lists them in order, BPE names the ids.

    Raises:
        CheckpointError: it is not made as a tokenizer.json is.
    """
    try:
        ids: dict[Any, Any]
        vocab = (tokenizer_json.get("model") or {}).get("vocab") or {}
        if isinstance(vocab, list):
            rows = cast("list[tuple[str, float]]", vocab)
            ids = {row[0]: index for index, row in enumerate(rows)}
        else:
            ids = dict(cast("dict[str, int]", vocab))
        ids |= {t["content"]: t["id"] for t in tokenizer_json.get("added_tokens") or []}
        if all(isinstance(text, str) and is_token_id(i) for text, i in ids.items()):
            return ids
    except (AttributeError, LookupError, TypeError, ValueError):
        pass
    raise CheckpointError(
        "The vocabulary of tokenizer.json cannot be read",
        "It does not name tokens and their ids",
        "Restore tokenizer.json of the checkpoint",
    )


def is_token_id(value: object) -> bool:
    """Whether this is a whole number that no vocabulary is too small for by far."""
    return type(value) is int and 0 <= value < 1 << 24


def _ids(where: str, value: Any) -> list[int]:
    if value is None:
        return []
    ids = cast("list[Any]", value) if isinstance(value, list) else [value]
    if all(map(is_token_id, ids)):
        return ids
    raise CheckpointError(
        f'{where} has an impossible "eos_token_id"',
        f"{value!r} is neither a token id nor a list of them",
        f"Restore {where} of the checkpoint",
    )
