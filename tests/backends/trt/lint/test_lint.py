"""The lint: silent on what the compiler writes, and not on a network in which a rule is broken."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from arkinfer.errors import InternalError, UnsupportedError
from arkinfer_trt.lint import check, violations
from tests.backends.expectations import REFUSED
from tests.backends.lab import Lab
from tests.backends.models import MODELS
from tests.backends.trt.lint.networks import Broken, networks
from tests.backends.trt.lint.seeds import SEEDS, attention_is_capped

RUNS = [name for name in MODELS if name not in REFUSED["tensorrt"]]


@pytest.mark.parametrize("name", RUNS)
def test_what_the_compiler_writes_is_clean(name: str, lab: Lab) -> None:
    for model, constants in networks(lab.path("tensorrt", MODELS[name])).values():
        assert [str(each) for each in violations(model, constants)] == []


@pytest.fixture
def both(lab: Lab) -> dict[str, tuple[ModelProto, set[str]]]:
    """Networks of one model: with int4 by DequantizeLinear, and by our plug-in."""
    return networks(lab.path("tensorrt", MODELS["three layers int4"]))


@pytest.fixture
def native(both: dict[str, tuple[ModelProto, set[str]]]) -> tuple[ModelProto, set[str]]:
    return both["native"]


@pytest.mark.parametrize("name", SEEDS)
def test_a_broken_rule_is_named(name: str, both: dict[str, tuple[ModelProto, set[str]]]) -> None:
    """By the op of the IR, the torch path, and the name of the rule."""
    network, seed, line = SEEDS[name]
    model, constants = both[network]
    seed(Broken(model))
    assert line in [str(each) for each in violations(model, constants)]
    with pytest.raises(UnsupportedError):
        check(model, constants)


def test_each_rule_is_broken_by_some_seed() -> None:
    rules = {line.rpartition("[")[2].rstrip("]") for _, _, line in SEEDS.values()}
    assert len(SEEDS) > 40
    assert len(rules) > 20


def test_one_broken_rule_reads_so(native: tuple[ModelProto, set[str]]) -> None:
    model, constants = native
    attention_is_capped(Broken(model))
    with pytest.raises(UnsupportedError) as refusal:
        check(model, constants)
    assert str(refusal.value) == (
        "TensorRT 10.16 does not take the network. attn.dense at model.layers.0.self_attn "
        "(Attention): softcap is 30.0; it has to be 0; TensorScatter keeps keys and values and "
        "attn_mask hides what is not written [attributes]. Please report it with these lines; "
        "`--backend onnxruntime` builds for the cores of the board, without TensorRT."
    )


def test_of_many_broken_rules_the_first_are_told(native: tuple[ModelProto, set[str]]) -> None:
    """JetPack 6 has TensorRT 10.3, which parses no such network."""
    model, constants = native
    found = violations(model, constants, "10.3")
    ops = ("RMSNormalization", "RotaryEmbedding", "TensorScatter", "Attention")
    assert {each.place.rpartition("(")[2].rstrip(")") for each in found} == set(ops)
    with pytest.raises(UnsupportedError) as refusal:
        check(model, constants, "10.3")
    message = str(refusal.value)
    assert message.startswith("TensorRT 10.3 does not take the network. ")
    assert message.count("new in TensorRT 10.1") == 3
    assert f"There are {len(found) - 3} more." in message


def test_weights_are_inputs_that_become_constants(native: tuple[ModelProto, set[str]]) -> None:
    """Where the executor does not make constants of them, TensorRT dequantizes nothing."""
    model, _ = native
    assert {each.rule for each in violations(model)} == {"constant-input", "tensor-types"}


def test_what_has_no_name_is_told_as_far_as_it_goes(native: tuple[ModelProto, set[str]]) -> None:
    """Of a network that something else wrote."""
    model, constants = native
    node = Broken(model).node("Sigmoid")
    node.op_type, node.name = "Swish", ""
    del node.metadata_props[:]
    found = [str(each) for each in violations(model, constants)]
    assert found[0].startswith("Swish at a place without a name (Swish): new in TensorRT 11.0")


def test_what_is_not_onnx_is_our_fault(native: tuple[ModelProto, set[str]]) -> None:
    model, constants = native
    del Broken(model).node("DequantizeLinear").input[1:]
    with pytest.raises(InternalError, match=r"^A network was made that is not ONNX\. .*bounds"):
        check(model, constants)
