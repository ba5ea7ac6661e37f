"""How key-value caches are kept: in what each backend prefers, or as asked if all take that.

A backend is asked as ever, by `supports`, about one attention of the model in each form. Knows none
by name.
"""

from __future__ import annotations

from dataclasses import replace

from arkinfer import ir
from arkinfer.backend import CacheKeeper, Compiler, Support
from arkinfer.compiler.options import AUTO, CACHES, BuildOptions
from arkinfer.errors import UnsupportedError
from arkinfer.models.config import ModelConfig
from arkinfer.passes.quantize_cache import CHANNEL, TOKEN, QuantizeCache
from arkinfer.passes.store_cache import StoreCache

USUAL = "fp32"
"""What every backend takes, and what one that prefers nothing gets."""

_RANKS = ("no", "slow", "fast")


def with_kv_form(options: BuildOptions, config: ModelConfig) -> BuildOptions:
    """The same, with the dtype of every cache and the kind of scales of int8 ones decided.

    Where sections differ, `kv` is what every backend takes, and `own_kv` has the others. Scales per
    token need no calibration and are taken wherever every backend runs them as well as the others,
    which are for backends that know no more.

    Raises:
        UnsupportedError: a backend does not take the dtype that was asked for.
    """
    forms = _Forms(options, config)
    if options.kv == AUTO:
        options = forms.preferred()
    elif options.kv != USUAL:
        forms.check(options.kv)
    if options.kv != "int8" or options.kv_scales is not None:
        return options
    token, channel = (forms.rank(form) for form in (TOKEN, CHANNEL))
    return replace(options, kv_scales=TOKEN if token >= max(channel, 1) else CHANNEL)


class _Forms:
    """What the backends of a build say to caches in some form: an IR dtype, or the scales of i8."""

    def __init__(self, options: BuildOptions, config: ModelConfig) -> None:
        self._options, self._config = options, config

    def preferred(self) -> BuildOptions:
        """Each backend has what it prefers; one that prefers nothing has what the first has."""
        first, *others = self._options.compilers
        usual = self._preferred(first, USUAL)
        kept = {first.name: usual, **{e.name: self._preferred(e, usual) for e in others}}
        if len(set(kept.values())) == 1:
            return replace(self._options, kv=usual)
        own = {backend: kv for backend, kv in kept.items() if kv != USUAL}
        return replace(self._options, kv=USUAL, own_kv=own)

    def _preferred(self, backend: Compiler, usual: str) -> str:
        keeps = isinstance(backend, CacheKeeper)
        wanted = backend.caches(self._options.target) if keeps else (CACHES[usual],)
        names = {known: user for user, known in CACHES.items()}
        return next((names[kind] for kind in wanted if self._takes(backend, kind)), USUAL)

    def check(self, kv: str) -> None:
        for backend in self._options.compilers:
            refusals = [self._refusal(backend, form) for form in _forms(CACHES[kv])]
            if None in refusals:
                continue
            taken = [user for user, kind in CACHES.items() if self._takes(backend, kind)]
            if not taken:
                continue  # it is not the caches: placement says what it is
            why = str(refusals[0])
            raise UnsupportedError(
                f"{backend.name} does not keep key-value caches in {kv}",
                f"{why[:1].upper()}{why[1:]}; it takes them in {_listed(taken)}",
                f"Give one of these as --kv, or {self._instead(backend)}",
            )

    def _instead(self, backend: Compiler) -> str:
        """What else helps where a backend does not take what was asked for."""
        if backend.name == self._options.beside:
            return "leave out the section for the target's own cores with --no-cpu"
        if self._options.compilers[1:]:
            return "leave it out: each section then keeps them as its backend prefers"
        return "another --backend"

    def rank(self, form: str) -> int:
        """How well the worst backend runs the worst node."""
        answers = [a for backend in self._options.compilers for a in self._answers(backend, form)]
        return min(_RANKS.index(answer.level) for answer in answers)

    def _takes(self, backend: Compiler, kind: str) -> bool:
        return any(self._refusal(backend, form) is None for form in _forms(kind))

    def _refusal(self, backend: Compiler, form: str) -> str | None:
        """Why a backend does not run it; None: it does."""
        answers = self._answers(backend, form)
        return next((answer.reason for answer in answers if answer.level == "no"), None)

    def _answers(self, backend: Compiler, form: str) -> list[Support]:
        from arkinfer.frontend.dense import dense_module

        module = dense_module(replace(self._config, num_hidden_layers=1), context=1, chunk=1)
        change = QuantizeCache(form) if form in (TOKEN, CHANNEL) else StoreCache(form)
        change.run(module)
        nodes = [node for node in module.nodes() if _has_cache(node)]
        return [backend.supports(node, self._options.target) for node in nodes]


def _forms(kind: str) -> tuple[str, ...]:
    return (TOKEN, CHANNEL) if kind == "i8" else (kind,)


def _listed(names: list[str]) -> str:
    """With commas and an "or".

    >>> _listed(["fp32", "bf16", "int8"])
    'fp32, bf16 or int8'
    """
    return " or ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _has_cache(node: ir.Node) -> bool:
    return any(isinstance(operand.type, ir.CacheType) for operand in node.operands)
