"""A report for somebody far away: each item is there or says why not, and stops no other."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arkinfer.artifact import open_artifact
from arkinfer.doctor import report, trial
from arkinfer.doctor.examine import Diagnosis, examine_artifact
from arkinfer.doctor.host import Host
from arkinfer.doctor.report import Report, write_report
from arkinfer.doctor.watch import MOST, Watch
from arkinfer.errors import ResourceError
from tests.machine.machines import ORIN, build
from tests.runtime.artifacts import write_artifact, write_plugin

Hosts = Callable[..., Host]
Script = Callable[[str, str], Path]

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
TEGRASTATS = "RAM 2513/7620MB CPU [1%@1510,0%@1510] GR3D_FREQ 0% cpu@46.2C VDD_IN 4920mW"
DPKG = "tensorrt 10.16.2.10-1+cuda13.2\\nnvidia-l4t-core 39.2.0-20260602101200\\nlibnvinfer-dev\\n"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For a GPU, which this machine has not, and for a processor."""
    monkeypatch.syspath_prepend(write_plugin(tmp_path / "site"))
    backends = ("tensorrt", "bigram")
    return write_artifact(tmp_path / "m.ark", backends=backends, tokens={"bos": 1, "stop": []})


def diagnosis(host: Host, file: Path) -> Diagnosis:
    with open_artifact(file) as artifact:
        return examine_artifact(host, artifact)


def written(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


@pytest.fixture
def orin(make_host: Hosts, script: Script) -> Host:
    """A board with NVIDIA's tools, and a bare PATH."""
    host = make_host()
    build(host.root, {**ORIN, "etc/nv_tegra_release": RELEASE})
    script("nvpmodel", 'echo "NV Power Mode: 25W"; echo 1')
    script("jetson_clocks", 'echo "Error: Root privileges are required" >&2; exit 1')
    script("tegrastats", f'echo "{TEGRASTATS}"; exec sleep 60')
    script("dpkg-query", f'printf "{DPKG}"; echo "no packages found" >&2; exit 1')
    return replace(host, environ={**host.environ, "PATH": f"{host.environ['PATH']}:/usr/bin:/bin"})


def test_a_board_and_a_file(
    orin: Host, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "TEGRASTATS", 0.5)
    said: list[str] = []
    made = write_report(tmp_path / "r.json", orin, model, diagnosis(orin, model), said.append)
    facts = written(tmp_path / "r.json")
    assert (facts["format"], facts["finished"]) == (1, True)
    assert facts["board"]["model"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (facts["board"]["l4t"], facts["board"]["jetpack"]) == ("36.4.3", "6.2")
    assert facts["machine"]["power"] == 6.56
    assert facts["power_mode"] == {"lines": ["NV Power Mode: 25W", "1"]}
    assert facts["tegrastats"] == {"lines": [TEGRASTATS]}
    assert facts["system_packages"] == {
        "tensorrt": "10.16.2.10-1+cuda13.2", "nvidia-l4t-core": "39.2.0-20260602101200",
    }  # fmt: skip
    assert facts["jetson_clocks"] == {
        "missing": "jetson_clocks: it failed with exit code 1: Error: Root privileges are required"
    }
    assert facts["artifact"]["sections"] == ["tensorrt", "bigram"]
    assert len(facts["artifact"]["sha256"]) == 64
    assert facts["gpu"]["missing"].startswith("tensorrt does not run here: ")
    assert set(made.missing) >= {"jetson_clocks", "gpu"}
    assert said[-4:] == [f"{name} of bigram" for name in trial.COMMANDS]


def test_the_section_that_runs_is_run(make_host: Hosts, model: Path, tmp_path: Path):
    host = make_host(real=True)
    write_report(tmp_path / "r.json", host, model, diagnosis(host, model))
    cpu = written(tmp_path / "r.json")["cpu"]
    assert cpu["backend"] == "bigram"
    codes = {name: cpu[name]["exit_code"] for name in trial.COMMANDS}
    assert codes == {"prepare": 0, "verify": 0, "run": 0, "bench": 0}
    assert cpu["prepare"]["answer"]["needed"] is False
    assert cpu["run"]["answer"]["tokens"] == 32
    kinds = [result["kind"] for result in cpu["bench"]["answer"]["results"]]
    assert kinds == ["prefill", "decode"]
    assert cpu["bench"]["seconds"] > 0
    assert len(cpu["bench"]["machine"]["seconds"]) >= 2
    assert cpu["run"]["command"].startswith("arkinfer run ~/m.ark A list is --raw ")  # no name


def test_what_fails_is_an_answer(make_host: Hosts, tmp_path: Path):
    model = write_artifact(tmp_path / "m.ark", backends=("npu",), tokens={"bos": 1, "stop": []})
    found = trial.trial(make_host(real=True), str(model), "npu")
    assert found["prepare"]["exit_code"] == 4
    assert found["prepare"]["answer"]["error"]["kind"] == "device"
    assert found["bench"] == {"missing": "the section could not be prepared"}


def test_an_item_that_breaks_down_does_not_stop_the_others(make_host: Hosts, tmp_path: Path):
    def broken() -> dict[str, Any]:
        raise RuntimeError("no such luck")

    made = Report(tmp_path / "r.json", make_host())
    made.add("one", broken)
    made.add("two", lambda: {"value": 1})
    assert written(made.path) == {
        "format": 1, "arkinfer": written(made.path)["arkinfer"], "finished": False,
        "one": {"missing": "looking for it broke down: RuntimeError: no such luck"},
        "two": {"value": 1},
    }  # fmt: skip
    assert made.missing == ["one"]


def test_a_report_that_is_cut_short_is_whole_as_far_as_it_came(
    make_host: Hosts, model: Path, tmp_path: Path
):
    """Whatever ends it: the file is written after each item."""

    def interrupt(what: str) -> None:
        if what == "run of bigram":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    host = make_host(real=True)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path / "r.json", host, model, diagnosis(host, model), interrupt)
    facts = written(tmp_path / "r.json")
    assert (facts["finished"], "artifact" in facts, "cpu" in facts) == (False, True, False)
    assert [path.name for path in tmp_path.glob("r.json*")] == ["r.json"]


def test_a_place_that_cannot_be_written_is_said_at_once(make_host: Hosts, tmp_path: Path):
    with pytest.raises(ResourceError) as caught:
        Report(tmp_path / "no" / "r.json", make_host())
    assert str(caught.value) == (
        f'The report "{tmp_path}/no/r.json" cannot be written. No such file or directory. '
        "Name another file."
    )


def test_watching_keeps_few_moments_of_a_long_time(tmp_path: Path):
    root = build(tmp_path, ORIN)
    with Watch(root, pause=0.0005) as watch:
        time.sleep(0.6)
    facts = watch.to_json()
    assert 2 <= len(facts["seconds"]) <= MOST + 1
    assert facts["seconds"] == sorted(facts["seconds"])
    assert facts["seconds"][-1] >= 0.6
    assert set(facts["temperature"]) == {46.25}
    assert facts["unreadable"] == ["memory_available"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_watching_this_machine():
    with Watch(Path("/")) as watch:
        pass
    assert watch.to_json()["memory_available"][0] > 0
