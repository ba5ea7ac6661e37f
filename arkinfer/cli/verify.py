"""`arkinfer verify`: no bit of an .ark file changed. Knows no model and runs nothing."""

from __future__ import annotations

from arkinfer.cli.options import Json, Model
from arkinfer.cli.progress import Progress


def verify(
    file: Model,
    json: Json = False,
) -> None:
    """Check every bit of an .ark file; fails naming the first entry that is wrong.

    Example: arkinfer verify model.ark
    """
    from arkinfer.artifact import verify_artifact
    from arkinfer.runtime.demo import located

    progress = Progress(f"Verifying {file}")
    try:
        report = verify_artifact(located(file), progress)
    finally:
        progress.end()
    if json:
        from json import dumps

        facts = {
            "path": str(report.path),
            "ok": True,
            "digest": report.digest,
            "entries": report.entries,
            "hashed": report.hashed,
            "size": report.size,
        }
        print(dumps(facts, indent=2))
        return
    outside = report.size - report.hashed
    print(f"{report.path} is sound.")
    print(f"checked  {report.entries} entries, {report.hashed:,} bytes, by SHA-256 and CRC-32")
    print(f"         {outside:,} bytes around them: headers, padding, directory")
    print(f"digest   sha256 {report.digest}")
