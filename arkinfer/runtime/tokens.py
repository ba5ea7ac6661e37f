"""What a checkpoint's files say about its tokens, as the artifact's manifest keeps it.

Called once, at build time. Knows no model, no weights and no file: dictionaries in, a dictionary
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from arkinfer.errors import CheckpointError, UsageError
from arkinfer.runtime.chat import special_tokens
from arkinfer.runtime.sampling import SamplingParams
from arkinfer.runtime.stop import is_token_id, stop_set, vocabulary

if TYPE_CHECKING:
    from arkinfer.artifact.manifest import GenerationFacts, TokenFacts


def token_facts(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    tokenizer_json: Mapping[str, Any],
    template: str | None,
) -> TokenFacts:
    """The manifest's `tokens`: the BOS, the stop set, and the texts that templates may name.

    Args:
        config: config.json.
        generation: generation_config.json; {} when absent.
        tokenizer_config: tokenizer_config.json.
        tokenizer_json: tokenizer.json.
        template: the chat template; None: there is none.

    Raises:
        CheckpointError: see `stop_set` and `bos_token`.
    """
    stop = stop_set(config, generation, tokenizer_config, tokenizer_json, template)
    facts: TokenFacts = {
        "bos": bos_token(config, tokenizer_config, tokenizer_json, template),
        "stop": list(stop.ids),
    }
    if stop.strings:
        facts["stop_strings"] = list(stop.strings)
    if special := special_tokens(tokenizer_config):
        facts["special"] = special
    return facts


def generation_facts(generation: Mapping[str, Any]) -> GenerationFacts:
    """The manifest's `generation`: what generation_config.json recommends; absent: off.

    >>> generation_facts({"do_sample": True, "temperature": 0.8, "top_p": 0.8})
    {'temperature': 0.8, 'top_p': 0.8}
    >>> generation_facts({"do_sample": False, "temperature": 0.8})
    {'temperature': 0.0}

    Raises:
        CheckpointError: a value out of range.
    """
    try:
        params, off = SamplingParams.from_generation(generation), SamplingParams()
    except (TypeError, UsageError) as error:
        known = isinstance(error, UsageError)
        raise CheckpointError(
            f"generation_config.json is not valid: {error.what}"
            if known
            else "generation_config.json is not valid",
            error.why or error.fix if known else "One of its settings is not a number",
            "Correct generation_config.json",
        ) from error
    facts: GenerationFacts = {}
    if "temperature" in generation or "do_sample" in generation:
        facts["temperature"] = float(params.temperature)
    if params.top_p != off.top_p:
        facts["top_p"] = float(params.top_p)
    if params.top_k != off.top_k:
        facts["top_k"] = params.top_k
    if params.min_p != off.min_p:
        facts["min_p"] = float(params.min_p)
    if params.repetition_penalty != off.repetition_penalty:
        facts["repetition_penalty"] = float(params.repetition_penalty)
    return facts


def bos_token(
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    tokenizer_json: Mapping[str, Any],
    template: str | None,
) -> int | None:
    """The id that every sequence of this model starts with; None: it has no such token.

    `add_bos_token` decides where it is given. Else the model has one if the post-processor puts
    it in front, if the chat template writes it, or if the tokenizer is a Llama one, whose default
    is to add it.

    Raises:
        CheckpointError: the files ask for a BOS and do not say which one it is.
    """
    text = special_tokens(tokenizer_config).get("bos_token")
    known = vocabulary(tokenizer_json)
    token: Any = known.get(text) if text is not None else config.get("bos_token_id")
    wanted = tokenizer_config.get("add_bos_token")
    if wanted is None:
        try:
            first = _first_of_post_processor(tokenizer_json.get("post_processor"))
        except (AttributeError, LookupError, TypeError) as error:
            raise CheckpointError(
                "The post_processor of tokenizer.json cannot be read",
                "It does not list its steps and their tokens",
                "Restore tokenizer.json of the checkpoint",
            ) from error
        if isinstance(first, str) and first in known:
            return known[first]
        names = ("bos_token", text) if text else ("bos_token",)
        writes = template is not None and any(name in template for name in names)
        llama = str(tokenizer_config.get("tokenizer_class", "")).startswith("LlamaTokenizer")
        wanted = token is not None and (writes or llama)
    if not wanted:
        return None
    if token is None:
        raise CheckpointError(
            "tokenizer_config.json asks for a first token (add_bos_token)",
            "No file of the checkpoint says which one it is"
            if text is None
            else f'tokenizer.json does not have its bos_token "{text}"',
            "Restore tokenizer_config.json and tokenizer.json of the checkpoint",
        )
    if not is_token_id(token):
        raise CheckpointError(
            'config.json has an impossible "bos_token_id"',
            f"{token!r} is not a token id",
            "Restore config.json of the checkpoint",
        )
    return token


def _first_of_post_processor(step: Any) -> Any:
    """The special token that a post-processor of tokenizer.json puts in front of a text."""
    if not isinstance(step, dict):
        return None
    found = cast("dict[str, Any]", step)
    for inner in found.get("processors") or ():
        if (first := _first_of_post_processor(inner)) is not None:
            return first
    single = cast("list[dict[str, Any]]", found.get("single") or [])
    return single[0].get("SpecialToken", {}).get("id") if single else None
