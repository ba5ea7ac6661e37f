"""What commands share that run a section: which one, and what is said where it is prepared first.

Knows no command and no backend.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from arkinfer.cli.progress import Steps, say
from arkinfer.words import duration, human

if TYPE_CHECKING:
    from arkinfer.runtime.contract import LoadOptions
    from arkinfer.runtime.prepared import Prepared

SMALL_PAGES = (
    '{file} is held in small pages, as files are that were just copied; "arkinfer prepare {file}", '
    "while nothing runs it, makes decoding faster"
)


class Loading(Steps):
    """Progress while a file is loaded; says what was made on the way, which takes minutes.

    Args:
        file: as the user called it.
        first: what is done first; "": it is loaded.
    """

    def __init__(self, file: str, first: str = "") -> None:
        super().__init__(first or f"Loading {file}")
        self._file = file

    def options(self, **wanted: Any) -> LoadOptions:
        """How to open a section: as `LoadOptions` has it, and so that it is told here."""
        from arkinfer.runtime.contract import LoadOptions

        return LoadOptions(**wanted, on_progress=self, on_prepared=self.prepared)

    def prepared(self, made: Prepared) -> None:
        """Says what was made, unless it was there already, and what else is to be known."""
        self.end()
        if not made.reused:
            kept = f"kept in {made.path}" if made.path else "not kept, so that each run makes it"
            say(
                f"{self._file} was prepared for this device in {duration(made.seconds)}: "
                f"{human(made.nbytes)}, {kept}"
            )
        for note in made.notes:
            say(note)


def section_for(file: str, backend: str | None, device: str | None) -> str | None:
    """The backend whose section is wanted; None: the file's first.

    Raises:
        UsageError: see `runtime.registry.choose_section`.
    """
    if device is None:
        return backend
    from arkinfer.artifact import open_artifact
    from arkinfer.runtime.demo import located
    from arkinfer.runtime.registry import choose_section

    with open_artifact(located(file)) as artifact:
        return choose_section(artifact, backend, device).backend


def prepare_first(file: str, backend: str | None, cache: Path | None = None) -> None:
    """Prepares a section for commands whose processes would each do so by themselves.

    Raises:
        DeviceError: see `runtime.registry.prepare_section`.
    """
    from arkinfer.artifact import open_artifact
    from arkinfer.runtime.demo import located
    from arkinfer.runtime.registry import choose_section, prepare_section

    with open_artifact(located(file)) as artifact, Loading(file) as loading:
        section = choose_section(artifact, backend)
        made = prepare_section(artifact, section, loading.options(cache=cache))
        if made is not None:
            loading.prepared(made)
