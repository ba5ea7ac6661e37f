"""The tokenizer of a GGUF file as the files that a checkpoint has. Knows no tensors.

What differs between the two kinds of tokenizer is in `spm.py` and `bpe.py`.
"""

from __future__ import annotations

from typing import Any

from arkinfer.frontend.gguf import bpe, spm
from arkinfer.frontend.gguf.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """A tokenizer.json that splits texts as the file's tokenizer does.

    Raises:
        CheckpointError: the vocabulary contradicts itself.
    """
    make = spm.parts if vocabulary.kind == "llama" else bpe.parts
    special = vocabulary.of_type(CONTROL, UNKNOWN)
    added = sorted([*special, *vocabulary.of_type(USER_DEFINED)])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, vocabulary.tokens[i], i in set(special)) for i in added],
        "post_processor": _post_processor(vocabulary),
        **make(vocabulary),
    }


def tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer_config.json that belongs to it."""
    texts = {
        f"{name}_token": vocabulary.tokens[vocabulary.ids[name]]
        for name in ("bos", "eos", "unk", "pad")
        if name in vocabulary.ids
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.add_bos and "bos" in vocabulary.ids,
        "add_eos_token": vocabulary.add_eos and "eos" in vocabulary.ids,
        "clean_up_tokenization_spaces": False,
        **texts,
    }


def _added(token_id: int, text: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": text, **flags, "special": special}


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Puts the first token before a text, and the last one behind it, where the file says so."""
    ids = vocabulary.ids
    first = [ids["bos"]] if vocabulary.add_bos and "bos" in ids else []
    last = [ids["eos"]] if vocabulary.add_eos and "eos" in ids else []
    if not first and not last:
        return None
    texts = vocabulary.tokens

    def around(*sequences: str) -> list[dict[str, Any]]:
        inner = [{"Sequence": {"id": name, "type_id": 0}} for name in sequences]
        before, after = (
            [{"SpecialToken": {"id": texts[i], "type_id": 0}} for i in end] for end in (first, last)
        )
        return [*before, *inner, *after]

    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("A", "B"),
        "special_tokens": {
            texts[i]: {"id": texts[i], "ids": [i], "tokens": [texts[i]]} for i in first + last
        },
    }
