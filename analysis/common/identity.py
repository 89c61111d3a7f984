"""What a result was made from, part by part, so that a request for something else can say what differs.

An identity is a mapping from the name of each part to a text: its value where that is short, else its SHA-256. Two
requests are the same where all parts are equal. Parts that change the rounding alone are left out: the device, the
number of threads, and which rows share a batch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toy_models.bases.code_digest import code_digest

from .provenance import versions

__all__ = [
    "changed_parts",
    "code_of",
    "model_configuration",
    "numeric_versions",
    "own_hooks",
    "text_digest",
    "tokenizer_digest",
]

_ROOT = Path(__file__).resolve().parents[2]
_NUMERIC = ("torch", "transformers", "tokenizers", "numpy")  # libraries whose versions can change a number
_SHOWN = 40  # characters of a value in a message
# Attributes of a tokenizer beside its content that change what it reads or writes.
_SWITCHES = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "clean_up_tokenization_spaces",
    "legacy",
    "split_special_tokens",
)
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
_LIBRARIES = ("accelerate", "peft", "torch", "transformers")  # whose hooks come with a model
_UNIMPORTANT = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


def changed_parts(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The parts that differ, in words, with both values where they are short.

    >>> changed_parts({"temperature": "1.0", "weights": "a" * 64}, {"temperature": "0.6", "weights": "b" * 64})
    ['temperature (1.0 then, 0.6 now)', 'weights']
    """
    out = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            short = max(len(old), len(new)) <= _SHOWN
            out.append(f"{name} ({old} then, {new} now)" if short else name)
    return out


def text_digest(value: Any) -> str:
    """SHA-256 of a text, or of plain data as JSON with sorted keys."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def numeric_versions() -> dict[str, str]:
    """The versions of the libraries that numbers depend on, by the names of their parts."""
    found = versions()
    return {f"version of {name}": found[name] for name in _NUMERIC}


@functools.cache
def code_of(*places: str) -> str:
    """SHA-256 of the source of these files and folders of the library, without comments, docstrings and layout."""
    files = [path for place in places for path in (sorted((_ROOT / place).rglob("*.py")) or [_ROOT / place])]
    return code_digest(files)


def model_configuration(model: Any) -> str:
    """SHA-256 of the class and configuration of a model of transformers, without where it was loaded from."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _UNIMPORTANT}
    adapters = {
        name: [str(value) for value in (module.active_adapters, module.scaling, module.disable_adapters)]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "scaling")
    }
    return text_digest([type(model).__name__, config, adapters])


def own_hooks(model: Any) -> str:
    """The forward hooks that the user has put on a model's modules, such as steering vectors; "none" without any.

    A hook is known by its module, its name and its compiled code. What it closes over is not seen.
    """
    hooks = [
        (name, getattr(hook, "__qualname__", type(hook).__qualname__), getattr(hook, "__code__", None))
        for name, module in model.named_modules()
        for registered in (module._forward_pre_hooks, module._forward_hooks)
        for hook in registered.values()
        if str(getattr(hook, "__module__", "")).partition(".")[0] not in _LIBRARIES
    ]
    listed = [(name, title, code and (code.co_code.hex(), repr(code.co_consts))) for name, title, code in hooks]
    return text_digest(listed) if listed else "none"


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of everything that turns texts into tokens and back, without the chat template.

    Of a tokenizer with a backend its whole content counts (vocabulary, merges, added tokens, normaliser, splitting,
    decoder), of one in Python its class, vocabulary and added tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        for name in ("truncation", "padding"):  # the settings of the last call
            content.pop(name, None)
    else:
        content = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
        content.append(sorted((i, str(token)) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()))
        model = getattr(tokenizer, "sp_model", None)
        content.append(text_digest(repr(model.serialized_model_proto())) if model is not None else None)
    switches = [getattr(tokenizer, name, None) for name in (*_SWITCHES, *_SPECIAL)]
    return text_digest([content, switches])
