"""Key-value retrieval: facts hidden in other text and asked for afterwards. Knows no tokens.

One task is a passage with lines such as "The code of amber-kite is 4821.", and questions with
their answers. Everything follows from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST = (
    "amber", "azure", "brave", "bright", "bronze", "calm", "clever", "cold", "coral", "crimson",
    "dark", "deep", "early", "empty", "fair", "fast", "final", "first", "gentle", "golden",
    "grand", "green", "happy", "heavy", "hidden", "hollow", "icy", "ivory", "jade", "keen",
    "large", "late", "lemon", "light", "little", "lonely", "loud", "lucky", "mild", "modern",
    "narrow", "noble", "odd", "olive", "open", "orange", "pale", "plain", "polar", "proud",
    "purple", "quick", "quiet", "rapid", "rare", "red", "round", "royal", "rusty", "sharp",
    "shiny", "short", "silent", "silver", "simple", "slow", "small", "soft", "solid", "steel",
    "stone", "strong", "sunny", "sweet", "tall", "tiny", "violet", "warm", "white", "wild",
    "wise", "wooden", "yellow", "young",
)  # fmt: skip
SECOND = (
    "anchor", "apple", "arrow", "badger", "barrel", "basket", "beacon", "bell", "bird", "boat",
    "bottle", "branch", "bridge", "bucket", "camel", "candle", "canyon", "castle", "chair",
    "cherry", "cloud", "comet", "crane", "crown", "desert", "door", "dragon", "drum", "eagle",
    "ember", "falcon", "feather", "field", "flame", "forest", "fox", "garden", "gate",
    "glacier", "hammer", "harbor", "hawk", "horse", "island", "kettle", "kite", "ladder",
    "lake", "lamp", "lantern", "leaf", "lion", "maple", "market", "meadow", "mirror", "moon",
    "mountain", "needle", "ocean", "otter", "owl", "paper", "pepper", "piano", "planet", "pond",
    "rabbit", "raven", "ribbon", "river", "rocket", "sailor", "shadow", "shell", "spider",
    "spoon", "star", "table", "tiger", "tower", "train", "valley", "wagon", "whale", "window",
    "winter", "wolf",
)  # fmt: skip
RELATIONS = ("code", "number", "key", "pin")
INTRODUCTIONS = (
    "Remember what this text says.", "Read this text.", "Here are some notes.",
    "The following text has codes in it.", "Keep the numbers in this text in mind.",
)  # fmt: skip
QUESTIONS = (
    "What is the {r} of {k}?", "Tell me the {r} of {k}.", "Which {r} does {k} have?",
    "The {r} of {k}?", "what is the {r} of {k}", "Now, what is the {r} of {k}?",
)  # fmt: skip


@dataclass(frozen=True)
class Retrieval:
    """A passage and what is asked about it, in order."""

    passage: str
    questions: tuple[tuple[str, str], ...]


REPEATS = ("Repeat the whole list.", "Say all lines again.", "Write the list once more.")
SHUFFLES = ("Say the list in another order.", "Write all lines in a different order.")


def pairs(count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`count` distinct keys with four-digit values."""
    chosen = rng.choice(len(FIRST) * len(SECOND), size=count, replace=False)
    keys = [f"{FIRST[c // len(SECOND)]}-{SECOND[c % len(SECOND)]}" for c in chosen]
    return [
        (key, f"{value:04d}")
        for key, value in zip(keys, rng.integers(0, 10000, count), strict=True)
    ]


def hide(filler: str, needles: list[str], rng: np.random.Generator) -> str:
    """`filler` with the needles as lines of their own between its lines, in order."""
    lines = filler.split("\n") if filler else []
    places = np.sort(rng.integers(0, len(lines) + 1, len(needles)))
    out: list[str] = []
    start = 0
    for needle, place in zip(needles, places, strict=True):
        out += [*lines[start:place], needle]
        start = int(place)
    return "\n".join(out + lines[start:])


def recital(count: int, shuffled: bool, rng: np.random.Generator) -> Retrieval:
    """A list of `count` facts to be written again: the densest exercise in copying."""
    name = str(rng.choice(RELATIONS))
    lines = [f"The {name} of {key} is {value}." for key, value in pairs(count, rng)]
    question = str(rng.choice(SHUFFLES if shuffled else REPEATS))
    order = rng.permutation(count) if shuffled else np.arange(count)
    answer = "\n".join(lines[i] for i in order)
    return Retrieval(f"{rng.choice(INTRODUCTIONS)}\n" + "\n".join(lines), ((question, answer),))


def retrieval(
    filler: str, count: int, asked: int, rng: np.random.Generator, relation: str | None = None
) -> Retrieval:
    """`count` facts hidden in `filler`, of which `asked` are asked for.

    Args:
        filler: the other text; "" makes a dense list.
        count: how many facts.
        asked: how many questions, each about another fact.
        rng: decides everything else.
        relation: what the numbers are; None: one of `RELATIONS`.
    """
    name = relation or str(rng.choice(RELATIONS))
    facts = pairs(count, rng)
    lines = [f"The {name} of {key} is {value}." for key, value in facts]
    questions = [
        (str(rng.choice(QUESTIONS)).format(r=name, k=facts[i][0]), lines[i])
        for i in rng.choice(count, size=min(asked, count), replace=False)
    ]
    passage = f"{rng.choice(INTRODUCTIONS)}\n{hide(filler, lines, rng)}"
    return Retrieval(passage, tuple(questions))
