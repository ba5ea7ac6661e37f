"""What a build finds of the one before, and of one beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arkinfer.compiler.journal import Journal, remove_dead
from arkinfer.compiler.progress import Progress
from arkinfer.compiler.stages import Stages

ROOT = Path(__file__).parents[2]


def killed(folder: Path, output: Path, *doing: str) -> int:
    """Runs a build that is killed at its last step; its process."""
    script = (
        "import os, signal, sys; from pathlib import Path; "
        "from arkinfer.compiler.journal import Journal; "
        "journal = Journal(Path(sys.argv[1]), Path(sys.argv[2])); "
        "[journal.note(step) for step in sys.argv[3:]]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(output), *doing],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.wait(timeout=60) == -signal.SIGKILL
    return process.pid


def test_a_killed_build_is_told_once(tmp_path: Path):
    output = tmp_path / "m.ark"
    killed(tmp_path, output, "tracing the model", "quantizing layers.3 (weight 4 of 41)")
    with Journal(tmp_path, tmp_path / "other.ark") as other:
        assert other.found == []
    with Journal(tmp_path, output) as journal:
        assert journal.found == [
            f'The last build of "{output}" was killed while quantizing layers.3 (weight 4 of 41); '
            "what it had finished is reused."
        ]
    with Journal(tmp_path, output) as journal:
        assert journal.found == []
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_the_output_is_the_output(tmp_path: Path):
    (tmp_path / "link.ark").symlink_to(tmp_path / "m.ark")
    killed(tmp_path, tmp_path / "m.ark", "tracing")
    with Journal(tmp_path, tmp_path / "link.ark") as journal:
        assert len(journal.found) == 1


def test_killed_before_its_first_word_or_damaged(tmp_path: Path):
    killed(tmp_path, tmp_path / "m.ark")
    with Journal(tmp_path, tmp_path / "m.ark") as journal:
        assert "was killed while starting; " in journal.found[0]
    killed(tmp_path, tmp_path / "m.ark", "x")
    (left,) = tmp_path.glob("*.json")
    left.write_bytes(b"\0" * 100)
    with Journal(tmp_path, tmp_path / "m.ark") as journal:
        assert "was killed while starting; " in journal.found[0]


def test_a_build_beside_this_one_is_left_alone(tmp_path: Path):
    with Journal(tmp_path, tmp_path / "m.ark") as first:
        first.note("tracing the model")
        with Journal(tmp_path, tmp_path / "m.ark") as second:
            assert second.found == [
                f'Another build of "{tmp_path / "m.ark"}" is running (process {os.getpid()}, '
                "tracing the model); the one that ends last stays."
            ]
        assert len(list(tmp_path.glob("*.json"))) == 1
        assert remove_dead(tmp_path) == 0
    killed(tmp_path, tmp_path / "m.ark", "x")
    assert remove_dead(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [None, Path("/dev/null")])
def test_without_a_place_nothing_is_kept(folder: Path | None):
    with Journal(folder, Path("m.ark")) as journal:
        journal.note("tracing")
        assert journal.found == []


def test_stages_are_estimated_from_earlier_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("arkinfer.compiler.stages.time.monotonic", lambda: now[0])
    (tmp_path / "tmp").mkdir()

    def run(work: int, *, slow: float, quick: float) -> dict[str, float]:
        told: list[Progress] = []
        stages = Stages(told.append, tmp_path)
        stages.follow(Journal(None, tmp_path), work)
        for name, spent in (("slow", slow), ("quick", quick)):
            stages.start(name)
            now[0] += spent
        stages.stop()
        stages.remember()
        assert stages.seconds == {"slow": slow, "quick": quick}
        return {moment.stage: moment.seconds for moment in told}

    assert run(1000, slow=40.0, quick=0.1) == {"slow": 0.0, "quick": 0.0}
    assert run(1500, slow=0.2, quick=0.1) == {"slow": 60.0, "quick": 0.0}
    assert run(2001, slow=90.0, quick=0.1) == {"slow": 0.0, "quick": 0.0}
    assert run(1900, slow=90.0, quick=0.1)["slow"] == pytest.approx(90 * 1900 / 2001)
    (tmp_path / "timings.json").write_text('{"slow": 3}')
    assert run(1000, slow=40.0, quick=0.1) == {"slow": 0.0, "quick": 0.0}
