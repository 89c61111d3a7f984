"""A policy: a causal language model with its tokenizer, built in, or from a folder, a GGUF file or the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .adapters import LoraSettings, add_lora, merged
from .bases.cache import ensure_base
from .batching import response_logits, teacher_batch
from .end_tokens import end_tokens
from .model_sources.adapter_folder import AdapterBase, adapter_base, is_adapter, weights_digest
from .model_sources.gguf_cache import ensure_gguf
from .model_sources.hub import ensure_hub_model, hub_commit
from .model_sources.source import TOKENIZER_FILES, model_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Policy", "evaluation_mode", "load_policy"]


@dataclass
class Policy:
    """A model and the tokenizer that it was trained with.

    Attributes:
        model: A `PreTrainedModel` of transformers with a causal language-model head.
        tokenizer: Its tokenizer, which has an end token.
        adapter_base: The base of the adapter that is trained in the model; None where there is no adapter.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    adapter_base: AdapterBase | None = None

    @property
    def eos_id(self) -> int:
        """The end token of the tokenizer."""
        return int(self.tokenizer.eos_token_id)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends a response: the tokenizer's and those of the model's generation settings."""
        return end_tokens(self.tokenizer, self.model)

    @property
    def pad_id(self) -> int:
        """The padding token; the end token where there is none, which is safe because padding is always masked."""
        pad = self.tokenizer.pad_token_id
        return self.eos_id if pad is None else int(pad)

    def log_probs(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Log-probability of each response token at temperature 1, with gradients.

        Equals `log_softmax(model(prompt + response).logits)`, gathered at the tokens of the response.

        Args:
            prompts: Token ids of each prompt.
            responses: Token ids of one response to each.

        Returns:
            log π in nats, (B, R), 0 under padding; and the bool mask (B, R) of the tokens.

        Raises:
            ValueError: See `teacher_batch`.
        """
        batch = teacher_batch(prompts, responses, self.pad_id, self.model.device)
        log_probs = response_logits(self.model, batch).log_softmax(dim=-1)
        chosen = log_probs.gather(-1, batch.tokens.unsqueeze(-1)).squeeze(-1)
        return chosen.masked_fill(~batch.mask, 0.0), batch.mask

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer as a Hugging Face folder, which `load_policy` reads.

        Of a model with an adapter the adapter alone is written, in peft's format, with the identity of its base.

        Args:
            folder: Where to; it is created if missing.

        Raises:
            OSError: The folder cannot be written.
        """
        from safetensors import SafetensorError

        try:
            with _no_progress_bar():
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            if self.adapter_base is not None:
                self.adapter_base.save(Path(folder))
        except (OSError, SafetensorError) as error:
            raise OSError(f"cannot save the policy in {folder}: {error}") from error


def load_policy(
    base: str | Path,
    *,
    seed: int = 0,
    revision: str | None = None,
    lora: LoraSettings | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Policy:
    """Load a policy, in evaluation mode (no dropout).

    Args:
        base: Name of a built-in base, which is pretrained first if it is not in the cache (see `ensure_base`); a
            local Hugging Face folder; a GGUF file, whose weights are dequantised (see `ensure_gguf`); or the id of a
            model on the Hugging Face Hub, `owner/name` or `owner/name:file.gguf`, which is downloaded first if it is
            not in the cache of huggingface_hub (see `ensure_hub_model`). A folder or file that is there wins. A folder
            with an adapter of peft stands for its base with the adapter added into the weights.
        seed: Seed of the weights of a built-in base, and of a new adapter.
        revision: Branch, tag or commit of a model on the Hub; None is `main`, as it is in the cache.
        lora: Put a new LoRA adapter into the model: its weights are trained, all others are frozen (see `add_lora`).
        dtype: Precision of the weights.
        device: Where the model is placed.

    Returns:
        The policy.

    Raises:
        ValueError: `base` is none of these, it lacks a readable model or tokenizer, the two do not fit, or an adapter
            does not fit its base.
        OSError: The file or the cache of GGUF files cannot be read or written.

    Example::

        policy = load_policy("tiny")
        prompt = policy.tokenizer.encode("3 12 5 9 :")
    """
    folder = _folder_of(base, seed, revision)
    policy = _load_folder(folder, dtype)
    if folder != Path(base).expanduser():  # a folder of a cache is named by a hash
        policy.model.config._name_or_path = str(base)
    if lora is not None:
        try:
            add_lora(policy.model, lora, seed)
        except ValueError as error:
            raise ValueError(f"base: {error}") from error
        source = model_source(base, revision)
        commit = hub_commit(source) if source.kind == "hub" else None
        name = source.name if source.kind in ("built-in", "hub") else str(source.path.absolute())
        policy.adapter_base = AdapterBase(name, seed, commit, weights_digest(folder))
    policy.model.to(device).eval()
    return policy


def _load_folder(folder: Path, dtype: torch.dtype) -> Policy:
    if is_adapter(folder):
        return _load_adapter(folder, dtype)
    _check_folder(folder)
    from transformers import AutoModelForCausalLM

    tokenizer = _load_tokenizer(folder)
    try:
        with _no_progress_bar():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except Exception as error:  # a corrupt weight file raises types of safetensors' own
        raise ValueError(_unreadable(folder, "model", error)) from error
    _check_fit(folder, model, tokenizer)
    return Policy(model, tokenizer)


def _load_adapter(folder: Path, dtype: torch.dtype) -> Policy:
    """The base of an adapter with the adapter added into its weights."""
    try:
        base = adapter_base(folder)
        base_folder = _folder_of(base.base, base.seed, base.revision)
        if base.sha256 is not None and (digest := weights_digest(base_folder)) != base.sha256:
            raise ValueError(
                f"expected the base that the adapter in {folder} was trained on, {base.base!r} with weights of the "
                f"SHA-256 {base.sha256[:12]}, got others there ({digest[:12]}); restore them"
            )
        policy = _load_folder(base_folder, dtype)
        policy.model = merged(policy.model, folder)
    except ValueError as error:
        raise ValueError(f"base: {str(error).removeprefix('base: ')}") from error
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        policy.tokenizer = _load_tokenizer(folder)
        _check_fit(folder, policy.model, policy.tokenizer)
    return policy


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(folder, "tokenizer", error)) from error
    return tokenizer


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Context in which dropout is off; afterwards every module is again in the mode that it was in.

    Args:
        model: Any module of torch.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _folder_of(base: str | Path, seed: int, revision: str | None) -> Path:
    """The Hugging Face folder of a base, which is made or downloaded first where it is not there."""
    try:
        source = model_source(base, revision)
        if source.kind == "built-in":
            return ensure_base(source.name, seed)
        path = ensure_hub_model(source) if source.kind == "hub" else source.path
        return ensure_gguf(path) if path.is_file() else path
    except ValueError as error:
        raise ValueError(f"base: {error}") from error


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"base: expected a config.json in {folder}, got none; write it with model.save_pretrained({str(folder)!r})"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"base: expected a tokenizer (tokenizer.json) in {folder}, got none; write it with "
            f"tokenizer.save_pretrained({str(folder)!r})"
        )


def _check_fit(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    n_rows = model.get_input_embeddings().num_embeddings
    n_tokens = len(tokenizer)
    if n_tokens > n_rows:
        raise ValueError(
            f"base: expected at most {n_rows} tokens, which the model in {folder} embeds, got a tokenizer of "
            f"{n_tokens}; "
            "save the tokenizer that the model was trained with, or model.resize_token_embeddings(len(tokenizer))"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"base: expected a tokenizer with an end token in {folder}, got one whose eos_token is None; "
            "set tokenizer.eos_token and save it again"
        )


def _unreadable(folder: Path, what: str, error: Exception) -> str:
    return f"base: cannot load the {what} in {folder}: {error}"
