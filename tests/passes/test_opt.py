"""`arkinfer-opt`: what it prints, and what it says when it cannot."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from arkinfer.cli.opt import main
from arkinfer.ir import parse_module
from arkinfer.passes import NAMES

TEXT = """\
module
func @f(%x: f32[T, 4], %z: f32[T, 4]) {
  %0 = tensor.silu(%x) : f32[T, 4]
  %1 = tensor.mul(%0, %z) : f32[T, 4]  // mlp
  %2 = tensor.silu(%z) : f32[T, 4]  // alone
  return y = %1, z = %2
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f.ir"
    path.write_text(TEXT)
    return path


def test_prints_what_the_passes_made(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--passes", "fuse-silu-mul, eliminate-dead-code"]) == 0
    out = capsys.readouterr().out
    assert "%0 = nn.silu_mul(%x, %z) : f32[T, 4]  // mlp\n" in out
    assert "remark" not in out
    assert parse_module(out)


def test_without_passes_it_prints_what_it_read(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == TEXT


def test_remarks_are_comments(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--passes", "fuse-silu-mul", "--remarks"]) == 0
    out = capsys.readouterr().out
    assert out.endswith(
        "// remark: fuse-silu-mul: tensor.silu at alone: the gate does not multiply one value: it "
        "is a result of the function\n"
    )
    assert parse_module(out)


def test_standard_input_and_output_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    assert main(["-", "-o", str(tmp_path / "out.ir")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "out.ir").read_text() == TEXT


def test_verify_only_prints_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--verify-only"]) == 0
    assert capsys.readouterr().out == ""


def test_dumps(file: Path, tmp_path: Path) -> None:
    dumps = tmp_path / "dumps"
    assert main([str(file), "--passes", "fuse-silu-mul", "--dump-ir", str(dumps)]) == 0
    assert sorted(p.name for p in dumps.iterdir()) == ["00-input.ir", "01-fuse-silu-mul.ir"]


def test_lists_every_pass_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("{")[0] for line in lines] == list(NAMES)
    assert "store-weights{dtype: str}" in lines


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--passes", "fuse-rmsnorm"],
            'There is no pass "fuse-rmsnorm". Did you mean "fuse-rms-norm"?',
        ),
        (
            ["--passes", "quantize{linar=int4-g32}"],
            'The pass quantize has no option "linar". Did you mean "linear"?',
        ),
        (
            ["--passes", "quantize{clip=perhaps}"],
            'The option "clip" of the pass quantize cannot be "perhaps". It is a bool.',
        ),
        (["--passes", "quantize{"], '"quantize{" does not name a pass.'),
        (["--passes", "store-weights"], 'The pass store-weights needs the option "dtype".'),
        (
            ["--passes", "store-weights{dtype=f12}"],
            'Weights cannot be stored as "f12". Use f32, f16, bf16, f64.',
        ),
        (
            ["--passes", "quantize{linear=int9-g32}"],
            '"int9-g32" is not a quantization scheme.',
        ),
        (
            ["--passes", "quantize{method=magic}"],
            'There is no quantization method "magic". Known: rtn.',
        ),
        (["--verify-only", "--passes", "fuse-rope"], "--verify-only runs no passes."),
    ],
)
def test_a_wrong_request_is_one_sentence(
    file: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {text}")
    assert len(captured.err.splitlines()) == 1


def test_what_is_no_ir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.ir"
    for content, text in (
        (b"hello\n", "line 1 of the IR text cannot be read: hello"),
        (TEXT.replace("[T, 4]  // mlp", "[T, 5]").encode(), "but the op gives f32[T, 4]"),
        (b"\xff\xfe", "It is no UTF-8"),
    ):
        bad.write_bytes(content)
        assert main([str(bad)]) == 2
        assert text in capsys.readouterr().err
    assert main([str(tmp_path / "none.ir")]) == 2
    assert 'none.ir" cannot be read. No such file or directory.' in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_where_nothing_can_be_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "-o", str(file / "out.ir")]) == 1
    assert "cannot be written" in capsys.readouterr().err
