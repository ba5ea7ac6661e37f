"""What an artifact needs and what this machine gives it: executors' own checks decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arkinfer.artifact import ArtifactWriter, Section, open_artifact
from arkinfer.doctor.examine import Diagnosis, examine_artifact, listed
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host
from arkinfer.doctor.sections import SectionState, memory
from arkinfer.errors import ArtifactError, UsageError
from arkinfer.runtime.footprint import BASE
from arkinfer_tvm.cpu import platform_name
from arkinfer_tvm.program import INTERFACE, Program, programs_to_json
from tests.runtime.artifacts import write_artifact, write_plugin

Hosts = Callable[..., Host]

VARIANT = {"isa": "x86-64-v3", "flags": [], "library": "backends/tvm/libkernels.so"}
MACHINE = {"platform": platform_name(), "interface": INTERFACE, "variants": [VARIANT]}
ORT: dict[str, Any] = {
    "caches": [{"name": n, "heads": 2, "size": 64, "dtype": "float32"} for n in ("k0", "v0")]
}


def write(path: Path, *sections: Section) -> Path:
    """An artifact of which only what is checked before loading is there."""
    with ArtifactWriter(path) as writer:
        programs = programs_to_json([Program((), (), (), (), 0)])
        writer.add_bytes("backends/tvm/programs.json", programs)
        for section in sections:
            writer.add_section(section)
        return writer.commit(
            {
                "model": {"name": "m", "architecture": "LlamaForCausalLM"}, "context": 1024,
                "quant": "none", "dtype": "fp32", "target": {"name": "cpu"},
                "tokens": {"bos": None, "stop": []},
            }
        )  # fmt: skip


def tvm(**config: Any) -> Section:
    facts = {**MACHINE, "programs": "backends/tvm/programs.json", **config}
    return Section("tvm", facts, {}, ())


def ort(wanted: str = ">=1.23") -> Section:
    return Section("onnxruntime", ORT, {"onnxruntime": wanted}, ())


def diagnose(host: Host, path: Path, **options: Any) -> Diagnosis:
    with open_artifact(path) as artifact:
        return examine_artifact(host, artifact, **options)


@pytest.fixture
def host(make_host: Hosts) -> Host:
    """This machine's programs and files; temporary files elsewhere."""
    made = make_host(real=True)
    return Host(Path("/"), made.environ, made.seconds, made.folder)


def test_the_first_section_runs(host: Host, tmp_path: Path):
    found = diagnose(host, write(tmp_path / "m.ark", ort(), tvm()))
    assert (found.ok, found.backend) == (True, "onnxruntime")
    assert found.summary == "m.ark runs here by onnxruntime."
    group = found.groups[0]
    assert [f.state for f in group.findings] == ["ok", "ok", "ok"]
    assert group.findings[0].detail == "needs onnxruntime >=1.23"
    assert [group.title for group in found.groups] == ["sections", "this machine", "disk"]


def test_the_first_does_not_but_another_one_does(host: Host, tmp_path: Path):
    """No silent fallback: the command line has to ask for it, and the first line says so."""
    path = write(tmp_path / "m.ark", ort(">=9.1"), tvm())
    found = diagnose(host, path)
    assert (found.ok, found.backend) == (True, "tvm")
    assert found.summary.startswith(
        "m.ark runs here with --backend tvm only; onnxruntime does not: "
        "The artifact needs onnxruntime >=9.1. Version "
    )
    assert found.groups[0].findings[0].fix == 'Install it: pip install "onnxruntime>=9.1"'
    asked = diagnose(host, path, backend="onnxruntime")
    assert (asked.ok, asked.backend) == (False, None)
    assert asked.summary.startswith("m.ark does not run here; onnxruntime does not: ")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"platform": "linux-riscv64"},
         "tvm does not: The artifact's kernels were compiled for linux-riscv64. This machine is "),
        ({"variants": [{**VARIANT, "isa": "x86-64-v9", "flags": ["amx_quantum"]}]},
         "tvm does not: The artifact's kernels do not run on this processor. They need x86-64-v9. "
         "This processor offers "),
        ({"interface": 99},
         "tvm does not: The artifact's kernels have interface 99, this arkinfer runs interface "),
    ],
)  # fmt: skip
def test_nothing_runs(host: Host, tmp_path: Path, config: dict[str, Any], said: str):
    found = diagnose(host, write(tmp_path / "m.ark", tvm(**config)))
    assert (found.ok, found.backend) == (False, None)
    assert found.summary.startswith(f"m.ark does not run here; {said}")
    assert found.groups[0].findings[0].fix


def test_a_section_without_executor(host: Host, tmp_path: Path):
    found = diagnose(host, write(tmp_path / "m.ark", Section("npu", {}, {}, ()), ort()))
    assert found.backend == "onnxruntime"
    assert 'No executor for the backend "npu" is installed' in found.summary


def test_a_section_that_is_damaged(host: Host, tmp_path: Path):
    found = diagnose(host, write(tmp_path / "m.ark", Section("onnxruntime", {}, {}, ())))
    assert (found.ok, found.groups[0].findings[0].state) == (False, "broken")
    assert "cannot be read" in found.summary


def test_an_executor_that_cannot_tell(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "plug"))
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    found = diagnose(host, write_artifact(tmp_path / "b.ark", requires={"numpy": ">=1"}))
    assert (found.ok, found.backend) == (True, "bigram")
    section, room = found.groups[0].findings
    assert section.state == "not known"
    assert section.detail == "needs numpy >=1; its executor cannot tell before it loads the section"
    assert room.state == "not known"


def test_an_executor_that_crashes(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = tmp_path / "site" / "onnxruntime"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.syspath_prepend(site.parent)
    found = diagnose(host, write(tmp_path / "m.ark", ort(), tvm()))
    assert found.summary == (
        "m.ark runs here with --backend tvm only; onnxruntime does not: it crashed (SIGILL)."
    )


def test_what_is_asked_of_an_artifact_is_checked(host: Host, tmp_path: Path):
    path = write(tmp_path / "m.ark", tvm())
    with pytest.raises(UsageError, match='no section for the backend "onnxruntime"'):
        diagnose(host, path, backend="onnxruntime")
    with pytest.raises(UsageError, match="The context cannot be 1025 tokens"):
        diagnose(host, path, context=1025)
    with pytest.raises(ArtifactError, match="nothing to run"):
        diagnose(host, write(tmp_path / "empty.ark"))


def state(weights: int, per_token: int | None) -> SectionState:
    return SectionState("x", Finding("x", "ok"), {}, weights, per_token)


def test_memory():
    mib = 1 << 20
    section = state(100 * mib, 1 << 16)  # 105 MiB with what is kept beside, 64 MiB a 1024 tokens
    need = BASE + 105 * mib + 64 * mib
    enough = memory(section, 1024, need, "m.ark")
    assert (enough.state, enough.fix) == ("ok", "")
    assert enough.detail == "about 279.0 MiB for 1,024 tokens of context, 279.0 MiB free"
    short = memory(section, 1024, need - 1, "my m.ark")
    assert (short.state, short.fix) == ("missing", "arkinfer run 'my m.ark' --context 768")
    none = memory(section, 1024, BASE, "m.ark")
    assert (none.state, none.gap) == ("broken", True)
    assert none.detail.endswith("not even the weights fit")
    assert memory(section, 1024, None, "m.ark").state == "not known"
    assert memory(state(1, None), 1024, need, "m.ark").state == "not known"


def test_weights_that_do_not_fit(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "small"
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 65536 kB\nMemAvailable: 32768 kB\n")
    small = Host(root, host.environ, host.seconds, host.folder)
    found = diagnose(small, write(tmp_path / "m.ark", tvm()))
    assert (found.ok, found.backend) == (False, None)
    assert found.summary.startswith("m.ark does not run here; its weights do not fit: about 110.0")


def test_lists():
    assert [listed(names) for names in ([], ["a"], ["a", "b"])] == ["", "a", "a and b"]
