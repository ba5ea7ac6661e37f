"""Says on standard error which stage a build or an export is in. Knows no stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arkinfer.cli.progress import Progress, say

if TYPE_CHECKING:
    from arkinfer.compiler.progress import Progress as Moment


class Teller:
    """Shows one line of progress per stage; quick stages stay silent."""

    def __init__(self) -> None:
        self._line: Progress | None = None
        self._stage = ""

    def __call__(self, moment: Moment) -> None:
        if moment.note:
            self.end()
            say(moment.note)
            return
        if self._line is None or moment.stage != self._stage:
            self.end()
            self._stage = moment.stage
            self._line = Progress(_title(moment.stage), expected=moment.seconds)
        if moment.step:
            self._line.what = _title(moment.step)
        if moment.total:
            self._line(moment.done, moment.total)

    def end(self) -> None:
        if self._line is not None:
            self._line.end()
            self._line = None


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]
