"""The page of `arkinfer profile --html`: bars of time, and every row. Knows no kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arkinfer.profile.breakdown import By, breakdown
from arkinfer.report import Bar, Figure, Heading, Paragraph, Table, bar_chart, page, write_page

if TYPE_CHECKING:
    from arkinfer.profile.measure import Profile
    from arkinfer.profile.roofline import Peaks

_CHARTS: tuple[tuple[By, str, int], ...] = (
    ("path", "Time by torch path and op", 12),
    ("op", "Time by op", 12),
    ("layer", "Time by layer", 200),
)
"""What is charted, and how many bars; what is below the longest is one bar."""

_READING = """\
Time is the mean of the fastest quarter of the rounds, since what disturbs a step only makes it
slower. Bytes are the least that an op has to move: its weights as they are stored, activations, and
what it reads of the caches. Operations are those of matrix products and attentions; a multiply-add
is two.

An op cannot be faster than its bytes at the bandwidth of memory, nor than its operations at the
peak of the arithmetic: see the shares of both. Weights that fit into the caches of the processor
can be read faster than memory, and kernels that multiply small integers can be faster than the peak
in float32, which is the one that is measured."""


def write(path: str, facts: dict[str, Any], profile: Profile, peaks: Peaks) -> None:
    """Writes the page.

    Args:
        path: of the file.
        facts: what `--json` prints.
        profile: that they describe.
        peaks: of the machine.
    """
    from arkinfer.cli.profile import FIGURES, describe, figures, ms, peaks_text, what

    kernels = describe(profile, peaks, "kernel")["rows"]
    blocks = [
        *(Figure(_chart(profile, *chart)) for chart in _CHARTS),
        Heading("Every kernel"),
        Table(
            ("torch path", "op", "kernel", *FIGURES),
            [(row["path"], row["op"], ", ".join(row["kernels"]), *figures(row)) for row in kernels],
            align="lllr",
            caption=f"In order of execution. The machine {peaks_text(facts['peaks'])}.",
        ),
        Heading("How to read it"),
        Paragraph(_READING),
    ]
    title = f"Profile of {facts['path']}"
    lead = (
        f"{what(facts)} on {facts['backend']} with {facts['threads']} threads: "
        f"{ms(facts['step']['seconds'])}. Kernels and what is outside of them sum up to "
        f"{100 * facts['agreement']:.1f} % of the step without the profiler."
    )
    write_page(path, page(title, lead, blocks))


def _chart(profile: Profile, by: By, title: str, most: int) -> str:
    rows = breakdown(profile, by)
    labels = [row.path if by == "layer" else f"{row.path} {row.op}".strip() for row in rows]
    bars = [
        _bar(label or "no path", row.seconds, profile)
        for label, row in zip(labels[:most], rows[:most], strict=True)
    ]
    if rest := rows[most:]:
        bars.append(_bar(f"{len(rest)} more", sum(row.seconds for row in rest), profile))
    bars.append(_bar("outside of kernels", profile.outside, profile))
    return bar_chart(title, "ms", bars)


def _bar(label: str, seconds: float, profile: Profile) -> Bar:
    share = seconds / (profile.in_kernels + profile.outside)
    return Bar(label, 1e3 * seconds, f"{100 * share:.1f} %")
