"""The calibrated methods by name, and what each is made of. Knows no numbers."""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 4
"""Positions at the beginning of a sequence whose activations are outliers: P-GPTQ's s."""


@dataclass(frozen=True)
class Method:
    """How the linears of a block are quantized from what they read.

    Attributes:
        name: as in `--quant int4-NAME-g128`.
        feedback: errors are made good by the inputs that follow (GPTQ); else each group is rounded
            by what comes out of it.
        smooth: inputs are scaled before that (AWQ).
        skip: positions at the beginning of each sequence that do not count.
        act_order: GPTQ takes the inputs with the largest moments first.
        static_groups: GPTQ's scales come from the matrices as they were.
        damping: GPTQ's least, as a share of the mean of the Hessian's diagonal.
    """

    name: str
    feedback: bool = True
    smooth: bool = False
    skip: int = 0
    act_order: bool = True
    static_groups: bool = True
    damping: float = 0.01


METHODS = {
    method.name: method
    for method in (
        Method("gptq"),
        Method("pgptq", skip=FIRST),
        Method("awq", feedback=False, smooth=True),
        Method("spgptq", smooth=True, skip=FIRST),
    )
}
"""Source: Frantar et al. 2022 (GPTQ), Lin et al. 2023 (AWQ), MiniCPM4 technical report, section
4.1.2 (P-GPTQ); S-P-GPTQ is AWQ's scaling, then P-GPTQ."""
