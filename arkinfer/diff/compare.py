"""Puts the parts of a comparison together. Knows no terminal and no page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from arkinfer.diff.behaviour import Behaviour, compare_behaviour
from arkinfer.diff.facts import Fact, differing_facts
from arkinfer.diff.graph import GraphDiff, differing_ops
from arkinfer.diff.weights import Stored, WeightChange, differing_weights, sizes

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact

GRAPH = ("ir.txt", "/module.ir")
"""Ends of the names of entries that hold the IR's text."""


@dataclass(frozen=True)
class Graph:
    """An entry with the IR's text that differs, or why it could not be compared."""

    entry: str
    diff: GraphDiff | None
    why: str = ""


@dataclass(frozen=True)
class EntryChange:
    """Another entry that differs; a size is None where the artifact has no such entry."""

    name: str
    a: int | None
    b: int | None


@dataclass(frozen=True)
class Comparison:
    """What differs between two artifacts.

    Attributes:
        same: whether they have the same contents, to the last bit.
        facts: of the manifests.
        graphs: texts of the IR that differ.
        weights: those that differ.
        same_weights: how many do not.
        sizes: (group, bytes, bytes) of the model's parts.
        entries: other entries that differ.
        behaviour: None: it was not asked for, or there was no need.
    """

    same: bool
    facts: list[Fact]
    graphs: list[Graph]
    weights: list[WeightChange]
    same_weights: int
    sizes: list[tuple[str, int, int]]
    entries: list[EntryChange]
    behaviour: Behaviour | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`; numbers that are infinite are null."""
        return {
            "same": self.same,
            "manifest": [asdict(fact) for fact in self.facts],
            "graph": [_graph_json(graph) for graph in self.graphs],
            "weights": {
                "same": self.same_weights,
                "differing": [_weight_json(weight) for weight in self.weights],
            },
            "groups": [{"group": g, "a": a, "b": b} for g, a, b in self.sizes],
            "entries": [asdict(entry) for entry in self.entries],
            "behaviour": None if self.behaviour is None else _behaviour_json(self.behaviour),
        }


def compare(
    a: Artifact,
    b: Artifact,
    *,
    run: bool = True,
    backend: str | None = None,
    threads: int | None = None,
    reading: Callable[[int, int], object] | None = None,
    running: Callable[[int, int], object] | None = None,
) -> Comparison:
    """Compares two open artifacts.

    Args:
        a: the first, by which the second is judged.
        b: the second.
        run: whether to compare answers, too.
        backend: whose sections to run; None: each file's first.
        threads: of a run.
        reading: called with (done, all) bytes of weights.
        running: called with (done, all) runs of a prompt.

    Raises:
        ArtifactError: a file is damaged.
    """
    same = a.digest == b.digest
    weights = [] if same else differing_weights(a, b, reading)
    names = {weight.name for weight in weights if weight.how != "added"}
    behaviour = None
    if run and not same:
        behaviour = compare_behaviour(a, b, backend=backend, threads=threads, progress=running)
    return Comparison(
        same=same,
        facts=differing_facts(a.manifest, b.manifest),
        graphs=[] if same else _graphs(a, b),
        weights=weights,
        same_weights=_count(a) - len(names),
        sizes=sizes(a, b),
        entries=_entries(a, b),
        behaviour=behaviour,
    )


def _count(artifact: Artifact) -> int:
    from arkinfer.diff.weights import stored_weights

    return len({name for name, _ in stored_weights(artifact)})


def _graphs(a: Artifact, b: Artifact) -> list[Graph]:
    """Entries that both have and that differ."""
    result: list[Graph] = []
    for entry in (entry.name for entry in a.entries()):
        if not entry.endswith(GRAPH) or entry not in b:
            continue
        texts = a.read(entry), b.read(entry)
        if texts[0] == texts[1]:
            continue
        try:
            found = differing_ops(*(text.decode() for text in texts))
        except ValueError as error:  # not UTF-8, or not our IR
            result.append(Graph(entry, None, str(error)))
        else:
            result.append(Graph(entry, found))
    return result


def _entries(a: Artifact, b: Artifact) -> list[EntryChange]:
    """Entries that are neither weights nor IR and differ by SHA-256."""
    listed = a.manifest["entries"], b.manifest["entries"]
    result: list[EntryChange] = []
    for name in dict.fromkeys([*listed[0], *listed[1]]):
        if name.startswith("weights/") or (name.endswith(GRAPH) and name in a and name in b):
            continue
        first, second = (each.get(name) for each in listed)
        if first is None or second is None or first["sha256"] != second["sha256"]:
            pair = [None if facts is None else facts["size"] for facts in (first, second)]
            result.append(EntryChange(name, *pair))
    return result


def _graph_json(graph: Graph) -> dict[str, Any]:
    if graph.diff is None:
        return {"entry": graph.entry, "why": graph.why}
    return {"entry": graph.entry, **asdict(graph.diff)}


def _weight_json(weight: WeightChange) -> dict[str, Any]:
    return {
        "name": weight.name,
        "how": weight.how,
        "a": _stored_json(weight.a),
        "b": _stored_json(weight.b),
        "relative": _finite(weight.relative),
        "why": weight.why,
    }


def _stored_json(stored: Stored | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    return {"kind": stored.kind, "shape": list(stored.shape), "bytes": stored.size}


def _behaviour_json(found: Behaviour) -> dict[str, Any]:
    if not found.prompts:
        return {"why": found.why}
    return {
        "backends": list(found.backends or ()),
        "tokens": found.tokens,
        "mean_kl": _finite(found.mean_kl),
        "agreement": found.agreement,
        "prompts": [
            {**asdict(prompt), "kl": [_finite(value) for value in prompt.kl]}
            for prompt in found.prompts
        ],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or value in (float("inf"), float("-inf")) else value
