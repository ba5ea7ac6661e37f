"""Questions and answers from the documentation."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.demo import questions


@pytest.fixture(scope="module")
def facts(documents: list[dict[str, str]]) -> dict[tuple[str, str], questions.Fact]:
    return {(fact.kind, fact.name): fact for fact in questions.all_facts(documents)}


def test_facts_say_what_the_text_says(facts: dict[tuple[str, str], questions.Fact]) -> None:
    assert set(facts) == {
        ("module", "heapq"), ("reverse", "Heap queue algorithm"),
        ("callable", "heapq.heappush"), ("signature", "heapq.heappush"),
        ("callable", "heapq.Heap"), ("callable", "heapq.Heap.pop"),
        ("signature", "heapq.Heap.pop"), ("attribute", "heapq.Heap.size"),
        ("term", "generator"), ("term", "abstract base class"),
    }  # fmt: skip
    assert facts["module", "heapq"].answer == (
        "`heapq` is the module for: Heap queue algorithm. This module provides an implementation "
        "of the heap queue algorithm, also known as the priority queue algorithm."
    )
    assert facts["signature", "heapq.heappush"].answer == (
        "It is called as `heapq.heappush(heap, item)`."
    )
    assert facts["term", "abstract base class"].answer == (
        "Abstract base class: Abstract base classes complement duck-typing, e.g. by interfaces."
    )


@pytest.mark.parametrize(
    ("paragraph", "kept"),
    [
        ("One two three.  Four five.", "One two three. Four five."),
        ("See e.g. Python for it. Next", "See e.g. Python for it. Next."),
        ("It does:", "It does."),
        ("* an item", ""),
        ("New in version 3.4.", ""),
        ("A" * 400, ""),
    ],
)
def test_first_sentences(paragraph: str, kept: str) -> None:
    assert questions.first_sentences(paragraph) == kept


def test_held_out_phrasings_are_never_drawn(
    facts: dict[tuple[str, str], questions.Fact],
) -> None:
    rng = np.random.default_rng(5)
    for fact in facts.values():
        phrasings = questions.PHRASINGS[fact.kind][-questions.HELD_OUT_PHRASINGS :]
        hidden = {questions.ask(fact, p, quoted) for p in phrasings for quoted in (True, False)}
        drawn = {questions.training_question(fact, rng) for _ in range(300)}
        assert len(drawn) >= 5
        assert not hidden & drawn


def test_the_same_generator_asks_the_same(
    facts: dict[tuple[str, str], questions.Fact],
) -> None:
    def asked(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [questions.training_question(f, rng) for f in facts.values() for _ in range(4)]

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)
