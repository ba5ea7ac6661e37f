"""Finds the executor that runs a section of an artifact: entry points, loaded on first use.

Knows no backend beyond its name, what it runs on and the extra that installs its library.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, NoReturn

from arkinfer.errors import ArtifactError, DeviceError, InternalError, UsageError, nearest
from arkinfer.runtime.contract import (
    Checker,
    Demand,
    Executable,
    Executor,
    LoadOptions,
    Preparer,
)
from arkinfer.runtime.prepared import Prepared

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section

GROUP = "arkinfer.executors"

EXTRAS = {"onnxruntime": "ort", "tvm": "tvm", "tensorrt": "trt"}
"""The extra that installs what an executor of ours imports."""

DEVICES = {"cpu": "the processor", "gpu": "a GPU"}
"""What sections run on, in words."""

GPU_BACKENDS = frozenset({"tensorrt"})
"""Those whose sections run on a GPU; those of all others run on the processor."""


def device_of(backend: str) -> str:
    """What sections of a backend run on: one of `DEVICES`."""
    return "gpu" if backend in GPU_BACKENDS else "cpu"


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


def choose_section(artifact: Artifact, backend: str | None, device: str | None = None) -> Section:
    """The section that is wanted; without a wish the artifact's first, as its target asked for.

    Args:
        artifact: an open artifact.
        backend: whose section; None: any.
        device: what it runs on, one of `DEVICES`; None: anything.

    Raises:
        UsageError: the artifact has no such section, or both were given.
        ArtifactError: the artifact has no section at all.
    """
    sections = artifact.sections
    if not sections:
        raise ArtifactError(
            "The artifact has nothing to run", "It holds no backend's section", "Build it again"
        )
    if device is not None:
        return _section_on(artifact, backend, device)
    if backend is None:
        return next(iter(sections.values()))
    if backend not in sections:
        raise UsageError(
            f'The artifact has no section for the backend "{backend}"',
            f"It was built for: {', '.join(sections)}",
            "Name one of these, or build it for that backend",
        )
    return sections[backend]


def _section_on(artifact: Artifact, backend: str | None, device: str) -> Section:
    if backend is not None:
        raise UsageError(
            "--backend and --device cannot be combined",
            "Each of them says which section to run",
            "Leave out one of them",
        )
    if device not in DEVICES:
        raise UsageError(f'There is no device "{device}"', fix=nearest(device, DEVICES))
    for name, section in artifact.sections.items():
        if device_of(name) == device:
            return section
    fix = "without --no-cpu" if device == "cpu" else "for one: arkinfer build --target jetson-orin"
    raise UsageError(
        f"The artifact has no section for {DEVICES[device]}",
        f"It was built for: {', '.join(artifact.sections)}",
        f"Build it {fix}",
    )


def open_section(
    artifact: Artifact,
    backend: str | None,
    options: LoadOptions,
    using: Executor | None = None,
    device: str | None = None,
) -> tuple[str, Executable]:
    """Loads the weights of a section; never falls back to another one silently.

    Args:
        artifact: an open artifact.
        backend: whose section; None: that of `using`, else the artifact's first.
        options: how to open it.
        using: an executor to open it with; None: the installed one of that name.
        device: see `choose_section`.

    Returns:
        The name of the section's backend, and what it runs on.

    Raises:
        UsageError, ArtifactError: see `choose_section`.
        DeviceError: this device cannot run the section; the message names what mends it.
    """
    if backend is None and device is None and using is not None:
        backend = using.name
    section = choose_section(artifact, backend, device)
    with _offering(artifact, section, chosen=backend is not None or device is not None):
        using = using or executor(section.backend)
        return section.backend, using.open(artifact, section, options)


def prepare_section(artifact: Artifact, section: Section, options: LoadOptions) -> Prepared | None:
    """Makes what a section needs on this device before it is opened, unless it is there.

    Returns:
        What was made or found; None: sections of that backend need nothing.

    Raises:
        DeviceError, ArtifactError, UsageError, ResourceError: see `contract.Preparer.prepare`.
    """
    with _offering(artifact, section, chosen=True):
        using = executor(section.backend)
        if not isinstance(using, Preparer):
            return None
        return using.prepare(artifact, section, options)


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


def refusal(artifact: Artifact, section: Section) -> DeviceError | None:
    """Why this device does not run a section; None: it does, as far as `check_section` can tell."""
    try:
        check_section(artifact, section)
    except DeviceError as error:
        return error
    except ArtifactError:
        return None  # damaged, whatever the device
    return None


@contextmanager
def _offering(artifact: Artifact, section: Section, *, chosen: bool) -> Generator[None, None, None]:
    """Errors of a device also name another section: on the processor, or where none was chosen."""
    try:
        try:
            yield
        except ImportError as error:
            _missing(section.backend, error)
    except DeviceError as error:
        hint = _another(artifact, section, chosen=chosen)
        if not hint:
            raise
        fix = error.fix
        fix += "." if fix and not fix.endswith((".", "?", "!")) else ""
        raise DeviceError(error.what, error.why, f"{fix} {hint}".strip()) from error


def _another(artifact: Artifact, section: Section, *, chosen: bool) -> str:
    """What to say of the sections beside one that does not run; "": nothing that would help."""
    others = [each for each in artifact.sections.values() if each.backend != section.backend]
    cores = [each for each in others if device_of(each.backend) == "cpu"]
    if device_of(section.backend) == "gpu" and cores:
        refused = refusal(artifact, cores[0])
        if refused is not None:
            return f"The section for the processor does not run here either: {refused}"
        return "Or run the artifact's section for the processor: --device cpu."
    running = [each.backend for each in others if not chosen and refusal(artifact, each) is None]
    return f'Or run another section of the artifact: backend "{running[0]}".' if running else ""


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
