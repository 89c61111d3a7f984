"""Held-out contexts of a watched trainer: their whole distribution before and after every n-th update.

The contexts are fixed at the first batch: positions of its own rollouts, or of the greedy responses of the untrained
policy to prompts that the user gives. `ContextProbe` compares π and π' there, as in our own loop, beside what the
actual parameter step predicts to first order (a JVP); rows go to the tables `contexts` and `flows`. The passes run in
evaluation mode without gradients, so that they draw no random number. A copy of the trained parameters is held from
before such an update until after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from toy_models.end_tokens import end_tokens
from toy_models.tasks.task import prompt_hash

from ...errors import UsageError
from ...probes.context_probe import ContextProbe
from ...probes.context_rows import ContextRows, draw_contexts
from ...probes.output_heads import OutputHead
from ...probes.record_spec import RecordSpec
from ...records.encoding import Columns
from ...records.rows import PromptRow
from .batches import Generation

__all__ = ["Panel", "Prompt"]

Prompt = str | Sequence[dict[str, Any]]  # a text, or the messages of a conversation


class Panel:
    """Follows the contexts; one process is enough, since all have the same parameters.

    Args:
        trainer: the trainer.
        head: the output head of its model.
        spec: how many contexts, and at every how many updates.
        prompts: texts or conversations; None draws the contexts from the rollouts of the first batch.

    Raises:
        UsageError: prompts without contexts, or a model that no process holds as a whole.
    """

    def __init__(self, trainer: Any, head: OutputHead, spec: RecordSpec, prompts: Sequence[Prompt] | None) -> None:
        if prompts is not None and not (spec.contexts and len(prompts)):
            raise UsageError(
                f"panel: expected prompts and record=RecordSpec(contexts=…) above 0, got {len(prompts)} prompts and "
                f"{spec.contexts} contexts; set both or neither"
            )
        sharded = getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False)
        if spec.contexts and sharded:
            raise UsageError(
                "record.contexts: expected a model that each process holds as a whole, got FSDP or DeepSpeed; set "
                "contexts=0, or train under DDP"
            )
        self._trainer, self._head, self._spec, self._prompts = trainer, head, spec, prompts
        self._tokenizer = getattr(trainer, "_tokenizer", None) or trainer.processing_class
        self._probe: ContextProbe | None = None
        self._here = spec.contexts > 0 and trainer.accelerator.process_index == 0
        self._open = False
        self._parameters: dict[str, Tensor] = {}  # before the update that is followed

    def resume(self, rows: ContextRows | None) -> None:
        """Go on with the contexts of an earlier part of this run."""
        if self._here and rows is not None:
            self._probe = self._new_probe(None)
            self._probe.load_state_dict({"panel": asdict(rows), "next": len(rows)})

    def fix(self, generation: Generation) -> list[PromptRow]:
        """Choose the contexts at the first batch; returns the prompts that the tables do not have yet."""
        if not self._here or self._probe is not None:
            return []
        spec, new = self._spec, []
        if self._prompts is None:
            prompts, responses = generation.prompts, generation.responses
            signs: list[int] | None = [int(sign) for sign in generation.signs[generation.own]]
        else:
            prompts = [self._ids(prompt) for prompt in self._prompts]
            responses, signs = self._greedy(prompts), None
            texts = [str(self._tokenizer.decode(ids)) for ids in prompts]
            new = [
                PromptRow(prompt_id=prompt_hash(ids), split="validation", text=text, token_ids=ids)
                for ids, text in zip(prompts, texts, strict=True)
            ]
        rows = draw_contexts(
            "panel",
            prompts,
            responses,
            [prompt_hash(ids) for ids in prompts],
            spec.contexts,
            torch.Generator().manual_seed(spec.seed),
            signs=signs,
            rollouts=None if self._prompts is not None else list(range(len(responses))),
            step=None if self._prompts is not None else generation.step,
        )
        self._probe = self._new_probe(rows)
        return new

    def before(self, update: int) -> list[Columns]:
        """Rows of `contexts`; to be called before the optimiser step of an update."""
        self._open = self._probe is not None and update % self._spec.contexts_every == 0
        if not self._open:
            return []
        assert self._probe is not None
        self._parameters = {name: value.detach().clone() for name, value in self._trained()}
        with self._evaluating():
            return self._probe.before(update)

    def after(self, update: int) -> list[Columns]:
        """Rows of `flows`; to be called after the optimiser step."""
        if not self._open:
            return []
        assert self._probe is not None
        before, self._parameters = self._parameters, {}
        step = {name: value.detach() - before[name] for name, value in self._trained()}
        with self._evaluating():
            self._probe.jvp(self._head.model, before, step)
            return self._probe.after(update)

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for name, value in self._head.model.named_parameters() if value.requires_grad)

    def _new_probe(self, rows: ContextRows | None) -> ContextProbe:
        temperature, top_k = float(self._trainer.temperature), max(self._spec.top_k, 1)
        top_k = min(top_k, self._head.vocabulary)
        return ContextProbe(self._logits, panel=rows, temperature=temperature, top_k=top_k)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The model without dropout and gradients, in the precision of the trainer."""
        model = self._head.model
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with torch.no_grad(), self._trainer.accelerator.autocast():
                yield
        finally:
            for module in training:
                module.training = True

    def _logits(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """(B, R, V): logits that predict each response token."""
        width = max(len(response) for response in responses)
        rows = list(zip(prompts, responses, strict=True))
        size = max(int(self._trainer.args.per_device_train_batch_size), 1)
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        return torch.cat([self._logits_of(part, width) for part in parts])

    def _logits_of(self, rows: list[tuple[Sequence[int], Sequence[int]]], width: int) -> Tensor:
        device = self._trainer.accelerator.device
        longest = max(len(prompt) + len(response) for prompt, response in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, response) in enumerate(rows):
            whole = torch.tensor([*prompt, *response])
            ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        logits = self._head.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        places = torch.arange(width)[None] + torch.tensor([len(prompt) - 1 for prompt, _ in rows])[:, None]
        picked: Tensor = logits[torch.arange(len(rows))[:, None].to(device), places.clamp(max=longest - 1).to(device)]
        return picked.float()

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return [int(token) for token in self._tokenizer(prompt)["input_ids"]]
        text = self._tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
        return [int(token) for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _greedy(self, prompts: list[list[int]]) -> list[list[int]]:
        """The most probable response to each prompt, token by token, up to the trainer's length."""
        from transformers import GenerationConfig

        model: Any = self._head.model
        device, width = self._trainer.accelerator.device, self._trainer.max_completion_length
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=width,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=list(end_tokens(self._tokenizer, model)) or None,
        )
        responses = []
        with self._evaluating():
            for ids in prompts:
                row = torch.tensor([ids], device=device)
                made = model.generate(row, attention_mask=torch.ones_like(row), generation_config=config)
                responses.append([int(token) for token in made[0, len(ids) :]])
        return responses
