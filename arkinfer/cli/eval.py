"""`arkinfer eval`: how well an .ark file predicts a text. Knows no backend."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arkinfer.cli.options import Backend, Device, Json, Models, Threads
from arkinfer.cli.preparing import Loading
from arkinfer.cli.progress import Progress

if TYPE_CHECKING:
    from arkinfer.runtime.engine import Engine

_WINDOW = 2048  # tokens

RULE = (
    "each text is one sequence, read as it is (line ends kept, special tokens recognised); "
    "each window begins with an empty cache{bos}; each token is scored once, in the first window "
    "that holds it"
)


def eval(
    files: Models,
    text: Annotated[
        list[Path], typer.Option("--text", help="A text file (UTF-8); may be given again.")
    ],
    window: Annotated[
        int | None, typer.Option(help=f"Tokens read at once; default: {_WINDOW}, or what fits.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens from window to window; default: half a window.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Score the first tokens of each text only.")
    ] = None,
    threads: Threads = None,
    backend: Backend = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Print the perplexity of .ark files on texts: lower is better.

    Example: arkinfer eval model-int4.ark model-fp32.ark --text held-out.txt
    """
    from arkinfer.errors import UsageError

    if limit is not None and limit < 2:
        raise UsageError(f"A limit of {limit} tokens is too small", fix="Give at least 2")
    texts = [_read(path) for path in text]
    from arkinfer.runtime.engine import load

    models: list[dict[str, Any]] = []
    for file in files:
        with Loading(file) as loading:
            engine = load(
                file, backend=backend, device=device, threads=threads, options=loading.options()
            )
        with engine:
            facts = evaluate(engine, texts, window=window, stride=stride, limit=limit)
        for row, path in zip(facts["texts"], text, strict=True):
            row["path"] = str(path)
        models.append({"path": file, "backend": engine.backend, **facts})
    if json:
        from json import dumps

        print(dumps({"models": models}, indent=2))
        return
    _print(models)


def evaluate(
    engine: Engine,
    texts: list[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """What `--json` prints, but for the paths.

    Args:
        engine: what predicts.
        texts: what to score.
        window: tokens of one window, without the BOS; None: 2048, or what the context holds.
        stride: tokens from window to window; None: half a window.
        limit: tokens of each text that are scored; None: all.

    Raises:
        UsageError: an impossible window or stride, or a text that is too short.
    """
    from arkinfer.runtime.perplexity import score_text

    bos = engine.tokenizer.bos
    room = engine.executable.max_context - (bos is not None)
    window = min(_WINDOW, room) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    encoded = [engine.tokenizer.encode(text) for text in texts]
    if bos is not None:
        encoded = [ids[1:] for ids in encoded]
    encoded = [ids[:limit] for ids in encoded]
    total, before = sum(map(len, encoded)), 0
    rows: list[dict[str, Any]] = []
    progress = Progress("Scoring")
    try:
        for text, ids in zip(texts, encoded, strict=True):
            score = score_text(
                engine.executable, ids, bos=bos, window=window, stride=stride,
                progress=lambda done, _, before=before: progress(before + done, total),
            )  # fmt: skip
            before += len(ids)
            scored = text if limit is None else engine.tokenizer.decode(ids)
            rows.append(_row(score.nll, score.tokens, len(scored.encode())))
    finally:
        progress.end()
    nll, count, size = (sum(row[key] for row in rows) for key in ("nll", "tokens", "bytes"))
    return {
        **_row(nll, count, size),
        "window": window,
        "stride": stride,
        "bos": bos,
        "rule": RULE.format(bos=" and the BOS" if bos is not None else "; there is no BOS"),
        "texts": [{"path": "", **row} for row in rows],
    }


def _row(nll: float, tokens: int, size: int) -> dict[str, Any]:
    from arkinfer.runtime.perplexity import perplexity

    return {
        "perplexity": perplexity(nll, tokens),
        "bits_per_byte": nll / math.log(2) / max(size, 1),
        "nll": nll,
        "tokens": tokens,
        "bytes": size,
    }


def _read(path: Path) -> str:
    """The text of a file.

    Raises:
        UsageError: there is none, it is not UTF-8, or it is empty.
    """
    from arkinfer.errors import UsageError

    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f'The text "{path}" cannot be read', error.strerror or "", "Check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f'"{path}" is not UTF-8 text', str(error), "Convert it to UTF-8"
        ) from error
    if not text:
        raise UsageError(f'The text "{path}" is empty', fix="Give a longer text")
    return text


def _print(models: list[dict[str, Any]]) -> None:
    from arkinfer.cli.table import print_table

    first = models[0]
    print(f"window  {first['window']:,} tokens, stride {first['stride']:,}")
    print(f"rule    {first['rule']}")
    rows = [
        (
            model["path"],
            row["path"],
            f"{row['tokens']:,}",
            f"{row['perplexity']:.4f}",
            f"{row['bits_per_byte']:.4f}",
        )
        for model in models
        for row in (*model["texts"], *([{**model, "path": "all"}] if model["texts"][1:] else ()))
    ]
    print_table(("model", "text", "tokens", "perplexity", "bits per byte"), rows)
