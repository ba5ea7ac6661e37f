"""The checkpoint's prompt format: special tokens, template, turns with loss weights.

Knows no model; the template is MiniCPM4's with the thinking switch of MiniCPM4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>")
UNK, BOS, EOS, IM_END, IM_START = range(5)
NO_THOUGHT = "<think>\n\n</think>\n"
TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '" + NO_THOUGHT.replace("\n", "\\n") + "' }}{% endif %}{% endif %}"
).replace("'\n'", "'\\n'").replace("assistant\n'", "assistant\\n'")  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """One message. `weight` is the weight of its loss, `prefilled` what the template writes."""

    role: str
    content: str
    weight: float
    prefilled: str = ""


def encode_chat(
    tokenizer: tokenizers.Tokenizer, turns: Sequence[Turn]
) -> tuple[list[int], list[float]]:
    """Token ids of a chat with BOS, and the weight of each token as a prediction.

    What the model writes is encoded apart from what it is given, as at inference.
    """
    ids, weights = [BOS], [0.0]

    def add(text: str, weight: float) -> None:
        fresh = tokenizer.encode(text, add_special_tokens=False).ids
        ids.extend(fresh)
        weights.extend([weight] * len(fresh))

    for turn in turns:
        head = f"<|im_start|>{turn.role}\n"
        if turn.role == "assistant":
            add(head + turn.prefilled, 0.0)
            add(f"{turn.content}<|im_end|>", turn.weight)
            add("\n", 0.0)
        else:
            add(head, 0.0)
            add(turn.content, turn.weight)
            add("<|im_end|>\n", 0.0)
    return ids, weights


def prompt(messages: Sequence[tuple[str, str]], thinking: bool | None = False) -> str:
    """What the template renders of (role, content) pairs with a generation prompt, no BOS."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    return f"{text}<|im_start|>assistant\n{NO_THOUGHT if thinking is False else ''}"
