"""golden.json is read with suspicion; distances are what their words say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer.artifact import open_artifact
from arkinfer.errors import ArtifactError, UnsupportedError
from arkinfer.runtime.contract import LoadOptions
from arkinfer.runtime.registry import open_section
from arkinfer.verify.fingerprint import PRINTS, distance, fingerprint
from arkinfer.verify.golden import Answer, Distance, Row, compare, read_golden, replay
from arkinfer.verify.localize import first_off, jumps
from arkinfer.verify.tolerance import CACHES, NUMERICS, ROUNDING, Tolerance, tolerances
from tests.verify.altered import altered

SIGNED = Path(__file__).parents[1] / "artifact" / "formats" / "v1-signed.ark"
VOCABULARY = 300


def known(logits: Any, count: int = 4, position: int = 0) -> Row:
    top = np.argsort(-logits)[:count]
    total = float(np.log(np.exp(logits).sum()))
    return Row(position, top, logits[top], total, float(logits.std()))


def test_a_distance_of_nothing_and_of_something() -> None:
    logits = np.random.default_rng(0).normal(0, 2, 50)
    answer = Answer("reference", "short", (known(logits),))
    same = compare(answer, logits[None].astype(np.float32))
    assert same.error < 1e-6
    assert same.kl < 1e-6
    assert (same.rank, same.agree, same.rows) == (0, 1, 1)
    shifted = compare(answer, (logits[None] + 0.5).astype(np.float32))
    assert shifted.error == pytest.approx(0.5 / logits.std(), rel=1e-3)
    assert shifted.kl < 1e-6  # all of them are larger by the same
    worst = int(np.argmin(logits))
    other = logits.copy()
    other[worst] = logits.max() + 1
    best = compare(answer, other[None].astype(np.float32))
    assert best.agree == 0
    assert best.rank == pytest.approx(
        (logits.max() - np.sort(logits)[-4]) / logits.std(), rel=1e-3
    )  # at least: what is not among the best ones is below them
    assert best.kl > 0.05


def test_a_second_best_token_counts_by_how_near_it_was() -> None:
    tolerance = Tolerance(error=0.05, kl=0.1)
    assert tolerance.problem(Distance(0.04, 0.01, 0.09, 3, 4)) == ""
    assert tolerance.problem(Distance(0.04, 0.01, 0.2, 3, 4)) == (
        "its best token is another one in 1 of 4 positions, by up to 0.2 of the logits' spread"
    )
    assert tolerance.problem(Distance(0.06, 0.01, 0, 4, 4)) == "its error is 0.06, limit 0.05"
    assert tolerance.problem(Distance(0, 0.2, 0, 4, 4)) == "its KL divergence is 0.2, limit 0.1"


def test_not_a_number_is_never_within_tolerance() -> None:
    logits = np.zeros(50)
    logits[3] = 1
    found = compare(Answer("reference", "short", (known(logits),)), np.full((1, 50), np.nan))
    assert Tolerance(9, 9).problem(found) != ""


def manifest(dtype: str, *schemes: str, quant: str = "none", kv: str = "fp32") -> Any:
    """What a file says of itself, as far as tolerances ask."""
    names = ["model.norm.weight", *(f"m.{n}.weight.{s}.codes" for n, s in enumerate(schemes))]
    return {"quant": quant, "dtype": dtype, "kv": kv, "tensors": dict.fromkeys(names)}


def test_every_backend_that_runs_here_has_its_classes() -> None:
    matrices = [(), ("int8-row",), ("int4-g128-asym", "int8-g128"), ("int3-g32",), ("int2-row",)]
    for backend in ("onnxruntime", "tvm", "reference"):
        for schemes in matrices:
            for dtype in ("fp32", "bf16", "fp16"):
                for kv in ("fp32", "int8"):
                    found = tolerances(manifest(dtype, *schemes, kv=kv), backend)
                    assert found["reference"].error < found["source"].error
    for schemes in matrices:
        for kv in ("fp32", "fp16"):  # which are kept the same way there
            tolerances(manifest("bf16", *schemes, kv=kv), "tensorrt", "fp16")
    for backend in ("tvm", "reference"):
        errors = [
            tolerances(manifest("fp32", kv=kv), backend)["reference"].error
            for kv in ("fp32", "fp16", "bf16", "int8")
        ]
        assert errors == sorted(set(errors))
    assert {row for _, row in NUMERICS} == {*ROUNDING, "int2", "int16"}
    assert {backend for backend, _ in NUMERICS} == {backend for backend, _ in CACHES}


@pytest.mark.parametrize(
    ("schemes", "numerics", "rounding"),
    [
        ((), "bf16", "bf16"),
        (("int8-g128",), "int8", "int8"),
        (("int8-g128", "int4-g32"), "int4", "int4"),
        (("int2-row",), "int2", "bf16"),
        (("int2-row", "int4-g128"), "int2", "int4"),
    ],
)
def test_the_matrices_decide_whatever_the_build_was_told(
    schemes: tuple[str, ...], numerics: str, rounding: str
) -> None:
    """A quantized checkpoint under `--quant none` computes as one that the build quantized, and
    two bits are never the build's own rounding."""
    for quant in ("none", "ternary", "int4-gptq-g128"):
        found = tolerances(manifest("bf16", *schemes, quant=quant), "onnxruntime")
        reference = NUMERICS["onnxruntime", numerics]
        assert found == {"reference": reference, "source": reference + ROUNDING[rounding]}


def test_activations_that_are_not_rounded_have_the_tolerances_of_floats() -> None:
    file = manifest("bf16", "int4-g32", "int8-g128")
    exact, usual = (tolerances(file, "onnxruntime", each) for each in ("fp32", "int8"))
    assert exact["reference"] == NUMERICS["onnxruntime", "fp32"]
    assert exact["source"] == exact["reference"] + ROUNDING["int4"]
    assert usual == tolerances(file, "onnxruntime")


@pytest.mark.parametrize(
    ("taken", "like"),
    [
        ("int16", "int16"), ("fp32, int16 in 1 of 3", "int16"), ("int16, fp32 in 1 of 3", "int16"),
        ("int8, int16 in 12 of 41", "int4"), ("int16, int8 in 6 of 41", "int4"), ("", "int4"),
    ],
)  # fmt: skip
def test_the_coarsest_of_what_products_take_counts(taken: str, like: str) -> None:
    found = tolerances(manifest("bf16", "int4-g32", "int8-g128"), "tvm", taken)
    assert found["reference"] == NUMERICS["tvm", like]
    assert found["source"] == NUMERICS["tvm", like] + ROUNDING["int4"]
    dense = tolerances(manifest("bf16"), "tvm", taken)
    assert dense["reference"] == NUMERICS["tvm", "bf16"]


def test_an_unknown_class_is_an_error() -> None:
    with pytest.raises(UnsupportedError) as caught:
        tolerances(manifest("bf16", "int2-row", quant="ternary"), "executorch")
    assert str(caught.value) == (
        "There is no tolerance for ternary with bf16 and a cache in fp32 on executorch. Nobody "
        "measured how far such an artifact may be from its golden vectors. Check the bytes alone: "
        '"arkinfer verify --integrity-only"; and compare answers with "arkinfer eval".'
    )


def test_fingerprints_see_directions_and_lengths_apart() -> None:
    rng = np.random.default_rng(1)
    vector = rng.normal(size=512)
    length, prints = fingerprint(vector.astype(np.float32))
    assert length == pytest.approx(np.linalg.norm(vector), rel=1e-6)
    assert len(prints) == PRINTS
    assert distance(prints, fingerprint(3 * vector.reshape(4, 128))[1]) < 1e-6
    errors = []
    for _ in range(50):
        noise = rng.normal(size=512)
        off = vector + 0.1 * noise * np.linalg.norm(vector) / np.linalg.norm(noise)
        errors.append(distance(prints, fingerprint(off)[1]))
    assert 0.07 < np.mean(errors) < 0.13
    assert fingerprint(np.zeros(4)) == (0.0, (0.0,) * PRINTS)


def test_fingerprints_are_the_same_for_ever() -> None:
    """They stand in files."""
    ever = (
        1.4832397,
        -0.9438798,
        -0.1348400,
        1.2135598,
        0.1348400,
        0.4045199,
        -0.4045199,
        -0.9438798,
    )
    assert fingerprint(np.arange(1.0, 6.0))[1] == pytest.approx(ever, abs=1e-6)


def test_without_a_value_beyond_the_limit_the_largest_step_is_blamed() -> None:
    from arkinfer.verify.golden import KnownValue

    def value(name: str) -> KnownValue:
        return KnownValue(name, None, (0.0,) * PRINTS)

    errors = [(value("0"), 0.01), (value("1"), 0.02), (value("2"), 0.08), (value("3"), 0.085)]
    values = jumps(errors)
    assert [value.jump for value in values] == pytest.approx([0.01, 0.01, 0.06, 0.005])

    def blamed(limit: float, jump: float) -> str | None:
        found = first_off(values, limit, jump)
        return found and found.name

    assert blamed(0.1, 0.1) == "2"
    assert blamed(0.1, 0.05) == "2"
    assert blamed(0.015, 0.05) == "1"
    assert first_off([], 0.1, 0.1) is None


def golden() -> dict[str, Any]:
    with open_artifact(SIGNED) as artifact:
        return json.loads(artifact.read("golden.json"))


BROKEN: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("golden.json.prompts is missing", lambda g: g.pop("prompts")),
    ('the prompt "short" does not fit', lambda g: g["prompts"]["short"].append(300)),
    ('the prompt "short" does not fit', lambda g: g["prompts"].update(short=[])),
    ("must have at most 4096 items", lambda g: g["prompts"].update(short=[1] * 5000)),
    ("golden.json has no answers", lambda g: g.update(answers=[])),
    ("golden.json has no answers", lambda g: g["prompts"].clear()),
    ("golden.json has no answers", lambda g: g["answers"][0].update(rows=[])),
    ("position or a number out of", lambda g: g["answers"][0]["rows"][0].update(position=64)),
    ("position or a number out of", lambda g: g["answers"][0]["rows"][0].update(spread=0)),
    ("Infinity is not a JSON number", lambda g: g["answers"][0]["rows"][0].update(logsumexp=1e999)),
    ("must be a number, not 'x'", lambda g: g["answers"][0]["rows"][0]["logits"].append("x")),
    ("do not fit their logits", lambda g: g["answers"][0]["rows"][0]["ids"].pop()),
    ("that the model has not", lambda g: g["answers"][0]["rows"][0]["ids"].__setitem__(0, 300)),
    ("a fingerprint that is none", lambda g: g["values"]["reference"][0]["print"].pop()),
    ("has the format 2; this arkinfer knows 1", lambda g: g.update(format=2)),
]


@pytest.mark.parametrize(("says", "change"), BROKEN, ids=range(len(BROKEN)))
def test_what_no_build_writes_is_refused(tmp_path: Path, says: str, change: Any) -> None:
    facts = golden()
    change(facts)
    path = altered(
        SIGNED, tmp_path / "m.ark", {"golden.json": lambda _: json.dumps(facts).encode()}
    )
    with open_artifact(path) as artifact, pytest.raises(ArtifactError, match=says) as caught:
        read_golden(artifact, VOCABULARY)
    assert str(caught.value).startswith(f'The golden vectors of "{path}" cannot be read. ')


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b" " * (9 << 20)])
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes) -> None:
    path = altered(SIGNED, tmp_path / "m.ark", {"golden.json": lambda _: data})
    with open_artifact(path) as artifact, pytest.raises(ArtifactError, match="cannot be read"):
        read_golden(artifact, VOCABULARY)


def test_damaged_texts_are_an_artifact_error_or_read(tmp_path: Path) -> None:
    """Random bytes of it replaced: never another error."""
    from arkinfer.verify.golden import _read  # pyright: ignore[reportPrivateUsage] (without a file)

    data, rng = json.dumps(golden()).encode(), np.random.default_rng(4)
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)).tolist():
            broken[place] = int(rng.integers(32, 127))
        try:
            _read(bytes(broken), VOCABULARY, 64)
        except ValueError:
            refused += 1
    assert refused > 50


def test_a_prompt_is_read_in_steps_that_fit() -> None:
    with open_artifact(SIGNED) as artifact:
        _, executable = open_section(artifact, None, LoadOptions())
        found = read_golden(artifact, executable.vocab_size)
        assert found is not None
        assert {name: len(ids) for name, ids in found.prompts.items()} == {"short": 16, "long": 64}
        done: list[int] = []
        logits = replay(executable, found.prompts["long"], done.append)
        assert logits.shape == (64, VOCABULARY)
        assert done == [16, 32, 48, 64]
        executable.close()
