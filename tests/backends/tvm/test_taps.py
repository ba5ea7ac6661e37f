"""Where the section says that hidden states are: read, or refused; older sections have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from arkinfer.artifact import open_artifact
from arkinfer.errors import UsageError
from arkinfer.runtime.contract import LoadOptions
from arkinfer_tvm.executor import TvmExecutor
from arkinfer_tvm.taps import Taps, taps_to_json

Array = np.ndarray[Any, Any]


def facts_of(small: Any) -> tuple[dict[str, Any], Callable[[str], Array], int]:
    """The file, the artifact's tensors, and how many programs there are."""
    with open_artifact(small.path) as artifact:
        config = artifact.sections["tvm"].config
        facts = json.loads(artifact.read(config["taps"]))
        gain = np.array(artifact.tensor(facts["gain"]))
        return facts, lambda name: gain, len(json.loads(artifact.read(config["programs"])))


def test_what_was_written_is_read(small: Any) -> None:
    facts, tensor, programs = facts_of(small)
    taps = Taps.read(json.dumps(facts).encode(), programs, tensor)
    assert taps.names == ("layers.0", "layers.1", "final")
    assert (
        taps_to_json(taps.layers, facts["gain"], taps.eps)
        == json.dumps(facts, separators=(",", ":")).encode()
    )
    for program in range(programs):
        everything = taps.seen(program, taps.names)
        assert [seen.value for seen in everything] == ["layers.0", "layers.1"]
        assert taps.seen(program, ("final",)) == everything[-1:]
        assert [seen.call for seen in everything] == sorted(seen.call for seen in everything)


def _fewer(facts: dict[str, Any]) -> None:
    facts["layers"].pop()


def _other_names(facts: dict[str, Any]) -> None:
    facts["layers"][0][0]["value"] = "layers.7"


def _none(facts: dict[str, Any]) -> None:
    facts["layers"] = [[] for _ in facts["layers"]]


def _a_cache(facts: dict[str, Any]) -> None:
    facts["layers"][0][0]["place"] = {"kind": "cache", "key": 0}


def _wider(facts: dict[str, Any]) -> None:
    facts["layers"][0][1]["row"] = [1 << 40]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_fewer, "its programs do not have the same taps"),
        (_other_names, "its programs do not have the same taps"),
        (_none, "its programs do not have the same taps"),
        (_a_cache, "layers.0 is no hidden state"),
        (_wider, "layers.1 is no hidden state"),
    ],
)
def test_what_is_not_the_compilers_is_refused(
    small: Any, change: Callable[[dict[str, Any]], None], text: str
) -> None:
    facts, tensor, programs = facts_of(small)
    change(facts)
    with pytest.raises(ValueError, match=text):
        Taps.read(json.dumps(facts).encode(), programs, tensor)


def test_a_section_without_them_declares_none(small: Any) -> None:
    with open_artifact(small.path) as artifact:
        section = artifact.sections["tvm"]
        del section.config["taps"]
        executable = TvmExecutor().open(artifact, section, LoadOptions(1))
        assert executable.features == {"tree", "persist"}
        with pytest.raises(UsageError) as refusal:
            executable.new_state(4).step(small.tokens(2), taps=("final",))
        assert str(refusal.value) == (
            'There is no tap "final". This section gives no hidden states away.'
        )
        executable.close()
