"""Finds the executor that runs a section of an artifact: entry points, loaded on first use.

Knows no backend beyond its name and the extra that installs its library.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, NoReturn

from arkinfer.errors import ArtifactError, DeviceError, InternalError, UsageError
from arkinfer.runtime.contract import Checker, Demand, Executable, Executor, LoadOptions

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section

GROUP = "arkinfer.executors"

EXTRAS = {"onnxruntime": "ort", "tvm": "tvm"}
"""The extra that installs what an executor of ours imports."""


def executors() -> dict[str, EntryPoint]:
    """Every executor that is installed, by name.

    Raises:
        UsageError: two installed packages offer different executors under one name.
    """
    known: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = known.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise UsageError(
                f'Two executors are named "{entry.name}"',
                f"One is {other.value}, the other {entry.value}",
                "Uninstall the package that offers one of them",
            )
    return known


def executor(name: str) -> Executor:
    """Imports and makes the executor of a backend.

    Raises:
        DeviceError: there is none of that name, or a library that it needs is missing.
    """
    known = executors()
    if not known:
        raise DeviceError(
            "No executor is installed",
            "arkinfer runs from a folder that was never installed",
            'Install it: pip install "arkinfer[ort]", or in a checkout pip install -e ".[ort]"',
        )
    if name not in known:
        raise DeviceError(
            f'No executor for the backend "{name}" is installed',
            f"The section needs one to run; this device has: {', '.join(sorted(known))}",
            "Install the Python package that brings it",
        )
    try:
        return known[name].load()()
    except ImportError as error:
        _missing(name, error)


def choose_section(artifact: Artifact, backend: str | None) -> Section:
    """The section of `backend`, or the artifact's first, which is the one its target asked for.

    Raises:
        UsageError: the artifact has no section of that backend.
        ArtifactError: the artifact has no section at all.
    """
    sections = artifact.sections
    if not sections:
        raise ArtifactError(
            "The artifact has nothing to run", "It holds no backend's section", "Build it again"
        )
    if backend is None:
        return next(iter(sections.values()))
    if backend not in sections:
        raise UsageError(
            f'The artifact has no section for the backend "{backend}"',
            f"It was built for: {', '.join(sections)}",
            "Name one of these, or build it for that backend",
        )
    return sections[backend]


def open_section(
    artifact: Artifact,
    backend: str | None,
    options: LoadOptions,
    using: Executor | None = None,
) -> tuple[str, Executable]:
    """Loads the weights of a section; never falls back to another one silently.

    Args:
        artifact: an open artifact.
        backend: whose section; None: that of `using`, else the artifact's first.
        options: how to open it.
        using: an executor to open it with; None: the installed one of that name.

    Returns:
        The name of the section's backend, and what it runs on.

    Raises:
        UsageError, ArtifactError: see `choose_section`.
        DeviceError: this device cannot run the section; the message names what mends it.
    """
    section = choose_section(artifact, using.name if backend is None and using else backend)
    try:
        using = using or executor(section.backend)
        return section.backend, using.open(artifact, section, options)
    except ImportError as error:
        try:
            _missing(section.backend, error)
        except DeviceError as known:
            raise _with_others(known, artifact, section, backend) from error
    except DeviceError as error:
        raise _with_others(error, artifact, section, backend) from error


def check_section(artifact: Artifact, section: Section) -> Demand | None:
    """Whether this device runs a section, as far as can be told before its weights are loaded.

    Returns:
        What it takes; None: its executor cannot tell before it opens the section.

    Raises:
        DeviceError: it does not run here; the message names what mends it.
        ArtifactError: the section is damaged.
    """
    using = executor(section.backend)
    if not isinstance(using, Checker):
        return None
    try:
        return using.check(artifact, section)
    except ImportError as error:
        _missing(section.backend, error)


def _with_others(
    error: DeviceError, artifact: Artifact, section: Section, backend: str | None
) -> DeviceError:
    """The same error; when nobody chose the section, its fix also names the other ones."""
    others = [name for name in artifact.sections if name != section.backend]
    if backend is not None or not others:
        return error
    fix = error.fix if error.fix.endswith((".", "?", "!")) or not error.fix else error.fix + "."
    hint = f'Or run another section of the artifact: backend "{others[0]}".'
    return DeviceError(error.what, error.why, f"{fix} {hint}".strip())


def _missing(name: str, error: ImportError) -> NoReturn:
    package = (error.name or "").partition(".")[0]
    if package.startswith("arkinfer"):
        raise InternalError(f'The executor "{name}" cannot be imported', str(error)) from error
    extra = EXTRAS.get(name)
    raise DeviceError(
        f'The backend "{name}" cannot run here',
        f'The Python package "{package}" is missing' if package else str(error),
        f'Install it: pip install "arkinfer[{extra}]"' if extra else "Install that package",
    ) from error
