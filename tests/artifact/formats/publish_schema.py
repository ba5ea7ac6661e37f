"""Writes docs/manifest.schema.json from the schema that the code checks."""

from __future__ import annotations

import json
from pathlib import Path

from arkinfer.artifact.manifest_schema import SCHEMA

if __name__ == "__main__":
    path = Path(__file__).parents[3] / "docs" / "manifest.schema.json"
    path.write_text(json.dumps(SCHEMA, indent=2) + "\n")
