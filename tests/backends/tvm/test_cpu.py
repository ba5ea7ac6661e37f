"""What a processor offers, and which variant of an artifact it gets."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

import pytest

from arkinfer.errors import DeviceError
from arkinfer.targets import load_target, target_names
from arkinfer_tvm import cpu
from arkinfer_tvm import isa as isa_module
from arkinfer_tvm.cpu import (
    ISAS,
    Variant,
    choose,
    flags_of_auxv,
    flags_of_cpuinfo,
    isas_for,
)
from tests.backends.tvm import cpuinfos

MACHINES = [
    ("x86_64", cpuinfos.HASWELL, "x86-64-v3"),
    ("x86_64", cpuinfos.ALDER_LAKE, "avx-vnni"),
    ("x86_64", cpuinfos.ZEN_4, "x86-64-v4-vnni-bf16"),
    ("aarch64", cpuinfos.RASPBERRY_PI_4, "neon"),
    ("aarch64", cpuinfos.RASPBERRY_PI_5, "dotprod"),
    ("aarch64", cpuinfos.JETSON_ORIN, "dotprod"),
    ("aarch64", cpuinfos.GRAVITON_3, "i8mm"),
]


def variants(arch: str, *isas: str) -> list[Variant]:
    return [Variant(isa, f"{isa}.so", ISAS[arch][isa]) for isa in isas]


@pytest.mark.parametrize(("arch", "text", "best"), MACHINES)
def test_real_machines_get_the_best_that_they_have(arch: str, text: str, best: str) -> None:
    flags = flags_of_cpuinfo(text, arch)
    every = variants(arch, *ISAS[arch])
    assert choose(every, flags).isa == best
    poorest = choose(every[:1], flags)
    assert poorest == every[0]


@pytest.mark.parametrize(("arch", "text", "best"), MACHINES)
def test_a_machine_builds_for_itself(
    arch: str, text: str, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: arch)
    assert isas_for(("host",), arch, flags_of_cpuinfo(text, arch)) == [best]


def test_each_name_of_a_target_is_an_instruction_set() -> None:
    for name in target_names():
        target = load_target(name)
        if target.isa != ("host",) and "tvm" in target.backends:
            assert isas_for(target.isa, target.arch, frozenset()) == list(target.isa)


def test_a_target_of_another_architecture_gets_the_baseline() -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    assert isas_for(("host",), other, frozenset()) == [next(iter(ISAS[other]))]
    assert isas_for(("host",), "riscv64", frozenset()) == []
    assert isas_for(("host",), platform.machine(), frozenset()) == []


def test_the_last_variant_that_fits_is_taken() -> None:
    flags = flags_of_cpuinfo(cpuinfos.GRAVITON_3, "aarch64")
    assert choose(variants("aarch64", "neon", "dotprod"), flags).isa == "dotprod"
    assert choose(variants("aarch64", "dotprod", "neon"), flags).isa == "neon"


def test_none_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    flags = flags_of_cpuinfo(cpuinfos.RASPBERRY_PI_4, "aarch64")
    with pytest.raises(DeviceError) as refusal:
        choose(variants("aarch64", "dotprod", "i8mm"), flags)
    assert str(refusal.value) == (
        "The artifact's kernels do not run on this processor. They need dotprod or i8mm. This "
        "processor offers neon; for dotprod it lacks asimdhp, asimddp. Build it for this machine: "
        "arkinfer build --target cpu."
    )
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(DeviceError) as refusal:
        choose(variants("x86_64", "x86-64-v3"), frozenset({"fpu"}) | set(cpu.ISAS["x86_64"]))
    assert "offers plain x86_64; for x86-64-v3 it lacks " in refusal.value.why


def test_flags_are_those_of_every_processor() -> None:
    """Linux lists for each what it has, where they differ."""
    text = (
        "processor : 0\nFeatures : asimd asimddp i8mm\n\nprocessor : 1\nFeatures : asimd asimddp\n"
    )
    assert flags_of_cpuinfo(text, "aarch64") == {"asimd", "asimddp"}


def test_an_emulated_process_is_not_told_of_the_machine_below() -> None:
    assert flags_of_cpuinfo(cpuinfos.ZEN_4, "aarch64") == frozenset()
    assert flags_of_cpuinfo(cpuinfos.GRAVITON_3, "x86_64") == frozenset()


@pytest.mark.parametrize(
    ("hwcap", "hwcap2", "flags"),
    [
        (0x3, 0, {"asimd"}),
        (0x10_0402, 0, {"asimd", "asimdhp", "asimddp"}),
        (0x10_0402, 0x6000, {"asimd", "asimdhp", "asimddp", "i8mm", "bf16"}),
        (0, 0, set[str]()),
    ],
)
def test_flags_of_the_auxiliary_vector(hwcap: int, hwcap2: int, flags: set[str]) -> None:
    vector = struct.pack("<8Q", 6, 4096, 16, hwcap, 26, hwcap2, 0, 0)
    assert flags_of_auxv(vector) == flags
    assert flags_of_auxv(vector + b"odd") == flags
    assert flags_of_auxv(b"") == frozenset()


def test_flags_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, vector = tmp_path / "cpuinfo", tmp_path / "auxv"
    monkeypatch.setattr(cpu, "CPUINFO", info)
    monkeypatch.setattr(cpu, "AUXV", vector)
    assert cpu.cpu_flags() == frozenset()
    info.write_text(cpuinfos.ZEN_4)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert {"avx512_bf16", "lahf_lm"} < cpu.cpu_flags()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert cpu.cpu_flags() == frozenset()
    vector.write_bytes(struct.pack("<2Q", 16, 2))
    assert cpu.cpu_flags() == {"asimd"}
    info.write_text(cpuinfos.RASPBERRY_PI_5)
    assert "asimddp" in cpu.cpu_flags()


def test_every_instruction_set_is_described_to_the_kernels() -> None:
    described = {name: isa.arch for name, isa in isa_module.ISAS.items()}
    assert described == {name: arch for arch, isas in ISAS.items() for name in isas}
