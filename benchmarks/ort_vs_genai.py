"""Paired speed of our ONNX Runtime backend and onnxruntime-genai on one random 0.5B-shaped model.

    python benchmarks/ort_vs_genai.py --folder /tmp/compare --rounds 20

Both get the same seeded Llama-shaped checkpoint, int4 in blocks of 128 (head and embedding too),
accuracy level 4, the same threads. Each runs in a process of its own; rounds alternate, and which
one begins alternates too, so that what else the machine does meets both. Where a process finds
its pages moves its speed by 4 %, so the rounds are spread over several launches. The figure is
the median over rounds of the ratio of the two speeds in one round. Needs `arkinfer[build]`,
`onnxruntime-genai` and `transformers`; the first run makes both models in the folder (2 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CHUNK = 512
PAUSE = 0.3  # seconds; the threads of the other process spin for up to 0.1 before they sleep
CASES = {  # name: (depth, what is timed, tokens)
    "prefill(512)": (0, "prefill", 512),
    "decode at 0": (0, "decode", 16),
    "decode at 8192": (8192, "decode", 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("compare"), help="holds the models")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--launches", type=int, default=4, help="fresh pairs of processes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", action="append", choices=CASES, help="default: all")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if options.worker:
        serve(*options.worker, options.threads)
        return
    results = compare(options, options.case or list(CASES))
    if options.json:
        print(json.dumps(results, indent=1))


def compare(options: argparse.Namespace, cases: list[str]) -> dict[str, dict[str, float]]:
    """Runs the cases and prints a line for each."""
    paths = {"arkinfer": our_model(options.folder), "genai": their_model(options.folder)}
    speeds = {case: {kind: [] for kind in paths} for case in cases}
    facts: dict[str, dict[str, float]] = {}
    for _ in range(options.launches):
        workers = {kind: Worker(kind, path, options.threads) for kind, path in paths.items()}
        try:
            facts["same model"] = {"correlation": same_model(workers)}
            for case in cases:
                found = rounds(workers, *CASES[case], -(-options.rounds // options.launches))
                for kind, values in found.items():
                    speeds[case][kind] += values
            for kind, worker in workers.items():
                facts[kind] = worker.call("memory", 0)
        finally:
            for worker in workers.values():
                worker.close()
    for case, found in speeds.items():
        facts[case] = summary(np.array(found["arkinfer"]), np.array(found["genai"]))
    for name, values in facts.items():
        text = ", ".join(f"{key} {value:,.3f}" for key, value in values.items())
        print(f"{name:15} {text}", file=sys.stderr if options.json else sys.stdout, flush=True)
    return facts


def summary(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Tokens per second, and the quartiles of the ratio within rounds."""
    low, middle, high = np.percentile(ours / theirs, [25, 50, 75])
    return {
        "tok/s": float(np.median(ours)),
        "genai tok/s": float(np.median(theirs)),
        "median paired ratio": float(middle),
        "lower quartile": float(low),
        "upper quartile": float(high),
        "rounds": len(ours),
    }


def rounds(
    workers: dict[str, Worker], depth: int, what: str, count: int, number: int
) -> dict[str, list[float]]:
    """Tokens per second by engine and round; a first round warms up and does not count."""
    speeds: dict[str, list[float]] = {kind: [] for kind in workers}
    for index in range(number + 1):
        order = list(workers) if index % 2 else list(workers)[::-1]
        for kind in order:
            workers[kind].call("seek", depth)
            time.sleep(PAUSE)
            seconds = workers[kind].call(what, count)
            if index:
                speeds[kind].append(count / seconds)
    return speeds


def same_model(workers: dict[str, Worker]) -> float:
    """Correlation of logits after 8 tokens: are these two one model? Their roundings differ."""
    found = [workers[kind].call("predict", 8) for kind in workers]
    return float(np.corrcoef(found)[0, 1])


def checkpoint(folder: Path) -> Path:
    """The shape of MiniCPM4-0.5B without its scalings, which genai's builder does not know."""
    from arkinfer.testing import make_checkpoint, preset

    path = folder / "checkpoint"
    if not (path / "config.json").exists():
        raw = preset("minicpm4-0.5b", architectures=["LlamaForCausalLM"], rope_scaling=None)
        for key in ("scale_emb", "scale_depth", "dim_model_base"):
            raw.pop(key, None)
        path.mkdir(parents=True, exist_ok=True)
        make_checkpoint({**raw, "tie_word_embeddings": True}, seed=0, path=path)
        config = json.loads((path / "config.json").read_text())
        config.update(model_type="llama", rope_theta=10000.0, attention_bias=False)
        (path / "config.json").write_text(json.dumps(config))
    return path


def our_model(folder: Path) -> Path:
    import arkinfer

    path = folder / "model.ark"
    if not path.exists():
        arkinfer.build(
            checkpoint(folder),
            quant="int4-g128",
            embedding="int4-g128",
            backend="onnxruntime",
            output=path,
            chunk=CHUNK,
        )
    return path


def their_model(folder: Path) -> Path:
    path = folder / "genai"
    if not (path / "genai_config.json").exists():
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(checkpoint(folder)), "-o", str(path), "-p", "int4", "-e", "cpu"]
        command += ["-c", str(folder / "cache"), "--extra_options", "block_size=128"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run(
            [*command, "accuracy_level=4"], check=True, env=environment, stderr=subprocess.DEVNULL
        )
    return path


class Worker:
    """An engine in a process of its own."""

    def __init__(self, kind: str, path: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--threads", str(threads), "--worker", kind, str(path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, what: str, count: int):
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, count, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended in {what} with code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(kind: str, path: str, threads: int) -> None:
    """Reads "what count" lines, and answers each with JSON: seconds, or facts."""
    began = time.perf_counter()
    engine = {"arkinfer": Ours, "genai": Theirs}[kind](path, threads)
    load = time.perf_counter() - began
    for line in sys.stdin:
        what, count = line.split()
        if what == "memory":
            answer: object = {"load s": load, **memory()}
        elif what == "predict":
            answer = engine.predict(texts(int(count)))
        else:
            began = time.perf_counter()
            getattr(engine, what)(int(count))
            answer = time.perf_counter() - began
        print(json.dumps(answer), flush=True)


def texts(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(3, 70_000, count)


def memory() -> dict[str, float]:
    """MiB, from the kernel."""
    status = Path("/proc/self/status").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in status)
    return {f"{key} MiB": int(facts[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")}


class Ours:
    def __init__(self, path: str, threads: int) -> None:
        import arkinfer

        self._engine = arkinfer.load(path, threads=threads)
        self._state = self._engine.executable.new_state(9216)

    def seek(self, depth: int) -> None:
        if self._state.length > depth:
            self._state.truncate(depth)
        while self._state.length < depth:
            self._state.step(texts(min(CHUNK, depth - self._state.length)), rows="none")

    def prefill(self, count: int) -> None:
        self._state.step(texts(count))

    def decode(self, count: int) -> None:
        token = 5
        for _ in range(count):
            token = int(np.argmax(self._state.step(np.array([token])).logits[-1]))

    def predict(self, ids: np.ndarray) -> list[float]:
        self.seek(0)
        return self._state.step(ids).logits[-1].tolist()


class Theirs:
    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime_genai as og

        file = Path(path) / "genai_config.json"
        config = json.loads(file.read_text())
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        file.write_text(json.dumps(config))
        self._model = og.Model(path)
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=9216, do_sample=False)
        self._generator = og.Generator(self._model, parameters)

    def seek(self, depth: int) -> None:
        if self._generator.token_count() > depth:
            self._generator.rewind_to(depth)
        while self._generator.token_count() < depth:
            self.prefill(min(CHUNK, depth - self._generator.token_count()))

    def prefill(self, count: int) -> None:
        self._generator.append_tokens(texts(count).astype(np.int32))

    def decode(self, count: int) -> None:
        """One call of the model per token: the first token is appended, which runs the model, and
        the last one is chosen from logits that are there already."""
        self._generator.append_tokens(np.array([5], np.int32))
        for _ in range(count):
            self._generator.generate_next_token()

    def predict(self, ids: np.ndarray) -> list[float]:
        self.seek(0)
        self._generator.append_tokens(ids.astype(np.int32))
        logits = self._generator.get_output("logits")
        return logits.reshape(-1, logits.shape[-1])[-1].tolist()


if __name__ == "__main__":
    main()
