"""A comparison in sentences, for the terminal and for the page. Knows neither."""

from __future__ import annotations

from collections import Counter

from arkinfer.diff.behaviour import Behaviour, PromptDifference
from arkinfer.diff.compare import Comparison, Graph
from arkinfer.diff.weights import WeightChange

LONG = 40
"""Characters of a value that are shown."""


def headline(found: Comparison) -> str:
    """What came of it, in one sentence."""
    if found.same:
        return "They have the same contents."
    parts = [
        _count(len(found.facts), "fact"),
        "the graph" if any(g.diff is None or not g.diff.same for g in found.graphs) else "",
        _count(len(found.weights), "weight"),
        _count(len(found.entries), "other entry", "other entries"),
    ]
    named = [part for part in parts if part]
    return f"They differ in {', '.join(named)}." if named else "They differ in the file's layout."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}" if number else ""


def shown(value: str | None) -> str:
    """A fact, shortened; "-" where it is not there.

    >>> shown(None), shown('"int4"'), shown("[" + "1, " * 99 + "1]")[-20:]
    ('-', 'int4', '1, 1, 1, … (299 characters)'[-20:])
    """
    if value is None:
        return "-"
    text = value[1:-1] if value.startswith('"') and "\\" not in value else value
    return text if len(text) <= LONG else f"{text[: LONG - 1]}… ({len(text):,} characters)"


def graph_summary(graph: Graph) -> str:
    """How many ops were added, removed and changed, by op."""
    diff = graph.diff
    if diff is None:
        return f"It cannot be compared: {graph.why}"
    if diff.same:
        return "The ops are the same; names or the order of weights differ."
    changed: Counter[tuple[str, str]] = Counter(
        (change.op, " and ".join(change.kinds)) for change in diff.changed
    )
    parts = [
        *(f"{what}" for what in diff.attributes),
        *(f"{count} {op} added" for op, count in diff.added.items()),
        *(f"{count} {op} removed" for op, count in diff.removed.items()),
        *(f"{count} {op} changed in {kinds}" for (op, kinds), count in changed.items()),
    ]
    return "; ".join(parts)


def weights_summary(found: Comparison) -> str:
    """How many weights are the same, and how the others differ."""
    how = Counter(weight.how for weight in found.weights)
    parts = [f"{found.same_weights:,} the same"]
    parts += [f"{how[word]:,} {word}" for word in ("changed", "added", "removed") if how[word]]
    return ", ".join(parts)


def relative(weight: WeightChange) -> str:
    """The relative difference of a weight, or why there is none."""
    if weight.relative is None:
        return weight.why
    return f"{100 * weight.relative:.3g} %"


def answers(found: Behaviour) -> list[str]:
    """What was found when both ran, a sentence each."""
    if not found.prompts:
        return [f"Not compared: {found.why}."]
    names = found.backends or ("", "")
    by = f"by {names[0]}" if names[0] == names[1] else f"by {names[0]} and {names[1]}"
    return [
        f"{found.tokens} tokens of {len(found.prompts)} prompts, {by}: the best next token agrees "
        f"after {100 * found.agreement:.1f} %, mean divergence {found.mean_kl:.3g} nats.",
        *(_prompt(prompt) for prompt in found.prompts),
    ]


def _prompt(prompt: PromptDifference) -> str:
    worst = max(prompt.kl)
    head = f"{prompt.name}: {prompt.agree} of {prompt.tokens} agree, worst {worst:.3g} nats; "
    if prompt.parts_at is None:
        return head + "greedy answers are the same."
    first, second = (text[:LONG] for text in prompt.answers)
    return f"{head}greedy answers part at token {prompt.parts_at + 1}: {first!r}, {second!r}."
