"""Our calls of TensorRT and CUDA, held against what NVIDIA's published bindings say of themselves.

The stubs in `typings/`, by which `make types` checks every day, are written by hand and know no
more than we call. Here our modules are checked again with stubs that are made from the bindings of
TensorRT 10.16, and what we wrote of CUDA is compared with the package itself.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BACKEND = ROOT / "backends" / "arkinfer_trt"
TYPINGS = ROOT / "typings"
NVIDIA = ("tensorrt", "cuda.bindings")


def imports(path: Path) -> set[str]:
    """Names of modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


OURS = [path for path in sorted(BACKEND.rglob("*.py")) if imports(path) & set(NVIDIA)]
"""Modules that call NVIDIA's packages."""


@pytest.fixture(scope="module")
def project(stubs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pyright knows TensorRT by the stubs that were made, and CUDA by ours."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(TYPINGS / "cuda", stubs / "cuda", dirs_exist_ok=True)
    settings = {
        "stubPath": str(stubs),
        "extraPaths": [str(ROOT), str(ROOT / "backends")],
        "pythonVersion": "3.10",
        "typeCheckingMode": "standard",
        "reportMissingModuleSource": False,
        "strictParameterNoneValue": False,  # pybind11 writes `path: str = None`
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    return folder


def errors(project: Path, texts: dict[str, str]) -> dict[str, dict[int, str]]:
    """What pyright says of modules: by name and line, from 1."""
    for old in project.glob("*.py"):
        old.unlink()
    for name, text in texts.items():
        (project / name).write_text(text, "utf-8")
    command = ["-m", "pyright", "--outputjson", "-p", str(project), "--pythonpath", sys.executable]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=project
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(texts), done.stdout
    found: dict[str, dict[int, str]] = {name: {} for name in texts}
    for each in report["generalDiagnostics"]:
        line = each["range"]["start"]["line"] + 1
        found[Path(each["file"]).name][line] = each["message"]
    return found


def test_our_calls_are_those_that_tensorrt_has(project: Path) -> None:
    found = errors(project, {path.name: path.read_text("utf-8") for path in OURS})
    assert found == {path.name: {} for path in OURS}
    assert OURS


WRONG = """
import tensorrt as trt
from cuda.bindings import runtime

def calls(log: trt.ILogger, network: trt.INetworkDefinition, context: trt.IExecutionContext):
    trt.Builder(log).create_netwrok(0)
    trt.Builder()
    trt.Builder(log, 1)
    network.get_input("hidden")
    trt.MemoryPoolType.WORKSPAC
    trt.Builder(log).build_serialized_network(network)
    trt.Builder(log).create_builder_config().set_memory_pool_limit(1 << 30)
    trt.OnnxParser(network, log).load_initializer("w", b"", 0)
    trt.OnnxParser(network, log).parse_model(b"")
    context.set_tensor_address(name="x", pointer=1)
    context.execute_async_v3()
    context.set_input_shape("x", "1x2")
    context.set_device_memory(1)
    trt.IMoELayer11
    runtime.cudaMaloc(1)
    runtime.cudaMemcpyAsync(1, 2, 3, runtime.cudaMemcpyKind.cudaMemcpyHostToDevice)
    runtime.cudaMemcpyKind.cudaMemcpyHostToDevise
"""


def test_wrong_calls_are_found(project: Path) -> None:
    """A wrong name, count, type, keyword or member of an enumeration."""
    found = errors(project, {"wrong.py": WRONG})["wrong.py"]
    lines = WRONG.splitlines()
    first = next(i for i, line in enumerate(lines, 1) if line.startswith("def calls")) + 1
    assert sorted(found) == list(range(first, len(lines) + 1))


def typing_names() -> set[str]:
    """Functions, methods and members of the stubs in `typings/`."""
    found: set[str] = set()
    for path in (TYPINGS / "tensorrt/__init__.pyi", TYPINGS / "cuda/bindings/runtime.pyi"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Assign):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return {name for name in found if not name.startswith("__")}


Use = tuple[int, int, str]
"""Line, from 1, where the name ends in it, and the expression."""


def uses(path: Path) -> Iterator[list[Use]]:
    """Uses of NVIDIA's names outside of annotations, each expression once, by function."""
    module = ast.parse(path.read_text("utf-8"))
    names, seen = typing_names(), {*annotations(module)}
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef):
            continue
        found: list[Use] = []
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute) or node.attr not in names:
                continue
            use = ast.unparse(node)
            if use not in seen and not re.fullmatch(r"self\.\w+", use):  # or one of our own
                seen.add(use)
                found.append((node.end_lineno or 0, node.end_col_offset or 0, use))
        yield found


def annotations(module: ast.Module) -> Iterator[str]:
    """Types that stand there alone."""
    for node in ast.walk(module):
        kinds = (getattr(node, name, None) for name in ("annotation", "returns"))
        for kind in filter(None, kinds):
            yield from (ast.unparse(part) for part in ast.walk(kind))


def misspelled(text: str, there: Iterable[Use]) -> str:
    lines = text.splitlines(keepends=True)
    for line, end, _ in sorted(there, reverse=True):
        lines[line - 1] = f"{lines[line - 1][:end]}_{lines[line - 1][end:]}"
    return "".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_call_escapes_the_check(path: Path, project: Path) -> None:
    """Whatever we use of NVIDIA's, pyright knows its type: a misspelled name is an error. In each
    copy of the module, one use in each function is misspelled."""
    text = path.read_text("utf-8")
    rounds = [[use for use in one if use] for one in zip_longest(*uses(path))]
    copies = {f"round{i}.py": misspelled(text, seeded) for i, seeded in enumerate(rounds)}
    found = errors(project, copies)
    told = zip(rounds, found.values(), strict=True)
    assert [use for seeded, lines in told for use in seeded if use[0] not in lines] == []
    assert rounds


def cuda_stub() -> ast.Module:
    return ast.parse((TYPINGS / "cuda/bindings/runtime.pyi").read_text("utf-8"))


def functions() -> dict[str, tuple[list[str], int]]:
    """What the stub says of CUDA: parameters and count of results, by function."""
    found: dict[str, tuple[list[str], int]] = {}
    for node in cuda_stub().body:
        if isinstance(node, ast.FunctionDef):
            assert isinstance(node.returns, ast.Subscript)
            results = node.returns.slice
            count = len(results.elts) if isinstance(results, ast.Tuple) else 1
            found[node.name] = [each.arg for each in node.args.args], count
    return found


@pytest.mark.parametrize("name", functions())
def test_a_function_of_cuda_is_as_we_say(name: str) -> None:
    """Its parameters by their names, and how many results its documentation lists."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    function = getattr(runtime, name)
    _, *documented = re.split(r"Returns\n *-------\n", inspect.getdoc(function) or "")
    results = re.findall(r"^\w+", textwrap.dedent(documented[0]).partition("\n\n")[0], re.M)
    assert (list(inspect.signature(function).parameters), len(results)) == functions()[name]


def test_cuda_has_what_else_we_name() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for node in cuda_stub().body:
        if isinstance(node, ast.ClassDef):
            named = [*ast.walk(node)]
            members = {
                n.id for n in named if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
            assert members <= set(dir(getattr(runtime, node.name)))
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(getattr(runtime, ast.unparse(node.target)), int)
