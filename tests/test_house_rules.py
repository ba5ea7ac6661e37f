"""The house rules of CONTRIBUTING.md that no linter checks."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from arkinfer import errors
from arkinfer.backend.registry import compilers
from arkinfer.ir.ops import OPS
from arkinfer.passes.registry import NAMES
from arkinfer.targets import target_names

ROOT = Path(__file__).parents[1]
SOURCE = ("arkinfer", "backends", "recipes", "benchmarks", "fuzz")
USER_ERRORS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ArkError) and name != "InternalError"
}


def files(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if not any(part.startswith((".", "__pycache__")) for part in path.parts[len(ROOT.parts) :])
    )


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def parsed(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for path in files(*folders):
        yield named(path), tree(path)


def long_files(paths: list[Path], most: int) -> dict[str, int]:
    counts = {named(path): len(path.read_text("utf-8").splitlines()) for path in paths}
    return {name: count for name, count in counts.items() if count > most}


def test_files_are_short():
    assert long_files(files(*SOURCE), 400) == {}
    assert long_files(files("tests"), 420) == {}


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring, which are for its callers."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    long = {
        f"{name}:{node.lineno} {node.name}": length(node)
        for name, module in parsed(*SOURCE)
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) >= 60
    }
    assert long == {}


def test_every_module_says_what_it_is_for():
    assert [
        name for name, module in parsed(*SOURCE, "tests") if not ast.get_docstring(module)
    ] == []


def test_modules_are_named_by_what_they_hold():
    vague = {"utils", "util", "helpers", "helper", "misc", "common_utils"}
    assert [
        named(p) for p in files(*SOURCE, "tests") if p.stem in vague or "manager" in p.stem
    ] == [
        "arkinfer/passes/manager.py",  # the pass manager: the field's term
        "tests/passes/test_manager.py",
    ]


def comments() -> Iterator[tuple[str, str]]:
    """(place, text) of every comment, in files where a check is silenced."""
    for path in files(*SOURCE, "tests"):
        text = path.read_text("utf-8")
        if SILENCED.search(text) is None:
            continue
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield f"{named(path)}:{token.start[0]}", token.string


SILENCED = re.compile(r"#\s*(noqa|(?:type|pyright): ?ignore)(.*)")
WITH_REASON = re.compile(r"(: [A-Z]+\d+(?:, ?[A-Z]+\d+)*|\[[\w, -]+\])[^\w]*(\w.*)")


def test_a_silenced_check_is_named_and_has_its_reason_beside_it():
    bare = [
        f"{place} {text}"
        for place, text in comments()
        if (match := SILENCED.search(text)) and not WITH_REASON.match(match[2])
    ]
    assert bare == []


def test_nothing_is_left_for_later():
    unfinished = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    texts = [*files(*SOURCE, "tests"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert [named(p) for p in texts if unfinished.search(p.read_text("utf-8"))] == []


def test_no_file_knows_the_machine_that_it_was_written_on():
    """Neither its paths nor its package registry."""
    foreign = re.compile(r"/(?:work|root|home|Users)/\w|pypi\.org|pythonhosted|download\.pytorch")
    texts = [*files(*SOURCE, "tests"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    texts += [ROOT / name for name in ("Makefile", ".ci/run", "constraints.txt", "pyproject.toml")]
    found = [named(p) for p in texts if p != Path(__file__)]
    assert [n for n in found if foreign.search((ROOT / n).read_text("utf-8"))] == []


def first_words(node: ast.expr) -> str | None:
    """How a message starts, as written; None: it is made elsewhere or starts with a value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr) and node.values:
        return first_words(node.values[0])
    return None


@cache
def raised() -> list[tuple[str, ast.Call, str]]:
    """(place, call, kind) of every error for users that is made in place."""
    return [
        (f"{name}:{node.lineno}", node, kind)
        for name, module in parsed("arkinfer", "backends")
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
        for kind in [node.func.id if isinstance(node.func, ast.Name) else node.func.attr]
        if kind in USER_ERRORS
    ]


def test_errors_are_sentences():
    """They begin with a capital, or with the name of a file or option."""
    assert len(raised()) > 100
    lower = [
        f"{place} {words!r}"
        for place, call, _ in raised()
        for words in map(first_words, call.args[:1])
        if words and re.match(r"[a-z]+ ", words) and not words.startswith("threads ")
    ]
    assert lower == []


def test_errors_say_more_than_that_it_failed():
    """Why, or what to do; "must" in the first sentence says both."""
    bare = [
        f"{place} {kind}"
        for place, call, kind in raised()
        if kind in ("UsageError", "DeviceError", "ResourceError")
        and len(call.args) + len(call.keywords) < 2
        and not any(isinstance(arg, ast.Starred) for arg in call.args)
        and " must " not in ast.unparse(call)
    ]
    assert bare == []


def test_errors_are_of_our_kinds():
    """Whoever catches ArkError catches all that we raise on purpose.

    ValueError and TypeError are left to parsers, whose callers turn them into ours.
    """
    plain = {"AssertionError", "BaseException", "Exception", "KeyError", "OSError", "RuntimeError"}
    found = [
        f"{name}:{node.lineno}"
        for name, module in parsed("arkinfer", "backends")
        for node in ast.walk(module)
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and ast.unparse(node.exc).partition("(")[0] in plain
    ]
    assert found == []


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
VERBS = "eliminate|fold|fuse|quantize|rescale|store|legalize"


def words(page: Path) -> list[str]:
    """What stands in backticks, within a line."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_a_page_names_exists(page: Path):
    places = [word.rstrip("/") for word in words(page) if re.fullmatch(r"[\w.]+/[\w./-]+", word)]
    ours = [p for p in places if p.split("/")[0] in (*SOURCE, "tests", "docs", ".ci")]
    assert [p for p in ours if not (ROOT / p).exists()] == []
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
    passes = [w for w in words(page) if re.fullmatch(rf"(?:{VERBS})-[a-z-]+", w)]
    assert [name for name in passes if name not in NAMES] == []
    ops = [w for w in words(page) if re.fullmatch(r"(?:nn|quant|attn|cache|tensor)\.[a-z_]\w*", w)]
    assert [name for name in ops if name not in OPS] == []
    text = page.read_text("utf-8")
    backends = set(re.findall(r"--backend[ =]([a-z]\w*)", text)) - {"mine"}  # that of the reader
    assert backends <= set(compilers())
    targets = set(re.findall(r"--target[ =]([a-z][\w-]*)", text)) - {"cpuu"}  # wrong on purpose
    assert targets <= set(target_names())
