"""What a user asked of a build, checked. Knows no graph and no backend by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from arkinfer.backend import Compiler, TargetChecker, Tuner, compiler, compilers
from arkinfer.compiler.calibration.estimate import calibration_memory
from arkinfer.compiler.calibration.linears import schemes_for
from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.requantize import Again, requantized
from arkinfer.errors import DeviceError, UsageError, nearest
from arkinfer.machine.procfs import processor
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.passes.quantize_cache import CHANNEL
from arkinfer.quant import QuantSpec, parse_quant
from arkinfer.quant.method import METHODS
from arkinfer.quant.spec import parse_linear
from arkinfer.targets import Target, load_target

if TYPE_CHECKING:
    from arkinfer.recipes import Recipe

DTYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""What a user calls a dtype -> what the IR calls it."""

CACHES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "i8"}
"""What a user calls a dtype of the key-value cache -> what the IR calls it."""

AUTO = "auto"
"""Of the key-value cache: what each backend prefers."""

ACTIVATIONS = {"fp32": "f32", "int16": "i16", "int8": "i8"}
"""What a user calls what products with quantized matrices take -> what the IR calls it."""

HERE = "cpu"
"""The target, unless asked otherwise."""

DEFAULT = "int4"
"""How a checkpoint that is not quantized is, unless asked otherwise."""

RAISED_BITS = 8
"""What layers are quantized to that cost too much for the gates of a build."""

CHUNK = 512
"""Tokens of one prefill step, unless asked otherwise."""


@dataclass(frozen=True)
class Asked:
    """What a user asked of a build, as `arkinfer.build` takes it, not checked; None: nothing."""

    target: str | None = None
    quant: str | None = None
    backend: str | tuple[str, ...] | None = None
    embedding: str | None = None
    dtype: str | None = None
    context: int | None = None
    chunk: int | None = None
    kv: str | None = None
    activations: str | None = None
    overrides: Mapping[str, str] | None = None
    requantize: bool = False
    calib: TextOptions | None = None
    no_cpu: bool = False
    tune: bool = False


@dataclass(frozen=True)
class BuildOptions:
    """The checked form of what a user asked for; see `arkinfer.build`."""

    target: Target
    quant: QuantSpec
    compilers: tuple[Compiler, ...]
    dtype: str | None
    context: int | None
    chunk: int
    kv: str = AUTO
    """How key-value caches are kept; "auto": `kv_form.py` has not decided yet."""
    own_kv: Mapping[str, str] = field(default_factory=dict[str, str])
    """By backend, how its section keeps them, where that is not as `kv` says."""
    activations: str | None = None
    """What products with quantized matrices take; None: what each backend is fastest with, and more
    bits where `activation_bits.py` finds that they are needed."""
    quant_given: str | None = None
    embedding_given: str | None = None
    overrides: tuple[tuple[str, Scheme], ...] = ()
    """Matrices by a pattern of their torch module, and what they are quantized to in place of
    what `quant` says; of several that fit, the last counts."""
    requantize: bool = False
    """Quantize again what the checkpoint has in a form without a fast path."""
    text: TextOptions = field(default_factory=TextOptions)
    """What calibrated methods look at."""
    recipe: Recipe | None = None
    """What completed these options; see `by_recipe.py`."""
    kv_scales: str | None = None
    """What an int8 cache has scales for, "token" or "channel"; None: `kv_form.py` has not decided
    yet, or there is no such cache."""
    beside: str = ""
    """The backend for the target's own cores, if its section was not asked for by name."""
    needy: frozenset[str] | None = None
    """Matrices that are known to need more bits of their input; None: a build measures it."""
    tuned: str | None = None
    """The processor that compilers measure on, which is this machine's; None: none measures."""

    @classmethod
    def make(cls, asked: Asked) -> BuildOptions:
        """Checks every name; the nearest known one is offered. None: as usual.

        Raises:
            UsageError: an unknown target, quantization, backend, dtype, kind of cache or of
                activations, activations that a backend does not have, or a bad number.
        """
        machine = load_target(HERE if asked.target is None else asked.target)
        kv = AUTO if asked.kv is None else asked.kv
        spec = parse_quant(asked.quant or DEFAULT, asked.embedding)
        names, beside = _backends(asked, machine)
        if len(set(names)) != len(names):
            raise UsageError(
                f"A backend is named twice: {', '.join(names)}", fix="Name each one once"
            )
        if asked.dtype is not None and asked.dtype not in DTYPES:
            near = nearest(asked.dtype, DTYPES)
            raise UsageError(f'There is no dtype "{asked.dtype}"', "", near)
        if kv not in (AUTO, *CACHES):
            known = nearest(kv, (AUTO, *CACHES))
            raise UsageError(f'There is no key-value cache in "{kv}"', "", known)
        for what, number in (("context", asked.context), ("chunk", asked.chunk)):
            if number is not None and number < 1:
                raise UsageError(f"The {what} cannot be {number} tokens", "", "Give at least 1")
        chosen = tuple(compiler(name) for name in names)
        if asked.tune:
            chosen = _tuning(chosen, machine)
        _check_activations(asked.activations, chosen)
        own = tuple(
            (pattern, parse_linear(name)) for pattern, name in (asked.overrides or {}).items()
        )
        if asked.calib is not None and spec.method is None:
            raise UsageError(
                f"{spec.name} looks at no text",
                "A calibration text was given",
                f"Leave it out, or use a method that does: int4-{', int4-'.join(METHODS)}, each "
                "with a group, such as int4-gptq-g128",
            )
        return cls(
            machine, spec, chosen, asked.dtype, asked.context, asked.chunk or CHUNK, kv,
            activations=asked.activations, quant_given=asked.quant,
            embedding_given=asked.embedding, overrides=own, requantize=asked.requantize,
            text=asked.calib or TextOptions(), beside=beside,
            tuned=processor() if asked.tune else None,
        )  # fmt: skip

    def check_tools(self) -> None:
        """Lets each backend look for the tools that the target takes, before any work is begun.

        Raises:
            DeviceError: one is missing or does not work; says how to get it.
        """
        for each in self.compilers:
            if isinstance(each, TargetChecker):
                with self.naming_another(each):
                    each.check(self.target)

    @contextmanager
    def naming_another(self, compiler: Compiler) -> Generator[None, None, None]:
        """Lets an error about a backend's tools also say how to do without that backend."""
        try:
            yield
        except DeviceError as error:
            known = self.target.backends
            others = known[known.index(compiler.name) + 1 :] if compiler.name in known else ()
            if compiler.name == self.beside:
                way = "leave out the section for the target's own cores: --no-cpu"
            elif others:
                way = f"build with another backend: --backend {others[0]}"
            else:
                raise
            fix = f"{error.fix}, or {way}" if error.fix else way[0].upper() + way[1:]
            raise DeviceError(error.what, error.why, fix) from error

    def kv_of(self, backend: str) -> str:
        """How a backend's section keeps key-value caches, as a user calls it."""
        return self.own_kv.get(backend, self.kv)

    @property
    def calibrates_cache(self) -> bool:
        """Whether the scales of the key-value cache come from a pass over a text."""
        return self.kv_scales == CHANNEL

    def calibration_bytes(self, config: ModelConfig) -> int:
        """Memory that calibration takes; 0: there is none."""
        if self.quant.method is None:
            return 0
        return calibration_memory(config, self.quant.method, self.text.samples, self.text.tokens)

    def for_checkpoint(self, schemes: Mapping[str, Scheme]) -> BuildOptions:
        """The same for a checkpoint that has these matrices quantized: it stays as it is.

        Raises:
            UsageError: another quantization was asked for, or int8 activations with nothing that
                is quantized, or tuning with nothing to tune.
        """
        spec = self.quant
        dense = not (schemes or spec.linear or spec.embedding or self.overrides)
        if self.tuned is not None and (dense or self.activations == "fp32"):
            other = "quantize: --quant int4" if dense else "leave --activations out"
            raise UsageError(
                "There is nothing to tune",
                "What is measured are products with quantized matrices whose input is rounded, "
                "and this build has none",
                f"Leave --tune out, or {other}",
            )
        if self.activations == "int8" and dense:
            raise UsageError(
                "No matrix is quantized, so that activations stay as they are",
                "int8 was asked for, which is for products with quantized matrices",
                "Leave --activations out, or quantize: --quant int8",
            )
        if not schemes or self.quant.linear is None:
            return self
        if self.quant_given is not None and self.requantize and self.quant.method is None:
            return self
        if self.quant_given is not None:
            names = ", ".join(sorted({scheme.name for scheme in schemes.values()}))
            raise UsageError(
                f"The checkpoint is quantized already, to {names}",
                "Quantizing it again would add to its errors",
                "Leave --quant out, which takes the weights as they are, or start from the "
                "unquantized checkpoint; with --requantize, --quant says what becomes of matrices "
                "that have no fast path",
            )
        return replace(self, quant=parse_quant("none", self.embedding_given))

    def raising(self, layers: Sequence[str]) -> BuildOptions:
        """The same, with these layers in 8 bits."""
        linear = self.quant.linear
        if not layers or linear is None:
            return self
        raised = replace(linear, bits=RAISED_BITS, act_order=False)
        more = tuple((f"{path}.*", raised) for path in layers)
        return replace(self, overrides=(*self.overrides, *more))

    def chooses_bits(self, backend: Compiler) -> bool:
        """Whether a build measures how many bits of their input a backend's products take: it
        rounds to 8 unless told otherwise, and can do with 16."""
        kinds = backend.activations
        return self.activations is None and kinds[:1] == ("i8",) and "i16" in kinds

    @property
    def measures_bits(self) -> bool:
        """Whether any section's products may take more bits than others."""
        return self.needy is None and any(map(self.chooses_bits, self.compilers))

    @property
    def can_raise(self) -> bool:
        """Whether layers can be in more bits than they are."""
        return self.quant.linear is not None and self.quant.linear.bits < RAISED_BITS

    def settled(
        self, config: ModelConfig, schemes: Mapping[str, Scheme]
    ) -> dict[str, tuple[str, Scheme]]:
        """The matrices whose quantized form the graph does not decide: by name, rule and scheme.

        They are quantized in the checkpoint, calibrated, or overridden.

        Args:
            config: the model.
            schemes: what the checkpoint has quantized.

        Raises:
            UsageError: an override fits no matrix, or one that is quantized already.
        """
        found = {name: ("stored", scheme) for name, scheme in schemes.items()}
        found |= {n: ("rtn", each.after) for n, each in self.again(config, schemes).items()}
        calibrated: dict[str, Scheme] = {}
        if self.quant.method is not None and self.quant.linear is not None:
            calibrated = schemes_for(config, self.quant.linear)
            found |= {name: ("stored", scheme) for name, scheme in calibrated.items()}
        matrices = [name for name, shape in config.tensor_shapes().items() if len(shape) == 2]
        for pattern, scheme in self.overrides:
            named = [n for n in matrices if fnmatchcase(n.removesuffix(".weight"), pattern)]
            if not named:
                raise UsageError(
                    f'The override "{pattern}" fits no matrix of the model',
                    "",
                    "Write a torch module with * where names differ, such as "
                    "model.layers.*.mlp.down_proj",
                )
            if fixed := [name for name in named if name in schemes]:
                raise UsageError(
                    f'The override "{pattern}" fits {fixed[0]}, which is quantized already',
                    "",
                    "Leave the override out, or start from the unquantized checkpoint",
                )
            found |= {name: ("stored" if name in calibrated else "rtn", scheme) for name in named}
        return found

    def again(self, config: ModelConfig, schemes: Mapping[str, Scheme]) -> dict[str, Again]:
        """The matrices that are quantized once more; none unless that was asked for."""
        if not self.requantize:
            return {}
        chosen = [each for each in self.compilers if each.name != self.beside]
        beside = [each for each in self.compilers if each.name == self.beside]
        return requantized(config, schemes, chosen, self.target, self.quant, beside)

    def context_for(self, config: ModelConfig) -> int:
        """Tokens that the artifact will hold.

        Raises:
            UsageError: more than the model's positions reach.
        """
        context = self.context or config.max_position_embeddings
        if context > config.max_position_embeddings:
            raise UsageError(
                f"The context cannot be {context} tokens",
                f"The checkpoint was made for {config.max_position_embeddings} "
                "(max_position_embeddings in config.json)",
                f"Ask for at most {config.max_position_embeddings}, or give the checkpoint the "
                "longer rope_scaling that its model card publishes",
            )
        return context


def _backends(asked: Asked, target: Target) -> tuple[tuple[str, ...], str]:
    """Whose sections to write, and which of them nobody asked for by name ("": none)."""
    if asked.backend:
        return (asked.backend,) if isinstance(asked.backend, str) else asked.backend, ""
    beside = "" if asked.no_cpu else target.cpu
    return target.backends[:1] + ((beside,) if beside else ()), beside


def _tuning(chosen: Sequence[Compiler], target: Target) -> tuple[Compiler, ...]:
    """The same compilers; those that can choose by measuring do so."""
    if not any(isinstance(each, Tuner) for each in chosen):
        known = [name for name in target.backends if name in compilers()]
        able = [name for name in known if isinstance(compiler(name), Tuner)]
        raise UsageError(
            f"{' and '.join(each.name for each in chosen)} cannot be tuned",
            "Such sections are the same wherever they are built",
            "Leave --tune out" + "".join(f", or build with --backend {name}" for name in able[:1]),
        )
    return tuple(each.tuned(target) if isinstance(each, Tuner) else each for each in chosen)


def activations_name(kind: str) -> str:
    """What a user calls activations that the IR calls so."""
    names = {**DTYPES, **ACTIVATIONS}
    return next((user for user, known in names.items() if known == kind), kind)


def activations_words(kinds: Sequence[str]) -> str | None:
    """What products take, each as the IR calls it, as a user reads it; None: there are none.

    >>> activations_words(["i8", "i8"]), activations_words(["i16", "i8", "i8"])
    ('int8', 'int8, int16 in 1 of 3')
    """
    counted = Counter(kinds).most_common()
    if not counted:
        return None
    usual, *others = [(activations_name(kind), count) for kind, count in counted]
    return ", ".join([usual[0], *(f"{n} in {count} of {len(kinds)}" for n, count in others)])


def _check_activations(asked: str | None, compilers: Sequence[Compiler]) -> None:
    if asked is None:
        return
    if asked not in ACTIVATIONS:
        raise UsageError(f'There are no activations in "{asked}"', "", nearest(asked, ACTIVATIONS))
    for each in compilers:
        if ACTIVATIONS[asked] not in each.activations:
            raise UsageError(
                f"{each.name} does not take activations in {asked}",
                f"It takes them in {' or '.join(map(activations_name, each.activations))}",
                "Leave --activations out, or choose another backend with --backend",
            )
