"""What was measured, as it stands in an artifact's report.json. Knows no model and no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from arkinfer.errors import ArtifactError
from arkinfer.limits import LimitError, parse_json
from arkinfer.words import human

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact

OUTSIDE = "embedding and head"
"""What has no layer's path."""


@dataclass(frozen=True)
class LayerError:
    """What quantization does to the residual stream, |change| / |stream|, the mean over tokens.

    Attributes:
        path: the torch module of the layer.
        own: by this layer alone: its input is that of the model as it was.
        whole: by all layers up to this one.
    """

    path: str
    own: float
    whole: float


@dataclass(frozen=True)
class Quality:
    """A quantized model beside the model as it was, on one text.

    Attributes:
        tokens: of the text, read from an empty cache.
        source_perplexity: of the model as it was.
        perplexity: of the quantized one.
        mean_kl: D(source || quantized) in nats, the mean over positions.
        p99_kl: the same, of the worst hundredth.
        same_top1: share of positions where both find the same next token best.
        layers: in order.
    """

    tokens: int
    source_perplexity: float
    perplexity: float
    mean_kl: float
    p99_kl: float
    same_top1: float
    layers: tuple[LayerError, ...]

    @property
    def perplexity_ratio(self) -> float:
        return self.perplexity / self.source_perplexity

    def most_sensitive(self) -> list[LayerError]:
        """The layers by what they cost themselves, the worst one first."""
        return sorted(self.layers, key=lambda layer: -layer.own)

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to what two runs on one ISA agree in."""
        facts = asdict(self)
        layers = [{**layer, "own": _short(layer["own"]), "whole": _short(layer["whole"])}
                  for layer in facts.pop("layers")]  # fmt: skip
        tokens = facts.pop("tokens")
        numbers = {key: _short(value) for key, value in facts.items()}
        return {"tokens": tokens, **numbers, "layers": layers}


def read_report(artifact: Artifact) -> dict[str, Any]:
    """An artifact's report.json.

    Raises:
        ArtifactError: it is damaged, or there is none.
    """
    try:
        found = parse_json(artifact.read("report.json"))
        if not isinstance(found, dict):
            raise LimitError("it is not a JSON object")
    except LimitError as error:
        raise ArtifactError(
            f'report.json of "{artifact.path}" cannot be read',
            f"Reason: {error}",
            "Build the artifact again",
        ) from error
    return cast("dict[str, Any]", found)


def parse_quality(facts: Mapping[str, Any]) -> Quality:
    """The inverse of `Quality.to_json`.

    Raises:
        ArtifactError: something is missing, or of another type.
    """
    try:
        layers = tuple(
            LayerError(str(each["path"]), float(each["own"]), float(each["whole"]))
            for each in facts["layers"]
        )
        names = ("source_perplexity", "perplexity", "mean_kl", "p99_kl", "same_top1")
        numbers = {name: float(facts[name]) for name in names}
        return Quality(tokens=int(facts["tokens"]), layers=layers, **numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            "The quality in report.json cannot be read",
            f"Reason: {type(error).__name__}: {error}",
            "Build the artifact again",
        ) from error


def _short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


COLUMNS = ("layer", "schemes", "bits", "bytes", "own error", "error")


def layer_rows(sizes: Sequence[Mapping[str, Any]], found: Quality | None) -> list[tuple[str, ...]]:
    """What each layer takes and costs, as texts under `COLUMNS`.

    Args:
        sizes: the `layers` of report.json.
        found: what was measured; None: nothing.
    """
    errors = {} if found is None else {layer.path: layer for layer in found.layers}
    rows: list[tuple[str, ...]] = []
    for size in sizes:
        error = errors.get(size["path"])
        numbers = ("-", "-") if error is None else (f"{error.own:.4f}", f"{error.whole:.4f}")
        name, schemes = size["path"] or OUTSIDE, ", ".join(size["schemes"])
        rows.append((name, schemes, f"{size['bits']:.2f}", human(size["nbytes"]), *numbers))
    return rows
