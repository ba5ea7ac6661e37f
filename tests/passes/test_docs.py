"""docs/passes.md: every pass is listed. Its example is executed by tests/docs."""

from __future__ import annotations

import re
from pathlib import Path

from arkinfer.passes import NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "passes.md").read_text("utf-8")


def test_every_pass_is_listed() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE, flags=re.M)
    assert sorted(listed) == sorted(NAMES)
