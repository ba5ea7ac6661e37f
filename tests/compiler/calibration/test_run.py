"""A calibration of a small model: what is reused, what continues, and that bytes repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer.compiler.cache import Cache
from arkinfer.compiler.calibration import run
from arkinfer.compiler.calibration.job import Job
from arkinfer.compiler.calibration.linears import norms_of, schemes_for
from arkinfer.compiler.calibration.overlay import Overlay
from arkinfer.compiler.calibration.text import Sequences
from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.packing import Scheme
from arkinfer.quant.method import METHODS
from arkinfer.testing import make_checkpoint, preset

LAYERS = 3
INT4 = Scheme(4, 32)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    config = preset(
        "tiny", hidden_size=64, head_dim=16, intermediate_size=96, num_hidden_layers=LAYERS,
        rope_scaling=None,
    )  # fmt: skip
    return open_checkpoint(make_checkpoint(config, 0, tmp_path_factory.mktemp("c") / "small"))


def job_for(checkpoint: Checkpoint, method: str = "gptq", scheme: Scheme = INT4) -> Job:
    ids = np.random.default_rng(5).integers(3, 500, (6, 32))
    text = Sequences(ids, "random tokens", "", 0)
    config = checkpoint.config
    schemes = schemes_for(config, scheme)
    return Job(config, 256, METHODS[method], schemes, Scheme(8, 32), text)


def calibrated(
    checkpoint: Checkpoint, job: Job, cache: Cache
) -> tuple[dict[str, np.ndarray], list[int]]:
    """All numbers, and the blocks that were computed."""
    computed: list[int] = []
    told: list[tuple[int, int]] = []
    with (
        Overlay(
            checkpoint, job.schemes, norms_of(job.config) if job.method.smooth else ()
        ) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        real = run.quantize_block

        def counted(*args: Any, **options: Any) -> Any:
            computed.append(len(computed))
            return real(*args, **options)

        patch.setattr(run, "quantize_block", counted)
        first: list[int] = []
        run.calibrate(
            checkpoint, job, found, cache, on_first=first.append,
            on_part=lambda done, total: told.append((done, total)),
        )  # fmt: skip
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1]
        assert first == ([LAYERS - len(computed)] if computed else [])
        numbers = {name: found.read(name) for name in found.names()}
        for name in job.schemes:
            halves = [found.quantized(name, 0, 5), found.quantized(name, 5, found.shape(name)[0])]
            rows = np.concatenate([half.dequantize() for half in halves])
            np.testing.assert_array_equal(rows, numbers[name])
    return numbers, [LAYERS - len(computed) + i for i in computed]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_calibration_computes_nothing(
    small: Checkpoint, method: str, tmp_path: Path
) -> None:
    cache, job = Cache(tmp_path), job_for(small, method)
    first, computed = calibrated(small, job, cache)
    again, none = calibrated(small, job, cache)
    assert (computed, none) == ([0, 1, 2], [])
    assert same(first, again)
    assert not list((tmp_path / "states").glob("*/*"))
    without, _ = calibrated(small, job, Cache(None))
    assert same(first, without)
    for name in small.names():
        kept = name not in job.schemes and not (job.method.smooth and "layernorm" in name)
        changed = not np.array_equal(first[name], small.read(name).astype(np.float32))
        assert changed != kept


@pytest.mark.parametrize("keeps", [True, False])
def test_what_was_done_when_it_was_killed_is_not_done_again(
    small: Checkpoint, keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the activations behind the last block kept, and with blocks run again instead."""
    monkeypatch.setattr(run, "WORTH_KEEPING", 0.0 if keeps else 1e9)
    job = job_for(small, "spgptq")
    whole, _ = calibrated(small, job, Cache(None))

    class Killed(BaseException):
        pass

    def kill(cache: Cache, key: str, block: object, real: Callable[..., None]) -> None:
        if len(list((tmp_path / "blocks").glob("*/*"))) == 2:
            raise Killed
        real(cache, key, block)

    real = run.put_block
    with monkeypatch.context() as patch:
        patch.setattr(run, "put_block", lambda c, k, b: kill(c, k, b, real))
        with pytest.raises(Killed):
            calibrated(small, job, Cache(tmp_path))
    kept = list((tmp_path / "states").glob("*/*"))
    assert len(kept) == keeps
    forwards: list[int] = []
    forward = run.Stream.block
    monkeypatch.setattr(run.Stream, "block", lambda *args: forwards.append(0) or forward(*args))
    found, computed = calibrated(small, job, Cache(tmp_path))
    assert computed == [2]
    assert len(forwards) == (1 if keeps else 3)
    assert same(found, whole)
    assert not list((tmp_path / "states").glob("*/*"))


def test_what_results_depend_on(small: Checkpoint, tmp_path: Path) -> None:
    """Another method, text or scheme begins anew; another scheme of a late block, there."""
    cache, job = Cache(tmp_path), job_for(small)
    calibrated(small, job, cache)
    ids = job.sequences.ids.copy()
    ids[0, 3] += 1
    changed = [
        replace(job, method=METHODS["pgptq"]),
        replace(job, sequences=replace(job.sequences, ids=ids)),
        replace(job, schemes=schemes_for(small.config, Scheme(4, 16))),
        replace(job, embedding=None),
        replace(job, context=128),
    ]
    for other in changed:
        assert calibrated(small, other, cache)[1] == [0, 1, 2]
    late = {"model.layers.1.mlp.up_proj.weight": Scheme(8, 32)}
    assert calibrated(small, replace(job, schemes=job.schemes | late), cache)[1] == [1, 2]


@pytest.mark.parametrize("method", ["spgptq", "awq"])
def test_threads_do_not_show(
    small: Checkpoint, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, np.ndarray]] = []
    for threads in (1, 2):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, count=threads: set(range(count)))
        found.append(calibrated(small, job_for(small, method), Cache(None))[0])
    assert same(*found)


def test_activations_on_the_disk_do_not_show(
    small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, _ = calibrated(small, job_for(small), Cache(None))
    real = run.Shelf
    monkeypatch.setattr(run, "Shelf", lambda: real(limit=0))
    outside, _ = calibrated(small, job_for(small), Cache(None))
    assert same(inside, outside)


def test_stored_order(small: Checkpoint) -> None:
    """Inputs in the order of their moments, one for the matrices that share them."""
    method = replace(METHODS["gptq"], static_groups=False)
    job = replace(job_for(small, scheme=Scheme(4, 32, act_order=True)), method=method)
    with Overlay(small, job.schemes, ()) as found:
        run.calibrate(small, job, found, Cache(None))
        parts = [f"model.layers.1.self_attn.{x}_proj.weight" for x in "qkv"]
        orders = [found.quantized(name, 0, 4).order for name in parts]
    assert not np.array_equal(orders[0], np.arange(64))
    for order in orders:
        np.testing.assert_array_equal(order, orders[0])
    assert sorted(orders[0].tolist()) == list(range(64))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(small: Checkpoint, value: float, tmp_path: Path) -> None:
    class Damaged(Checkpoint):
        def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
            rows = super().read(name, start, stop)
            if name == "model.layers.1.mlp.up_proj.weight":
                rows[0, 0] = value
            return rows

    damaged = open_checkpoint(small.path)
    damaged.__class__ = Damaged
    cache = Cache(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        calibrated(damaged, job_for(damaged), cache)
    assert str(caught.value).startswith(
        "model.layers.1.mlp.up_proj.weight holds numbers that are not finite."
    )


def test_a_group_that_does_not_divide(small: Checkpoint) -> None:
    with pytest.raises(UnsupportedError) as caught:
        schemes_for(small.config, Scheme(4, 64))
    assert str(caught.value) == (
        "model.layers.0.mlp.down_proj.weight cannot be quantized to int4-g64: it has 96 inputs. "
        "Groups of 64 must divide the inputs and fill whole bytes. Choose another group size, or "
        "row."
    )
