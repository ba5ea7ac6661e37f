"""From a traced module to the one that backends are given, the same results all the way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer.frontend.dense import dense_module
from arkinfer.ir import Module, Value, Weight
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.packing import parse_scheme
from arkinfer.passes import Pass, parse_passes, pass_named, run_pipeline, standard_pipeline
from arkinfer.passes.use_quantized import declare
from arkinfer.quant import parse_quant
from arkinfer.testing import FAMILY, family

Traced = Callable[[ModelConfig], Module]
Execute = Callable[..., dict[str, Any]]

DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
LENGTHS = [(1, 0), (5, 0), (3, 4)]
"""(fresh tokens, tokens seen before)."""


def random_config(seed: int) -> ModelConfig:
    """Any shape of the family, small."""
    draw = random.Random(seed)
    kv, group = draw.choice([1, 2, 3]), draw.choice([1, 2, 4])
    head_dim, hidden = draw.choice([4, 8, 12, 32]), 32 * draw.choice([1, 2, 3])
    raw: dict[str, Any] = {
        "architectures": [draw.choice(["MiniCPMForCausalLM", "LlamaForCausalLM"])],
        "hidden_size": hidden,
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "num_attention_heads": kv * group,
        "num_key_value_heads": kv,
        "head_dim": head_dim,
        "intermediate_size": 32 * draw.choice([1, 3, 5]),
        "vocab_size": draw.choice([37, 64]),
        "max_position_embeddings": 64,
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "tie_word_embeddings": draw.choice([True, False]),
        "scale_emb": draw.choice([1, 12, 0.5]),
        "scale_depth": draw.choice([1, 1.4]),
        "dim_model_base": draw.choice([hidden, 16]),
        "torch_dtype": draw.choice(list(DTYPES)),
    }
    if draw.random() < 0.5:
        factors = [1 + i for i in range(head_dim // 2)]
        raw["rope_scaling"] = {
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": [3 * f for f in factors],
            "original_max_position_embeddings": draw.choice([16, 64]),
        }
    return parse_config(raw)


CONFIGS = {name: family(name) for name in FAMILY} | {f"r{i}": random_config(i) for i in range(4)}


def fused(module: Module, quant: str = "none", store: str | None = None) -> Module:
    run_pipeline(module, standard_pipeline(parse_quant(quant), store))
    return module


def like_dense(module: Module, config: ModelConfig) -> Module:
    module.attributes |= {"context": 64, "chunk": 64, "vocab_size": config.vocab_size}
    return module


def assert_close(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape, f"{name} {where}"
        error = np.abs(found[name] - wanted).max(initial=0)
        assert error <= 1e-5 * np.abs(wanted).max(initial=0), f"{name} {where}"


@pytest.mark.parametrize("name", CONFIGS)
def test_it_arrives_at_the_module_that_backends_are_given(name: str, traced: Traced) -> None:
    config = CONFIGS[name]
    module = like_dense(fused(traced(config)), config)
    expected = dense_module(config, context=64, dtype=DTYPES[config.torch_dtype])
    assert ir.print_module(module) == ir.print_module(expected)
    is_expected = module == expected
    assert is_expected
    assert module.remarks == []


@pytest.mark.parametrize("quant", ["int4-g32", "int8", "int4-row-asym"])
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_it_does_so_too(quant: str, tied: bool, traced: Traced) -> None:
    config = family("tied", intermediate_size=256, tie_word_embeddings=tied)
    spec = parse_quant(quant)
    module = like_dense(fused(traced(config), quant), config)
    expected = dense_module(config, context=64, linear=spec.linear, embedding=spec.embedding)
    assert ir.print_module(module) == ir.print_module(expected)


@pytest.mark.parametrize("mixed", [False, True])
def test_declared_forms_are_used_alike(mixed: bool, traced: Traced) -> None:
    """Where q, k and v differ, in layer 0, they stay apart."""
    config = family("tied", intermediate_size=256)
    schemes = {
        name: parse_scheme("int8-g32" if mixed and "0.self_attn.k" in name else "int4-g32")
        for name in config.tensor_shapes()
        if "_proj" in name and "up_proj" not in name
    }
    module = traced(config)
    forms = {name: ("stored", scheme) for name, scheme in schemes.items()}
    declare(module, forms)
    module = like_dense(fused(module, "int8"), config)
    spec = parse_quant("int8")
    expected = dense_module(
        config, context=64, linear=spec.linear, embedding=spec.embedding,
        declared=forms,
    )  # fmt: skip
    assert ir.print_module(module) == ir.print_module(expected)
    assert ("model.layers.0.self_attn.k_proj.weight.int8-g32" in module.weights) == mixed
    assert "model.layers.1.self_attn.qkv_proj.weight.int4-g32" in module.weights


def reads_back(folder: Path, module: Module) -> None:
    """Both dumps of one pass, the second of which is the module."""
    first, second = (ir.parse_module(file.read_text()) for file in sorted(folder.iterdir()))
    same = [ir.parse_module(ir.print_module(each)) == each for each in (first, second)]
    assert same == [True, True]
    is_module = second == module  # not in the assert, where a failure would print both graphs
    assert is_module


@pytest.mark.parametrize("name", CONFIGS)
def test_before_and_after_every_pass(
    name: str, traced: Traced, execute: Execute, tmp_path: Path
) -> None:
    config = CONFIGS[name]
    passes = [*standard_pipeline(), *parse_passes("rescale-residual")]
    module = traced(config)
    expected = [execute(module, config, *lengths) for lengths in LENGTHS]
    assert expected[0]["logits"].std() > 0.1
    for number, each in enumerate(passes):
        run_pipeline(module, [each], dump_dir=tmp_path / str(number))
        for lengths, wanted in zip(LENGTHS, expected, strict=True):
            assert_close(execute(module, config, *lengths), wanted, f"after {each.name}")
        reads_back(tmp_path / str(number), module)


@pytest.mark.parametrize(
    "spec",
    [
        "quantize{linear=int4-g32}",
        "quantize{linear=int8-row, embedding=int4-g32-asym, clip=false}",
        "quantize{embedding=int8-g64}",
        "store-weights{dtype=f16}",
        "store-weights{dtype=bf16}",
    ],
)
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_approximations_change_the_weights_only(
    name: str, spec: str, traced: Traced, execute: Execute
) -> None:
    """The results are those of the same module with the approximate weights in it."""
    config = family(name)
    before, after = fused(traced(config)), fused(traced(config))
    (run,) = run_pipeline(after, [pass_named(spec)])
    assert run.changed
    for lengths in LENGTHS:
        found = execute(after, config, *lengths)
        assert_close(found, execute(before, config, *lengths, after.weights), spec)
        exact = execute(before, config, *lengths)["logits"]
        assert 1e-5 < np.abs(found["logits"] - exact).max() / np.abs(exact).max() < 0.5


def test_tied_matrices_stay_one(traced: Traced) -> None:
    module = fused(traced(family("tied")), "int4-g32", "f16")
    tables = {
        n.weights[0].name for n in module.nodes() if n.loc in ("model.embed_tokens", "lm_head")
    }
    assert tables == {"model.embed_tokens.weight.int8-g32"}
    stored = fused(traced(family("tied")), store="f16")
    tables = {
        n.weights[0].name for n in stored.nodes() if n.loc in ("model.embed_tokens", "lm_head")
    }
    assert tables == {"model.embed_tokens.weight.f16"}


def scrambled(module: Module, seed: int) -> Module:
    """The module with every name of a weight, value, input, output and place replaced."""
    draw = random.Random(seed)
    fresh: dict[str, str] = {}

    def name(old: str) -> str:
        return fresh.setdefault(old, f"{draw.choice('abcxyz')}{draw.getrandbits(40):x}")

    renamed = {n: replace(w, name=name(n)) for n, w in module.weights.items()}
    order = list(renamed.values())
    draw.shuffle(order)
    module.weights = {w.name: w for w in order}
    function = module.functions.pop("step")
    function.name = name("the function")
    module.functions[function.name] = function
    function.output_names = [name(f"out {n}") for n in function.output_names]
    for value in function.inputs:
        value.name = name(f"in {value.name}")
    for node in function.nodes:
        node.loc = name(f"at {node.loc} {draw.randrange(3)}")
        node.operands = [renamed[o.name] if isinstance(o, Weight) else o for o in node.operands]
    return module


def structure(module: Module) -> list[Any]:
    """Everything but names: ops, attributes, types, and what is made of what."""
    (function,) = module.functions.values()
    numbers: dict[Any, int] = {}

    def number(operand: Value | Weight) -> Any:
        key = operand.name if isinstance(operand, Weight) else operand
        return numbers.setdefault(key, len(numbers)), str(operand.type)

    found: list[Any] = [[number(value) for value in function.inputs]]
    for node in function.nodes:
        operands = [number(operand) for operand in node.operands]
        results = [number(value) for value in node.results]
        found.append((node.op, operands, sorted(node.attributes.items()), results))
    return [*found, [number(value) for value in function.outputs]]


@pytest.mark.parametrize("name", ["tied", "longrope-long", "llama-untied", "r0", "r1"])
def test_names_do_not_matter(name: str, traced: Traced) -> None:
    config = CONFIGS[name]
    plain = fused(traced(config))
    for seed in range(3):
        module = fused(scrambled(traced(config), seed))
        assert structure(module) == structure(plain)
        assert not any("proj" in w or "model" in w for w in module.weights)


def test_every_fusion_fires_once_per_layer(traced: Traced) -> None:
    module = fused(traced(family("untied")))
    layers = family("untied").num_hidden_layers
    counts = Counter(node.op for node in module.nodes())
    assert counts["nn.rms_norm"] == 2 * layers + 1
    assert counts["nn.rope"] == counts["nn.add"] == counts["cache.append"] == 2 * layers
    assert counts["attn.dense"] == counts["nn.silu_mul"] == layers
    assert counts["nn.linear"] == 5 * layers + 1
    assert set(counts) == {
        *("nn.add", "nn.embedding", "nn.linear", "nn.rms_norm", "nn.rope", "nn.silu_mul"),
        *("cache.append", "attn.dense"),
        *("tensor.arange", "tensor.reshape", "tensor.slice", "tensor.take"),
    }


def test_layers_share_proofs(traced: Traced) -> None:
    from arkinfer.passes import prove

    few, many = family("tied"), family("tied", num_hidden_layers=5)
    fused(traced(few))
    misses = prove._difference.cache_info().misses
    fused(traced(many))  # the same but for the residual scale, which fold-scalars proves anew
    after = prove._difference.cache_info().misses
    assert after - misses <= 1


def test_the_residual_stream_is_rescaled_as_dense_modules_are(traced: Traced) -> None:
    config = family("longrope-long")
    module = fused(traced(config))
    (run,) = run_pipeline(module, [pass_named("rescale-residual")])
    assert run.changed
    assert module.remarks == []
    nodes = list(module.nodes())
    assert {n.attributes["scale"] for n in nodes if n.op == "nn.add"} == {1.0}
    (embedding,) = (n for n in nodes if n.op == "nn.embedding")
    r = config.residual_scale
    assert embedding.attributes["scale"] == pytest.approx(config.embedding_scale / r, rel=1e-12)
    for node in nodes:
        if node.op == "nn.rms_norm":
            assert node.attributes["eps"] == pytest.approx(config.rms_norm_eps / r**2, rel=1e-12)


@pytest.mark.parametrize(
    ("quant", "embedding", "text"),
    [
        (
            "int4-g128",
            "int8-g32",
            "model.layers.0.self_attn cannot be quantized to int4-g128: it has 96 inputs. Groups "
            "of 128 must divide the inputs and fill whole bytes. Choose int4-g32, int4-row or none "
            "for the linears.",
        ),
        (
            "int4-row",
            "int8-g64",
            "model.embed_tokens cannot be quantized to int8-g64: it has 96 inputs. Groups of 64 "
            "must divide the inputs and fill whole bytes. Choose int8-g32, int8-row or none for "
            "embedding and head.",
        ),
    ],
)
def test_a_group_that_does_not_fit(quant: str, embedding: str, text: str, traced: Traced) -> None:
    module = traced(family("tied", hidden_size=96, dim_model_base=96))
    passes: list[Pass] = standard_pipeline(parse_quant(quant, embedding))
    with pytest.raises(UnsupportedError) as caught:
        run_pipeline(module, passes)
    assert str(caught.value) == text
