"""`arkinfer inspect`: what an .ark file is. Knows no backend; hashes and loads nothing."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from arkinfer.artifact.groups import GROUPS, group_of
from arkinfer.artifact.manifest import kv_scales
from arkinfer.cli.caches import by_backend, cache_words
from arkinfer.cli.options import Json, Model
from arkinfer.cli.table import clean, human, print_table

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact


def inspect(
    file: Model,
    entries: Annotated[bool, typer.Option("--entries", help="List every entry, too.")] = False,
    json: Json = False,
) -> None:
    """Show what an .ark file is: model, quantization, sections, stop tokens, sizes.

    Example: arkinfer inspect model.ark --entries
    """
    from arkinfer.artifact import open_artifact
    from arkinfer.runtime.demo import located

    with open_artifact(located(file)) as artifact:
        facts = describe(artifact, entries=entries)
    if json:
        print(jsonlib.dumps(facts, indent=2))
        return
    _print_facts(facts)
    columns = ("section", "requires", "kernels for", "activations", "tensors", "bytes")
    print_table(columns, _section_rows(facts))
    print_table(("group", "tensors", "bytes", "share"), _group_rows(facts))
    if entries:
        rows = [
            (e["name"], _kind(e), f"{e['offset']:,}", f"{e['size']:,}") for e in facts["entries"]
        ]
        print_table(("entry", "type", "offset", "bytes"), rows)


def describe(artifact: Artifact, *, entries: bool = False) -> dict[str, Any]:
    """What `--json` prints; sizes and offsets in bytes."""
    manifest = artifact.manifest
    stop = manifest["tokens"]["stop"]
    texts = token_texts(artifact, stop)
    return {
        "path": str(artifact.path),
        "size": artifact.size,
        "digest": artifact.digest,
        **{key: manifest[key] for key in ("format", "arkinfer", "requires", "model", "context")},
        **{key: manifest[key] for key in ("quant", "dtype", "target")},
        "kv": manifest.get("kv", "fp32"),
        "kv_scales": kv_scales(manifest),
        **({"recipe": manifest["recipe"]} if "recipe" in manifest else {}),
        **({"tuned": manifest["tuned"]} if "tuned" in manifest else {}),
        "tokens": {
            **manifest["tokens"],
            "stop": [{"id": token, "text": texts.get(token)} for token in stop],
        },
        **{key: manifest[key] for key in ("generation", "source")},
        "golden": "golden.json" in artifact,
        "signed_by": signer(artifact),
        "sections": [
            {
                "backend": section.backend,
                "requires": section.requires,
                "activations": section.activations,
                "caches": section.caches or manifest.get("kv", "fp32"),
                "variants": list(section.variants),
                "tensors": len(section.tensors),
                "bytes": artifact.section_bytes(section.backend),
            }
            for section in artifact.sections.values()
        ],
        "groups": _groups(artifact),
        **({"entries": _entries(artifact)} if entries else {}),
    }


def signer(artifact: Artifact) -> str | None:
    """The id of the key that the signature names, unchecked; None: there is no signature."""
    from arkinfer.artifact.sign import signature_of

    found = signature_of(artifact)
    return None if found is None else found.key_id


def token_texts(artifact: Artifact, tokens: Sequence[int]) -> dict[int, str]:
    """The texts of tokens as tokenizer.json writes them; those that it does not have are absent."""
    if "tokenizer.json" not in artifact or not tokens:
        return {}
    wanted = frozenset(tokens)
    try:
        tokenizer = cast("dict[str, Any]", jsonlib.loads(artifact.read("tokenizer.json")))
        vocabulary = cast("dict[str, int]", tokenizer["model"]["vocab"])
        added = cast("list[dict[str, Any]]", tokenizer.get("added_tokens", []))
        texts = {token: text for text, token in vocabulary.items() if token in wanted}
        return texts | {t["id"]: t["content"] for t in added if t["id"] in wanted}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # of another kind than ours: the ids alone are shown


def _groups(artifact: Artifact) -> list[dict[str, Any]]:
    """Tensors by part of the model, then other entries, then padding; adds up to the file."""
    sizes: dict[str, list[int]] = {name: [] for name in GROUPS}
    files = 0
    for entry in artifact.entries():
        if entry.name.startswith("weights/"):
            sizes[group_of(entry.name.removeprefix("weights/"))].append(entry.size)
        else:
            files += entry.size
    rows = [
        *((name, len(found), sum(found)) for name, found in sizes.items() if found),
        ("files", 0, files),
        ("padding and directory", 0, artifact.size - files - sum(map(sum, sizes.values()))),
    ]
    return [{"group": name, "tensors": count, "bytes": size} for name, count, size in rows]


def _entries(artifact: Artifact) -> list[dict[str, Any]]:
    listed, tensors = artifact.manifest["entries"], artifact.manifest["tensors"]
    rows: list[dict[str, Any]] = []
    for entry in artifact.entries():
        facts = listed.get(entry.name)
        sha256 = artifact.digest if facts is None else facts["sha256"]
        row = {"name": entry.name, "offset": entry.offset, "size": entry.size, "sha256": sha256}
        rows.append({**row, **tensors.get(entry.name.removeprefix("weights/"), {})})
    return rows


def _kind(entry: dict[str, Any]) -> str:
    return f"{entry['dtype']} {entry['shape']}" if "dtype" in entry else ""


def _print_facts(facts: dict[str, Any]) -> None:
    model, tokens, source = facts["model"], facts["tokens"], facts["source"]["files"]
    stop = [f"{t['id']} {t['text']!r}" if t["text"] else str(t["id"]) for t in tokens["stop"]]
    stop += [repr(text) for text in tokens.get("stop_strings", [])]
    kinds = {s["backend"]: s["caches"] for s in facts["sections"]} or {"": facts["kv"]}
    kept = {backend: cache_words(kv, facts["kv_scales"]) for backend, kv in kinds.items()}
    rows = {
        "file": f"{facts['path']}, {human(facts['size'])}",
        "digest": f"sha256 {facts['digest']}",
        "written by": f"arkinfer {facts['arkinfer']}, format {facts['format']}",
        "model": f"{model['name']} ({model['architecture']})",
        **{key.replace("_", " "): f"{value:,}" for key, value in model.items() if _is_int(value)},
        "quant": f"{facts['quant']}, the rest {facts['dtype']}",
        "target": facts["target"]["name"],
        **({"recipe": facts["recipe"]["name"]} if "recipe" in facts else {}),
        **({"tuned": f"on {facts['tuned']}"} if "tuned" in facts else {}),
        "context": f"{facts['context']:,} tokens, cached in {by_backend(kept)}",
        "first token": "none" if tokens["bos"] is None else str(tokens["bos"]),
        "stops at": ", ".join(stop) or "nothing",
        "generation": ", ".join(f"{k} {v}" for k, v in facts["generation"].items()) or "defaults",
        "source": ", ".join(source) or "not recorded",
        "golden": "arkinfer verify compares answers"
        if facts["golden"]
        else "no answers to compare",
        "signature": f"names the key {facts['signed_by']}" if facts["signed_by"] else "none",
    }
    width = max(map(len, rows))
    for label, text in rows.items():
        print(f"{label:<{width}}  {clean(text)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _section_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            section["backend"],
            ", ".join(f"{name}{spec}" for name, spec in section["requires"].items()) or "nothing",
            ", ".join(section["variants"]),
            section["activations"] or "",
            str(section["tensors"]),
            human(section["bytes"]),
        )
        for section in facts["sections"]
    ]


def _group_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for group in facts["groups"]:
        tensors = str(group["tensors"]) if group["tensors"] else ""
        share = f"{100 * group['bytes'] / facts['size']:.1f} %"
        rows.append((group["group"], tensors, human(group["bytes"]), share))
    return [*rows, ("total", "", human(facts["size"]), "")]
