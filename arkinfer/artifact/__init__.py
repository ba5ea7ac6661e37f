"""The .ark file: write, open, verify. Knows no IR and no backend.

The format is specified in docs/format.md; docs/manifest.schema.json is the manifest's schema.
"""

from arkinfer.artifact.dtypes import DTYPES
from arkinfer.artifact.manifest import SECTION_IR, Manifest, Section, TensorEntry
from arkinfer.artifact.reader import Artifact, open_artifact
from arkinfer.artifact.verify import VerifyReport, verify_artifact
from arkinfer.artifact.writer import ArtifactWriter

__all__ = [
    "DTYPES",
    "SECTION_IR",
    "Artifact",
    "ArtifactWriter",
    "Manifest",
    "Section",
    "TensorEntry",
    "VerifyReport",
    "open_artifact",
    "verify_artifact",
]
