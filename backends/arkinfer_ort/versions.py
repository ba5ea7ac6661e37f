"""Is the installed ONNX Runtime one that a section can run on? Knows no session."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from arkinfer.errors import ArtifactError, DeviceError
from arkinfer.runtime.versions import numbers, satisfies

PACKAGE = "onnxruntime"
LAST_FOR_PYTHON_3_10 = (1, 23)


def check_requirements(requires: Mapping[str, str], installed: str) -> None:
    """Checks what a section requires against the version that is installed.

    Raises:
        DeviceError: another version is needed; names the command that installs it.
        ArtifactError: the requirement cannot be understood.
    """
    for package, wanted in requires.items():
        if package != PACKAGE:
            raise ArtifactError(
                f'The section "{PACKAGE}" needs "{package}", which this arkinfer cannot check',
                "",
                "Install a newer arkinfer",
            )
        if not _satisfies(installed, wanted):
            raise DeviceError(
                f"The artifact needs {PACKAGE} {wanted}",
                f"Version {installed} is installed",
                _fix(wanted),
            )


def _satisfies(installed: str, wanted: str) -> bool:
    try:
        return satisfies(installed, wanted)
    except ValueError:
        raise ArtifactError(
            f'The version range "{wanted}" cannot be understood', "", "Install a newer arkinfer"
        ) from None


def _fix(wanted: str) -> str:
    lower = re.search(r">=\s*([0-9.]+)", wanted)
    newest = sys.version_info < (3, 11) and lower and numbers(lower[1]) > LAST_FOR_PYTHON_3_10
    if newest:
        return "ONNX Runtime of that version needs Python 3.11 or newer: use one"
    return f'Install it: pip install "{PACKAGE}{wanted}"'
