"""One block: its stages against the module itself, and methods on planted outliers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from arkinfer.compiler.calibration.activations import Activations, Shelf
from arkinfer.compiler.calibration.block import (
    DOWN,
    GATE_UP,
    MIXED,
    QKV,
    STAGES,
    Between,
    Block,
    side_by_side,
)
from arkinfer.compiler.calibration.quantize_block import parts_of, quantize_block
from arkinfer.errors import CheckpointError
from arkinfer.models.config import ModelConfig, parse_config
from arkinfer.models.minicpm import DecoderLayer, RotaryEmbedding, causal_attend
from arkinfer.packing import Scheme
from arkinfer.quant.method import METHODS, Method
from arkinfer.testing import preset

GROUPED = parse_config(
    preset("tiny", hidden_size=64, head_dim=16, intermediate_size=96, rope_scaling=None)
)
WHOLE = replace(GROUPED, num_key_value_heads=4)
SAMPLES, TOKENS = 6, 40
INT4 = Scheme(4, 32)

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with side_by_side(1) as found:
        yield found


def weights_of(config: ModelConfig, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    prefix = "model.layers.0."
    shapes = {n: s for n, s in config.tensor_shapes().items() if n.startswith(prefix)}
    found: Tensors = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape)
        value = value / np.sqrt(shape[1]) if len(shape) == 2 else 1 + 0.2 * value
        found[name.removeprefix(prefix)] = value.astype(np.float32)
    return found


def stream(config: ModelConfig, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = np.eye(config.hidden_size) + 0.3 * rng.standard_normal((config.hidden_size,) * 2)
    x = rng.standard_normal((SAMPLES, TOKENS, config.hidden_size)) @ mix
    return x.astype(np.float32)


def placed(x: np.ndarray) -> Activations:
    found = Shelf().place((x.shape[0], x.shape[1], x.shape[2]))
    for sequence, rows in enumerate(x):
        found.write(sequence, rows)
    return found


def between(config: ModelConfig) -> Between:
    shelf = Shelf(limit=0)  # in files
    heads = config.num_attention_heads * config.head_dim
    return Between(
        shelf.place((SAMPLES, TOKENS, heads)),
        shelf.place((SAMPLES, TOKENS, config.intermediate_size)),
    )


def whole(states: Activations) -> np.ndarray:
    return np.stack([states.read(i) for i in range(states.shape[0])])


def output(config: ModelConfig, weights: Tensors, x: np.ndarray) -> np.ndarray:
    """The block's output by the module itself."""
    layer = DecoderLayer(config)
    layer.load_state_dict({n: torch.from_numpy(w.copy()) for n, w in weights.items()})
    cos, sin = RotaryEmbedding(config, 512)(torch.arange(x.shape[1]))
    with torch.no_grad():
        return layer(0, torch.from_numpy(x), cos, sin, causal_attend).numpy()


def quantized(
    config: ModelConfig,
    weights: Tensors,
    x: np.ndarray,
    method: Method,
    pool: ThreadPoolExecutor,
    scheme: Scheme = INT4,
    threads: int = 1,
) -> tuple[Tensors, np.ndarray, dict[str, np.ndarray]]:
    """The weights that remain, the output, and the changed norms."""
    own = {name: weight.copy() for name, weight in weights.items()}
    states = placed(x)
    schemes = {name: scheme for name, weight in own.items() if weight.ndim == 2}
    parts: list[int] = []
    made = quantize_block(
        Block(config, own, 512, states, pool), own, schemes, method, between(config),
        threads=threads, on_part=parts.append,
    )  # fmt: skip
    assert parts == list(range(1, parts_of(method) + 1))
    for name, matrix in made.matrices.items():
        np.testing.assert_array_equal(matrix.dequantize(), own[name])
    return own, whole(states), made.norms


def difference(config: ModelConfig, weights: Tensors, x: np.ndarray, found: np.ndarray,
               skip: int = 0) -> float:  # fmt: skip
    return float(np.square(found - output(config, weights, x))[:, skip:].mean())


@pytest.mark.parametrize("config", [GROUPED, WHOLE])
def test_stages_compute_what_the_module_does(config: ModelConfig, pool: ThreadPoolExecutor) -> None:
    """And the whole block at once the same bits, whatever the number of threads."""
    weights, x = weights_of(config), stream(config)
    staged, at_once, side = placed(x), placed(x), placed(x)
    block, room = Block(config, weights, 512, staged, pool), between(config)
    moments = {stage: block.moments(stage, room) for stage in STAGES}
    block.finish(room)
    Block(config, weights, 512, at_once, pool).forward()
    with side_by_side(2) as two:
        beside = Block(config, weights, 512, side, two)
        observed = beside.all_moments()
        beside.forward()
    np.testing.assert_allclose(whole(staged), output(config, weights, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(whole(staged), whole(at_once))
    np.testing.assert_array_equal(whole(staged), whole(side))
    for stage in STAGES:
        np.testing.assert_array_equal(moments[stage].hessian, observed[stage].hessian)
        np.testing.assert_array_equal(moments[stage].magnitude, observed[stage].magnitude)
    widths = [moments[stage].hessian.shape[0] for stage in (QKV, MIXED, GATE_UP, DOWN)]
    assert widths == [64, 64, 64, 96]


def test_the_first_positions_do_not_count(pool: ThreadPoolExecutor) -> None:
    weights, x = weights_of(GROUPED), stream(GROUPED)
    skipped = Block(GROUPED, weights, 512, placed(x), pool).moments(QKV, between(GROUPED), skip=4)
    variance = np.square(x).mean(-1, keepdims=True)
    normed = weights["input_layernorm.weight"] * x / np.sqrt(variance + GROUPED.rms_norm_eps)
    rows = normed[:, 4:].reshape(-1, 64).astype(np.float64)
    np.testing.assert_allclose(skipped.hessian, rows.T @ rows, rtol=1e-3, atol=1e-2)
    assert skipped.count == SAMPLES * (TOKENS - 4)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("config", [GROUPED, WHOLE])
def test_methods_lose_less_than_rounding(
    name: str, config: ModelConfig, pool: ThreadPoolExecutor
) -> None:
    """The output of the quantized block is what the weights that remain compute, norms included."""
    from arkinfer.quant import round_to_nearest

    weights, x = weights_of(config), stream(config)
    own, found, norms = quantized(config, weights, x, METHODS[name], pool)
    np.testing.assert_allclose(found, output(config, own, x), rtol=1e-3, atol=1e-3)
    assert set(norms) == (
        {"input_layernorm.weight", "post_attention_layernorm.weight"}
        if METHODS[name].smooth
        else set()
    )
    for norm, weight in norms.items():
        np.testing.assert_array_equal(weight, own[norm])
    plain = {
        n: round_to_nearest(w, INT4, clip=False).dequantize() if w.ndim == 2 else w
        for n, w in weights.items()
    }
    rounded = difference(config, weights, x, output(config, plain, x))
    assert difference(config, weights, x, found) < (0.95 if name == "awq" else 0.6) * rounded


@pytest.mark.parametrize("config", [GROUPED, WHOLE])
def test_smoothing_alone_changes_nothing(config: ModelConfig, pool: ThreadPoolExecutor) -> None:
    """In 8 bits nearly so, although every matrix but those of grouped heads was scaled."""
    weights, x = weights_of(config), stream(config)
    weights["input_layernorm.weight"][5] *= 40
    weights["mlp.up_proj.weight"][7] *= 40
    weights["self_attn.v_proj.weight"][3] *= 40
    own, found, norms = quantized(config, weights, x, METHODS["awq"], pool, Scheme(8, 32))
    assert norms["input_layernorm.weight"][5] < 0.7 * weights["input_layernorm.weight"][5]
    assert np.abs(own["mlp.up_proj.weight"][7]).max() < 0.7 * 40
    shrunk = (
        np.abs(own["self_attn.v_proj.weight"][3]).max()
        / np.abs(weights["self_attn.v_proj.weight"][3]).max()
    )
    if config is WHOLE:
        assert shrunk < 0.7
    wanted = output(config, weights, x)
    assert np.abs(found - wanted).mean() < 0.02 * np.abs(wanted).mean()


def test_first_tokens_mislead_gptq_and_not_p_gptq(pool: ThreadPoolExecutor) -> None:
    """A unit that fires on the first token alone, a thousand times as strong as others, as large
    models have them: it decides how much the Hessian is damped."""
    weights, x = weights_of(GROUPED), stream(GROUPED)
    x[..., 0] = 0
    x[:, 0] *= 0.01
    x[:, 0, 0] = 1000
    weights["self_attn.o_proj.weight"][0] = 0
    for name in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
        weights[name][7] = 0
        weights[name][7, 0] = 6
    lost, seen = {}, {}
    for name in ("gptq", "pgptq"):
        method = METHODS[name]
        _, found, _ = quantized(GROUPED, weights, x, method, pool, Scheme(3, 32))
        lost[name] = difference(GROUPED, weights, x, found, skip=4)
        block = Block(GROUPED, weights, 512, placed(x), pool)
        seen[name] = float(np.sqrt(block.all_moments(method.skip)[DOWN].hessian[7, 7]))
    assert seen["gptq"] > 900
    assert seen["pgptq"] < 1
    assert lost["pgptq"] < 0.8 * lost["gptq"]


def test_matrices_without_a_scheme_stay(pool: ThreadPoolExecutor) -> None:
    weights, x = weights_of(GROUPED), stream(GROUPED)
    for method in METHODS.values():
        own = {name: weight.copy() for name, weight in weights.items()}
        schemes = {"self_attn.q_proj.weight": INT4, "mlp.down_proj.weight": Scheme(8, 0)}
        made = quantize_block(
            Block(GROUPED, own, 512, placed(x), pool), own, schemes, method, between(GROUPED)
        )
        assert {name: m.scheme for name, m in made.matrices.items()} == schemes
        wanted = output(GROUPED, weights, x)
        assert np.abs(output(GROUPED, own, x) - wanted).mean() < 0.1 * np.abs(wanted).mean()


def test_activations_that_overflow_are_refused(pool: ThreadPoolExecutor) -> None:
    weights, x = weights_of(GROUPED), stream(GROUPED)
    weights["mlp.up_proj.weight"] *= np.float32(1e36)
    with pytest.raises(CheckpointError, match="activations of the calibration text are not finite"):
        quantized(GROUPED, weights, x, METHODS["gptq"], pool)
