"""Is an .ark file what was built, by whom was it built, and does it answer right on this device?

The checks in order; the first one that fails raises. Knows no backend and no terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arkinfer.artifact import Artifact, open_artifact, verify_artifact
from arkinfer.artifact.sign import check_signature, signature_of
from arkinfer.errors import ArtifactError
from arkinfer.runtime.prepared import OnProgress, Prepared

if TYPE_CHECKING:
    from arkinfer.artifact import Section
    from arkinfer.artifact.minisign import PublicKey
    from arkinfer.runtime.contract import Executable, LoadOptions
    from arkinfer.verify.golden import Answer, Distance, Golden
    from arkinfer.verify.localize import Off
    from arkinfer.verify.tolerance import Tolerance


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: "integrity", "signature", "golden", "reference", "values" or "source".
        ok: whether it is right; None: there was nothing to check, and the text says why.
        text: what was found, as a clause.
        facts: the same for `--json`.
    """

    name: str
    ok: bool | None
    text: str
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


def checks(
    path: Path,
    *,
    backend: str | None = None,
    threads: int | None = None,
    key: PublicKey | None = None,
    replay: bool = True,
    progress: OnProgress = lambda what, done, total: None,
    on_prepared: Callable[[Prepared], object] | None = None,
) -> Iterator[Check]:
    """Checks a file, one thing after the other; each is given when it is found right.

    Args:
        path: an .ark file.
        backend: whose section answers; None: the first, which is what the target asked for.
        threads: worker threads; None: what the backend finds best for this machine.
        key: who must have signed; None: nobody.
        replay: whether to run the model.
        progress: see `OnProgress`.
        on_prepared: see `runtime.contract.LoadOptions`.

    Raises:
        ArtifactError: the file is damaged, not signed by that key, or answers otherwise than it
            was built to; names the entry, or the op and its weights.
        UsageError: no such file, or no section of that backend.
        DeviceError: this device lacks what a check needs; the message names what mends it.
        UnsupportedError: there is no tolerance for what the section computes with.
    """
    yield _integrity(path, progress)
    with open_artifact(path) as artifact:
        yield _signature(artifact, key)
        if replay:
            from arkinfer.runtime.contract import LoadOptions

            options = LoadOptions(threads, on_progress=progress, on_prepared=on_prepared)
            yield from _golden(artifact, backend, options, progress)


def _integrity(path: Path, progress: OnProgress) -> Check:
    report = verify_artifact(path, lambda done, all: progress("Checking the bytes", done, all))
    facts = {
        "digest": report.digest, "entries": report.entries, "hashed": report.hashed,
        "size": report.size,
    }  # fmt: skip
    text = f"{report.entries} entries and all around them, {report.size:,} bytes"
    return Check("integrity", True, text, facts)


def _signature(artifact: Artifact, key: PublicKey | None) -> Check:
    if key is not None:
        found = check_signature(artifact, key)
        return Check(
            "signature", True, f"by the key {found.key_id}: {found.comment}",
            {"key": found.key_id, "comment": found.comment},
        )  # fmt: skip
    found = signature_of(artifact)
    if found is None:
        return Check("signature", None, "the file is not signed")
    text = f"it names the key {found.key_id}; give --pubkey to check it"
    return Check("signature", None, text, {"key": found.key_id})


def _golden(
    artifact: Artifact, backend: str | None, options: LoadOptions, progress: OnProgress
) -> Iterator[Check]:
    from arkinfer.runtime.registry import choose_section, open_section
    from arkinfer.verify.golden import ENTRY, read_golden
    from arkinfer.verify.tolerance import tolerances

    if ENTRY not in artifact:
        yield Check("golden", None, "the file has no golden vectors; an older arkinfer built it")
        return
    section = choose_section(artifact, backend)
    allowed = tolerances(artifact.manifest, section.backend, section.activations, section.caches)
    _, executable = open_section(artifact, backend, options)
    try:
        golden = read_golden(artifact, executable.vocab_size)
        assert golden is not None
        found = _replay(executable, golden, progress)
    finally:
        executable.close()
    one = _Device(artifact, section, options, golden, allowed["reference"])
    yield one.judged("reference", found, allowed["reference"])
    if (values := one.values()) is not None:
        yield values
    yield one.judged("source", found, allowed["source"])


def _replay(
    executable: Executable, golden: Golden, progress: OnProgress
) -> list[tuple[Answer, Distance]]:
    from arkinfer.verify.golden import compare, replay

    total, before = sum(map(len, golden.prompts.values())), 0
    found: list[tuple[Answer, Distance]] = []
    for prompt, tokens in golden.prompts.items():
        start = before
        logits = replay(
            executable, tokens,
            lambda done, start=start: progress("Replaying golden vectors", start + done, total),
        )  # fmt: skip
        before += len(tokens)
        found += [(a, compare(a, logits)) for a in golden.answers if a.prompt == prompt]
    return found


AGAINST = {
    "reference": "against the traced graph with the artifact's weights",
    "source": "against the traced graph with the checkpoint's weights",
}


class _Device:
    """Judges what a section answered here, and finds the op that is to blame."""

    def __init__(
        self,
        artifact: Artifact,
        section: Section,
        options: LoadOptions,
        golden: Golden,
        allowed: Tolerance,
    ) -> None:
        self.artifact, self.section, self.options = artifact, section, options
        self.golden, self.allowed = golden, allowed

    def judged(
        self, weights: str, found: Sequence[tuple[Answer, Distance]], allowed: Tolerance
    ) -> Check:
        """Raises ArtifactError when an answer is beyond what is allowed."""
        compared = [(answer, distance) for answer, distance in found if answer.weights == weights]
        if not compared:
            return Check(weights, None, "the file has no answers of that kind")
        for answer, distance in compared:
            if problem := allowed.problem(distance):
                why = f"Check {weights}, {answer.prompt} prompt, {AGAINST[weights]}: {problem}"
                raise self._too_coarse(why) if weights == "source" else self._wrong(why)
        distances = [distance for _, distance in compared]
        agree, rows = sum(d.agree for d in distances), sum(d.rows for d in distances)
        error, kl = max(d.error for d in distances), max(d.kl for d in distances)
        text = (
            f"{self.section.backend}: best token in {agree} of {rows}, "
            f"KL {kl:.2g} (limit {allowed.kl:.3g}), error {error:.2g} (limit {allowed.error:.3g})"
        )
        facts = {
            "backend": self.section.backend, "agree": agree, "rows": rows, "kl": kl,
            "kl_limit": allowed.kl, "error": error, "error_limit": allowed.error,
        }  # fmt: skip
        return Check(weights, True, text, facts)

    def values(self) -> Check | None:
        """What single ops gave; None: the backend does not show them. Raises as `judged`."""
        values = self._values()
        if not values:
            return None
        worst, limit = max(value.error for value in values), self.allowed.value
        jump, most = max(value.jump for value in values), self.allowed.jump
        why = ""
        if not worst <= limit:
            why = f"is off by {worst:.2g}, limit {limit:.3g}"
        elif not jump <= most:
            why = f"is off by {jump:.2g} more than all before it, limit {most:.3g}"
        if why:
            raise self._wrong(
                f"Check values, short prompt, {AGAINST['reference']}: a result inside of the "
                f"model {why}",
                values,
            )
        text = (
            f"{self.section.backend}: {len(values)} results of single ops, the worst off by "
            f"{worst:.2g} (limit {limit:.3g}), one op adds {jump:.2g} (limit {most:.3g})"
        )
        facts = {
            "backend": self.section.backend, "values": len(values), "error": worst,
            "error_limit": limit, "jump": jump, "jump_limit": most,
        }  # fmt: skip
        return Check("values", True, text, facts)

    def _values(self) -> list[Off]:
        from arkinfer.runtime.registry import open_section
        from arkinfer.verify.localize import errors_of_values, jumps

        known = self.golden.values.get(self.section.backend, ())
        if not known or "short" not in self.golden.prompts:
            return []
        options = replace(self.options, observe=True)
        _, executable = open_section(self.artifact, self.section.backend, options)
        try:
            return jumps(errors_of_values(executable, self.golden.prompts["short"], known))
        finally:
            executable.close()

    def _wrong(self, why: str, values: list[Off] | None = None) -> ArtifactError:
        """The error for an answer that is not the backend's to give; names the op to blame."""
        from arkinfer.verify.localize import first_off, suspect

        seen = self._values() if values is None else values
        found = first_off(seen, self.allowed.value, self.allowed.jump)
        if found is not None:
            op = suspect(self.artifact, self.section, found)
            why = f"{why}. The first op that is off is {op}: by {op.error:.2g}"
        backend = self.section.backend
        return ArtifactError(
            f'"{self.artifact.path}" does not answer on {backend} as it was built to', why,
            "Verify it on the machine that built it: if it passes there, update this device's "
            f"{backend}, or report it; if not, build it again with a newer arkinfer",
        )  # fmt: skip

    def _too_coarse(self, why: str) -> ArtifactError:
        return ArtifactError(
            f'"{self.artifact.path}" answers too far from its checkpoint on '
            f"{self.section.backend}", why,
            "The weights lost too much when they were quantized: build it again with a finer "
            '--quant, and compare with "arkinfer eval"',
        )  # fmt: skip
