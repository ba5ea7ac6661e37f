"""Folders that are full, forbidden, missing or without permission to run code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.doctor import disk
from arkinfer.doctor.finding import Finding
from arkinfer.doctor.host import Host

Hosts = Callable[..., Host]


def find(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_this_machine(make_host: Hosts, tmp_path: Path):
    findings = disk.check(make_host())
    assert [f.state for f in findings] == ["ok"] * 4
    assert find(findings, "output folder").detail.endswith(f" free in {tmp_path}")
    assert find(findings, "temporary files").detail.endswith(f" free in {tmp_path / 'tmp'}")


def test_the_cache_is_where_the_hub_looks(make_host: Hosts, tmp_path: Path):
    def place(**environ: str) -> str:
        return find(disk.check(make_host(**environ)), "hub cache").detail.split(" free in ")[1]

    assert place(HF_HOME=f"{tmp_path}/a") == f"{tmp_path}/a/hub"
    assert place(HF_HOME=f"{tmp_path}/a", HF_HUB_CACHE=f"{tmp_path}/b") == f"{tmp_path}/b"
    assert place(XDG_CACHE_HOME=f"{tmp_path}/c") == f"{tmp_path}/c/huggingface/hub"
    assert place() == f"{tmp_path}/.cache/huggingface/hub"


def test_the_cache_is_where_builds_and_engines_look(make_host: Hosts, tmp_path: Path):
    found = find(disk.check(make_host(ARKINFER_CACHE=f"{tmp_path}/a")), "cache")
    assert found.detail.split(" free in ")[1] == f"{tmp_path}/a"
    found = find(disk.check(make_host()), "cache")
    assert found.detail.split(" free in ")[1] == f"{tmp_path}/.cache/arkinfer"


def test_a_file_in_the_place_of_a_folder(make_host: Hosts, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    found = find(disk.check(make_host(HF_HOME=str(tmp_path / "file"))), "hub cache")
    assert (found.state, found.detail) == ("broken", f"{tmp_path}/file is not a folder")
    assert found.fix == "export HF_HOME=~/huggingface"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody may write to")
def test_a_folder_that_may_not_be_written_to(make_host: Hosts):
    found = find(disk.check(make_host(TMPDIR="/proc/self")), "temporary files")
    assert found.state == "broken"
    assert found.detail.startswith("/proc/self: ")
    assert found.fix == "mkdir -p ~/tmp && export TMPDIR=~/tmp"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_folder_without_code(make_host: Hosts, tmp_path: Path):
    folder = tmp_path / "noexec"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o noexec,size=1m tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("mounting is not allowed here")
    try:
        assert not disk._allows_code(folder)
    finally:
        os.system(f"umount {folder}")


def test_a_folder_for_temporary_files_that_is_not_there(make_host: Hosts, tmp_path: Path):
    found = find(disk.check(make_host(TMPDIR=f"{tmp_path}/gone")), "temporary files")
    assert (found.state, found.detail) == (
        "broken", f"TMPDIR names {tmp_path}/gone, which is no folder"
    )  # fmt: skip


def test_a_folder_without_code_is_said(make_host: Hosts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk, "_allows_code", lambda folder: False)
    found = find(disk.check(make_host()), "temporary files")
    assert found.state == "broken"
    assert "mounted noexec: compiled kernels cannot be loaded" in found.detail
    assert found.fix == "mkdir -p ~/tmp && export TMPDIR=~/tmp"


def test_a_full_disk(make_host: Hosts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk, "LEAST", 1 << 60)
    assert [f.state for f in disk.check(make_host())] == ["broken"] * 4
