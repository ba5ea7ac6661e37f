"""The kernels under Triton's interpreter against float64, every launch as the plug-in's; and what
products they are for."""

from __future__ import annotations

import numpy as np
import pytest

from arkinfer.errors import UnsupportedError
from arkinfer.packing import Scheme, encode, parse_scheme
from arkinfer_trt.kernels.gemv import TILES, AnyTile, DotTile, Gemv, Tile, kernel_name, tactics
from arkinfer_trt.kernels.layout import repacked
from tests.backends.trt.kernels.interpreter import Interpreter, interpreting
from tests.backends.trt.kernels.problems import error, inputs, matrix, product

SCHEMES = ("int4-g32", "int4-g64", "int4-g128", "int4-row", "int2-g128", "int2-row", "int8-g128")
SCHEMES += ("int4-g8", "int2-g16", "int8-g4")


interpreter = pytest.fixture(scope="module")(interpreting)


@pytest.mark.parametrize("name", SCHEMES)
def test_products_are_those_of_float64(name: str, interpreter: Interpreter) -> None:
    """Shapes with tails everywhere: rows, inputs, tokens; every tile in turn."""
    scheme = parse_scheme(name)
    rng = np.random.default_rng(sum(name.encode()))
    for tile in TILES:
        unit = scheme.group or 32
        columns = unit * int(rng.integers(1, 1 + 1100 // unit))
        width, tokens = int(rng.integers(1, 14)), int(rng.integers(1, 6))
        weights = matrix(scheme, width, columns, int(rng.integers(1 << 30)))
        x = inputs(tokens, columns, int(rng.integers(1 << 30)))
        y = interpreter.run(Gemv.of(scheme, (width, columns)), tile, x, repacked(weights))
        assert error(y, product(x, weights)) <= 1e-3, (tile, width, columns, tokens)


def any_tile(rng: np.random.Generator) -> AnyTile:
    """Of any size that the kernels are written for."""
    if rng.integers(2):
        warps = int(rng.choice([1, 2, 4]))
        lanes = 32 * warps * int(rng.choice([1, 2, 4]))
        return Tile(int(rng.choice([1, 2, 4, 8])), int(rng.choice([1, 2])), warps, lanes)
    sizes = (int(rng.choice([16, 32, 64])), int(rng.choice([4, 8, 16])), int(rng.choice([32, 64])))
    return DotTile(*sizes, 2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_products_are_those_of_float64(seed: int, interpreter: Interpreter) -> None:
    rng = np.random.default_rng(seed)
    bits = int(rng.choice([2, 4, 8]))
    unit = 32 // bits
    group = unit * int(rng.integers(1, 20))
    columns = group * int(rng.integers(1, 1 + 3000 // group))
    scheme = Scheme(bits, int(rng.choice([0, group])))
    width, tokens = int(rng.integers(1, 40)), int(rng.integers(1, 10))
    tile = any_tile(rng)
    tokens *= 1 if isinstance(tile, Tile) else 7
    weights = matrix(scheme, width, columns, seed)
    x = inputs(tokens, columns, seed + 1)
    y = interpreter.run(Gemv.of(scheme, (width, columns)), tile, x, repacked(weights))
    assert error(y, product(x, weights)) <= 1e-3


@pytest.mark.parametrize("tile", [TILES[0], TILES[5], TILES[7]], ids=lambda tile: tile.name)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_whole_numbers_are_exact(bits: int, tile: AnyTile, interpreter: Interpreter) -> None:
    """Codes at every place of a word; and their sums, times powers of two, down to subnormals."""
    per_word = 32 // bits
    scheme = Scheme(bits, per_word)
    codes = np.arange(0, 1 << bits, 17 if bits == 8 else 1, dtype=np.uint8)
    width, columns = len(codes), 2 * per_word
    every = np.broadcast_to(codes[:, None, None], (width, 2, per_word))
    weights = encode(scheme, np.ascontiguousarray(every), np.ones((width, 2), np.float16))
    gemv, values = Gemv.of(scheme, (width, columns)), codes.astype(np.float64) - (1 << (bits - 1))
    one = np.eye(columns, dtype=np.float16)
    y = interpreter.run(gemv, tile, one, repacked(weights))
    np.testing.assert_array_equal(y, np.broadcast_to(values, (columns, width)))
    power = 2.0 ** np.array([-24, -15, 0, 4])
    x = np.repeat(power[:, None], columns, axis=1).astype(np.float16)
    y = interpreter.run(gemv, tile, x, repacked(weights))
    exact = power[:, None] * values * columns
    np.testing.assert_array_equal(y, exact.astype(np.float16))


@pytest.mark.parametrize("tile", [TILES[0], TILES[7]], ids=lambda tile: tile.name)
def test_scales_are_those_of_their_groups(tile: AnyTile, interpreter: Interpreter) -> None:
    scheme = Scheme(4, 32)
    weights = matrix(scheme, 6, 160, 1)
    for group in range(5):
        x = np.zeros((1, 160), np.float16)
        x[0, group * 32 + 7] = 1
        y = interpreter.run(Gemv.of(scheme, (6, 160)), tile, x, repacked(weights))
        expected = weights.dequantize()[:, group * 32 + 7]
        np.testing.assert_allclose(y[0], expected, rtol=1e-3)


def test_powers_of_two_as_scales_are_exact(interpreter: Interpreter) -> None:
    """Whole x, so that nothing is rounded, neither in weights nor in sums nor in y."""
    scheme = Scheme(4, 32)
    codes = np.random.default_rng(0).integers(0, 16, (9, 5, 32), dtype=np.uint8)
    scale = 2.0 ** np.random.default_rng(1).integers(-3, 1, (9, 5))
    weights = encode(scheme, codes, scale.astype(np.float16))
    x = np.random.default_rng(2).integers(-2, 3, (5, 160)).astype(np.float16)
    exact = product(x, weights)
    assert np.array_equal(exact, exact.astype(np.float16))
    for tile in TILES:
        y = interpreter.run(Gemv.of(scheme, (9, 160)), tile, x, repacked(weights))
        np.testing.assert_array_equal(y, exact)


def test_tactics_leave_no_thread_without_work() -> None:
    assert list(tactics(Gemv(4, 128, 4096, 4096))) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert list(tactics(Gemv(4, 128, 1024, 4096))) == [3, 4, 5, 6, 7, 8, 9]
    assert list(tactics(Gemv(2, 1024, 1024, 4096))) == [4, 7, 8, 9]
    assert list(tactics(Gemv(4, 32, 32, 4096))) == [4, 7, 8, 9]


def test_names_tell_apart_what_is_compiled_apart() -> None:
    products = [Gemv(4, 32, 64, 8), Gemv(4, 64, 64, 8), Gemv(8, 64, 64, 8), Gemv(4, 64, 128, 8)]
    names = {kernel_name(gemv, tile) for gemv in products for tile in TILES}
    assert len(names) == len(products) * len(TILES)
    assert kernel_name(products[0], TILES[0]) == kernel_name(Gemv(4, 32, 64, 9), TILES[0])


@pytest.mark.parametrize(
    ("scheme", "shape", "message"),
    [
        (
            "int4-g128-asym",
            (8, 256),
            "The GEMV kernel cannot multiply by int4-g128-asym. It has neither zero points nor "
            "minima, and inputs stay in their order.",
        ),
        (
            "int4-g128-actorder",
            (8, 256),
            "The GEMV kernel cannot multiply by int4-g128-actorder. It has neither zero points "
            "nor minima, and inputs stay in their order.",
        ),
        (
            "int3-g32",
            (8, 256),
            "The GEMV kernel cannot multiply by 8 x 256 codes. It has codes of 2, 4 or 8 bits, "
            "not 3.",
        ),
        (
            "int4-g4",
            (8, 256),
            "The GEMV kernel cannot multiply by 8 x 256 codes. Groups of 4 must divide the "
            "inputs, and fill words of 8 codes.",
        ),
        (
            "int4-g128",
            (1 << 22, 4096),
            "The GEMV kernel cannot multiply by 4194304 x 4096 codes. It takes 1 to "
            "2,147,483,647 words of 32 bits.",
        ),
    ],
)
def test_what_no_kernel_does_is_refused(scheme: str, shape: tuple[int, int], message: str) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        Gemv.of(parse_scheme(scheme), shape)
    assert str(refusal.value) == message
