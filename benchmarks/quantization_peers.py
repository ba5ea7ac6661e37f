"""What our calibrated weights cost beside those that other quantizers make of the same model.

    python -m benchmarks.quantization_peers --calib train.jsonl --python P --llama-python L

Against llm-compressor and GPTQModel (in the Python P; of what is missing there, it is said): GPTQ
of the linears alone, in the same groups, on the same sequences, one run for each seed. They know no
MiniCPM and get the Llama that is its equal (`benchmarks/llama_twin.py`). Against llama.cpp (in the
Python L): whole models, embedding and head included, at no more bits per weight, every scale
counted as it is stored. All results are read back by our importers and judged alike: perplexity
above that of the model as it is, and mean KL divergence from it. Time and memory are those of the
quantizer's process as a whole. Knows no artifact and no backend.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arkinfer.compiler.calibration.text import TextOptions, sequences
from arkinfer.compiler.export import export
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.frontend.gguf.file import read_header
from arkinfer.frontend.gguf.tensors import gguf_name
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.packing import parse_scheme
from arkinfer.quant import round_to_nearest
from benchmarks.llama_twin import EMBEDDING, branch_scale, write_twin
from benchmarks.quantization_quality import HELD_OUT, Judge

SCRIPTS = Path(__file__).with_name("quantizers")
METHODS = ("gptq", "spgptq")
OTHERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llm-compressor", "llm_compressor", {}),
    ("llm-compressor, ranges by squared error", "llm_compressor", {"observer": "memoryless_mse"}),
    ("GPTQModel", "gptqmodel", {}),
    ("GPTQModel, ranges by errors to the 2.4", "gptqmodel", {"mse": 2.4}),
)
"""What to call it, the script, and options beside what the quantizer does by itself."""

WHOLE: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("int4-gptq-g128", "int8-row", {"model.layers.*.mlp.down_proj": "int4-row"}),
    ("int4-gptq-g128", "int8-row", {"model.layers.*.self_attn.[kv]_proj": "int8-g128"}),
)
"""Linears, embedding, and exceptions: what is compared with each of `TYPES`."""

TYPES = (("Q4_0", 2), ("Q4_K_M", 15))
Weights = Mapping[str, "np.ndarray[Any, np.dtype[np.float32]]"]


@dataclass(frozen=True)
class Made:
    """One run of a quantizer."""

    perplexity: float
    kl: float
    bits: float
    seconds: float
    mebibytes: float


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    checkpoint: Checkpoint
    judge: Judge
    folder: Path
    calib: Path | None
    samples: int
    seeds: int

    def text(self, seed: int) -> TextOptions:
        return TextOptions(self.calib, self.samples, seed=seed)

    def judged(self, weights: Weights, bits: float, spent: tuple[float, float]) -> Made:
        perplexity, kl = self.judge(weights)
        return Made(perplexity - self.judge.perplexity, kl, bits, *spent)

    def run(self, name: str, command: Sequence[object], **extra: str) -> tuple[float, float]:
        """Seconds, and the peak of resident memory in MiB, of a process.

        Raises:
            CalledProcessError: it failed.
            OSError: there is no such program.
        """
        answer, log = self.folder / f"{name}.json", self.folder / f"{name}.log"
        words = [str(word) for word in command]
        subprocess.run(
            [sys.executable, SCRIPTS / "measured.py", answer, log, *words],
            check=True, cwd=self.folder, env={**os.environ, **extra},
        )  # fmt: skip
        found = json.loads(answer.read_text())
        if found["code"]:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise subprocess.CalledProcessError(found["code"], words[:2], "".join(last))
        return found["seconds"], found["mebibytes"]


def ours(bench: Bench, recipe: Path, seed: int) -> tuple[Path, tuple[float, float]]:
    """Our own export, by the command that a user gives."""
    out = bench.folder / f"ours-{recipe.stem}-{seed}"
    own = () if bench.calib is None else ("--calib", bench.calib)
    command = (
        sys.executable, "-m", "arkinfer", "export", bench.checkpoint.path, "--no-cache",
        "--format", "compressed-tensors", "--recipe", recipe, "-o", out, *own,
        "--calib-samples", bench.samples, "--calib-seed", seed,
    )  # fmt: skip
    return out, bench.run(out.name, command)


def recipe_for(
    bench: Bench, quant: str, embedding: str = "none", overrides: Mapping[str, str] | None = None
) -> Path:
    """A recipe's file; its name is that of what it makes."""
    own = zlib.crc32(repr(overrides).encode())
    file = bench.folder / f"{quant}-{embedding}-{own:x}.toml"
    lines = [
        'summary = "a benchmark"', f'models = ["{bench.checkpoint.name}"]', 'target = "cpu"',
        f'quant = "{quant}"', f'embedding = "{embedding}"', "[overrides]",
        *(f'"{pattern}" = "{scheme}"' for pattern, scheme in (overrides or {}).items()),
    ]  # fmt: skip
    file.write_text("\n".join(lines))
    return file


def linears(bench: Bench, folder: Path, twin: bool) -> tuple[dict[str, Any], float]:
    """All weights, the linears being those of a folder; and the bits of each of these."""
    found, size, count = dict(bench.judge.weights), 0, 0
    config = bench.checkpoint.config
    with open_checkpoint(folder) as made:
        for name, weight in found.items():
            if name in made.schemes():
                stored = made.quantized(name, 0, len(weight))
                found[name] = stored.dequantize().astype(np.float32)
                size += sum(part.nbytes for part in stored.parts().values())
                count += weight.size
            elif name.endswith("norm.weight"):
                found[name] = made.read(name).astype(np.float32)
            if twin and name in made.schemes():
                found[name] /= np.float32(branch_scale(config, name))
    return found, 8 * size / count


def against_gptq(bench: Bench, python: str, source: str | None, group: int) -> None:
    """The first table."""
    print(HEAD)
    for method in METHODS:
        recipe = recipe_for(bench, f"int4-{method}-g{group}")
        made: list[Made] = []
        for seed in range(bench.seeds):
            out, spent = ours(bench, recipe, seed)
            made.append(bench.judged(*linears(bench, out, twin=False), spent))
        show(f"arkinfer `{method}`", made)
    twin = write_twin(bench.checkpoint, bench.folder / "twin")
    extra = {} if source is None else {"PYTHONPATH": source}
    for name, script, options in OTHERS:
        made = []
        for seed in range(bench.seeds):
            ids = bench.folder / f"ids-{seed}.npy"
            np.save(ids, sequences(bench.text(seed), bench.checkpoint).ids)
            out = bench.folder / f"{script}-{len(options)}-{seed}"
            given = json.dumps({"group": group, **options})
            command = (python, SCRIPTS / f"{script}.py", twin, ids, out, given)
            try:
                spent = bench.run(out.name, command, **extra)
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "output", None) or error
                print(f"{name} did not run here: {said}", file=sys.stderr)
                break
            made.append(bench.judged(*linears(bench, out, twin=True), spent))
        if made:
            show(name, made)


def against_llama_cpp(bench: Bench, python: str) -> None:
    """The second table: pairs of llama.cpp's type and what we make at no more bits."""
    print(HEAD)
    plain = bench.folder / "plain.gguf"
    export(bench.checkpoint.path, "gguf", plain, type="f16")
    for (name, number), (quant, embedding, overrides) in zip(TYPES, WHOLE, strict=True):
        out = bench.folder / f"{name}.gguf"
        spent = bench.run(name, (python, SCRIPTS / "llama_cpp.py", plain, out, number))
        with open_checkpoint(out) as stored:
            weights = {n: stored.read(n).astype(np.float32) for n in stored.names()}
        theirs = bench.judged(weights, _gguf_bits(out, stored), spent)
        show(f"llama.cpp {name}", [theirs])
        made = [
            whole(bench, recipe_for(bench, quant, embedding, overrides), embedding, seed)
            for seed in range(bench.seeds)
        ]
        rest = "".join(f"`{s}` for {p.rpartition('.')[2]}, " for p, s in overrides.items())
        show(f"arkinfer `{quant}`, {rest}embedding `{embedding}`", made)


def whole(bench: Bench, recipe: Path, embedding: str, seed: int) -> Made:
    """Linears of ours, and the embedding as a build rounds it; bits as an artifact has them."""
    out, spent = ours(bench, recipe, seed)
    weights, _ = linears(bench, out, twin=False)
    scheme = parse_scheme(embedding)
    table = round_to_nearest(weights[EMBEDDING], scheme)
    weights[EMBEDDING] = table.dequantize()
    with open_checkpoint(out) as made:
        schemes = {**made.schemes(), EMBEDDING: scheme}
    sizes = {name: weights[name].size for name in schemes}
    bits = sum(s.bits_per_weight(weights[n].shape[1]) * sizes[n] for n, s in schemes.items())
    return bench.judged(weights, bits / sum(sizes.values()), spent)


def _gguf_bits(file: Path, stored: Checkpoint) -> float:
    """Of a weight of a matrix, on average."""
    entries = read_header(file).tensors
    own = [entries[gguf_name(n)] for n in stored.names() if len(stored.shape(n)) == 2]
    return 8 * sum(e.nbytes for e in own) / sum(int(np.prod(e.shape)) for e in own)


HEAD = (
    "\n| quantizer | bits | perplexity above | KL | over seeds | time | memory |\n"
    "|---|---|---|---|---|---|---|"
)


def show(name: str, made: Sequence[Made]) -> None:
    """A row: means, and the range of the divergences."""
    kls = [each.kl for each in made]
    above, bits = (float(np.mean([getattr(m, f) for m in made])) for f in ("perplexity", "bits"))
    seconds, peak = (
        float(np.mean([getattr(m, f) for m in made])) for f in ("seconds", "mebibytes")
    )
    print(
        f"| {name} | {bits:.3f} | {above:.3f} | {np.mean(kls):.4f} | {min(kls):.4f}–{max(kls):.4f} "
        f"| {seconds:.0f} s | {peak:,.0f} MiB |",
        flush=True,
    )


def program(name: str) -> str:
    """Its path, which holds in any folder."""
    if (found := shutil.which(name)) is None:
        raise argparse.ArgumentTypeError(f"there is no program {name}")
    return os.path.abspath(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=demo_checkpoint())
    parser.add_argument("--heldout", type=Path, default=HELD_OUT)
    parser.add_argument("--limit", type=int, default=1 << 20, help="held-out tokens")
    parser.add_argument("--calib", type=Path, help="default: the built-in text")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--python", type=program, help="that has llmcompressor and gptqmodel")
    parser.add_argument("--gptqmodel", type=os.path.abspath, help="its folder, if not installed")
    parser.add_argument("--llama-python", type=program, help="that has llama_cpp")
    given = parser.parse_args()
    if not (given.python or given.llama_python):
        parser.error("name a Python with other quantizers: --python, --llama-python, or both")
    with (
        tempfile.TemporaryDirectory() as temporary,
        open_checkpoint(given.model.resolve()) as checkpoint,
    ):
        judge = Judge(checkpoint, given.heldout.read_text(encoding="utf-8"), given.limit)
        print(f"as it is: perplexity {judge.perplexity:.3f}", flush=True)
        folder = Path(temporary)
        calib = None if given.calib is None else given.calib.resolve()
        bench = Bench(checkpoint, judge, folder, calib, given.samples, given.seeds)
        if given.python:
            against_gptq(bench, given.python, given.gptqmodel, given.group)
        if given.llama_python:
            against_llama_cpp(bench, given.llama_python)


if __name__ == "__main__":
    main()
