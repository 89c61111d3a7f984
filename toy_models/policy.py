"""A policy: a causal language model with its tokenizer, built in or from any local Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .bases.cache import ensure_base
from .bases.recipes import BASES
from .batching import response_logits, teacher_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Policy", "evaluation_mode", "load_policy"]


@dataclass
class Policy:
    """A model and the tokenizer that it was trained with."""

    model: Any  # transformers' PreTrainedModel with a causal head
    tokenizer: PreTrainedTokenizerBase

    @property
    def eos_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        """The padding token; the end token where there is none, which is safe as padding is always masked."""
        pad = self.tokenizer.pad_token_id
        return self.eos_id if pad is None else int(pad)

    def log_probs(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """log π of each response token at T = 1, (B, R) in nats with gradients, 0 under padding; and the (B, R) mask.

        One response per prompt. Equals `log_softmax(model(prompt + response).logits)` gathered at the response.
        """
        batch = teacher_batch(prompts, responses, self.pad_id, self.model.device)
        log_probs = response_logits(self.model, batch).log_softmax(dim=-1)
        chosen = log_probs.gather(-1, batch.tokens.unsqueeze(-1)).squeeze(-1)
        return chosen.masked_fill(~batch.mask, 0.0), batch.mask

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer as a Hugging Face folder, which `load_policy` reads back.

        Raises OSError, with the folder, where it cannot be written (safetensors has an error of its own for that).
        """
        from safetensors import SafetensorError

        try:
            with _no_progress_bar():
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        except (OSError, SafetensorError) as error:
            raise OSError(f"cannot save the policy in {folder}: {error}") from error


def load_policy(
    base: str | Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Policy:
    """A policy in evaluation mode (no dropout): a built-in base, pretrained if need be, or a local folder.

    `seed` is that of a built-in base's weights; a folder has none. Nothing is ever downloaded. Raises ValueError where
    `base` is neither, where the folder lacks its model or tokenizer, and where the two do not fit.
    """
    folder = ensure_base(base, seed) if isinstance(base, str) and base in BASES else Path(base).expanduser()
    _check_folder(folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(folder, "tokenizer", error)) from error
    try:
        with _no_progress_bar():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except Exception as error:  # a corrupt weight file raises types of safetensors' own
        raise ValueError(_unreadable(folder, "model", error)) from error
    _check_fit(folder, model, tokenizer)
    return Policy(model.to(device).eval(), tokenizer)


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off for as long as the context lasts; each module's mode is put back."""
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


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(
            f"base: expected a built-in base ({', '.join(BASES)}) or a folder with a Hugging Face causal language "
            f"model, got {str(folder)!r}, which is neither"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"base: no config.json in {folder}; write it with model.save_pretrained({str(folder)!r})")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise ValueError(
            f"base: no tokenizer (tokenizer.json) in {folder}; write it with tokenizer.save_pretrained({str(folder)!r})"
        )


def _check_fit(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    n_rows = model.get_input_embeddings().num_embeddings
    n_tokens = len(tokenizer)
    if n_tokens > n_rows:
        raise ValueError(
            f"base: the tokenizer in {folder} has {n_tokens} tokens, but the model embeds only {n_rows}; "
            "save the tokenizer that the model was trained with, or model.resize_token_embeddings(len(tokenizer))"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"base: the tokenizer in {folder} has no end token (eos_token is None), so no response could end; "
            "set tokenizer.eos_token and save it again"
        )


def _unreadable(folder: Path, what: str, error: Exception) -> str:
    return f"base: cannot load the {what} in {folder}: {error}"
