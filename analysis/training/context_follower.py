"""Which contexts a run follows through its updates, and their weights.

Half of `record.contexts` is a panel of held-out prefixes, drawn once from the fixed responses of the base to validation
prompts and followed through every update; the other half is drawn anew, every `record.contexts_every` updates, from the
minibatch being applied, of both reward signs.
Where the objective dropped rows before batching, dropped rows of the step stand in for the missing sign, with
weight 0: what an update does to responses that it did not see is half of the question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toy_models import Policy, Prompt, response_logits, teacher_batch
from toy_models.shared_prefixes import chosen_logits

from ..errors import DivergedError
from ..evaluation import FixedPrefixes
from ..probes.context_probe import ContextProbe
from ..probes.context_rows import ContextRows, draw_contexts
from ..recipes.fields import OptimizerFields, RecordFields
from ..records import RunWriter
from .record_rows import UpdateIndex
from .rollouts import RolloutBatch
from .step_parts import StepShares
from .update import UpdateResult

__all__ = ["ContextFollower"]

# Vocabulary from which the output head reads the contexts alone and not the whole responses that they lie in: the same
# up to rounding, in a fraction of the memory. Below, it would save nothing and move recorded runs by their rounding.
_PICKED_FROM = 8192


class ContextFollower:
    """Looks at contexts before and after the recorded updates of one run and writes `contexts` and `flows`."""

    def __init__(
        self,
        policy: Policy,
        fixed: FixedPrefixes,
        held_out: list[Prompt],
        fields: RecordFields,
        temperature: float,
        generator: torch.Generator,
        optimizer: torch.optim.Optimizer,
        optimizer_fields: OptimizerFields,
        *,
        share: bool = False,
    ) -> None:
        """With `share`, what rows of contexts have in common goes through the model once."""
        self._fields, self._policy, self._generator, self._share = fields, policy, generator, share
        vocabulary = policy.model.get_output_embeddings().weight.shape[0]
        self._picks = share or vocabulary >= _PICKED_FROM
        trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        self._shares = None
        if fields.contexts and fields.jvp_every and fields.shares_every:
            self._shares = StepShares(trained, optimizer, optimizer_fields)
        self._parts: dict[str, dict[str, Tensor]] | None = None
        self._batch: ContextRows | None = None
        panel = None
        if fields.contexts > 1:
            chosen = [i for i, prompt in enumerate(held_out) if prompt.split == "validation"]
            panel = draw_contexts(
                "panel",
                [fixed.prompts[i] for i in chosen],
                [fixed.responses[i] for i in chosen],
                [held_out[i].prompt_id for i in chosen],
                fields.contexts // 2,
                generator,
            )
        self._probe = ContextProbe(
            self._pass_over, panel=panel, temperature=temperature, top_k=fields.top_k, picks=True
        )

    def _pass_over(
        self, prompts: list[list[int]], responses: list[list[int]], positions: list[list[int]]
    ) -> Callable[[], Tensor]:
        """A function that gives the logits (n, V) at the positions."""
        model = self._policy.model
        device = next(model.parameters()).device
        places = torch.tensor([(row, position) for row, at in enumerate(positions) for position in at], device=device)
        if self._picks:  # nothing after the last context of a response is read
            responses = [response[: max(at) + 1] for response, at in zip(responses, positions, strict=True)]
        batch = teacher_batch(prompts, responses, self._policy.pad_id, device)
        chosen = None
        if self._picks:
            chosen = chosen_logits(model, batch, places[:, 0], places[:, 1], share=self._share)

        def logits() -> Tensor:
            found = response_logits(model, batch)[places[:, 0], places[:, 1]] if chosen is None else chosen()
            if not torch.isfinite(found).all():
                raise DivergedError("the logits at the contexts are not finite; a lower optimizer.lr usually helps")
            return found

        return logits

    def before(self, index: UpdateIndex, batch: RolloutBatch, rows: Tensor, writer: RunWriter) -> None:
        """Look at the panel and, when it is their turn, at the update's own contexts at the old parameters."""
        own = index.update % self._fields.contexts_every == 0
        self._batch = self._draw(batch, rows) if own else None
        for columns in self._probe.before(index.update, self._batch):
            writer.append("contexts", columns)

    def _draw(self, batch: RolloutBatch, rows: Tensor) -> ContextRows:
        applied = set(rows.tolist())
        candidates = sorted(applied | set((~batch.selected).nonzero()[:, 0].tolist()))
        rewarded = batch.rewarded.tolist()
        signs = [1 if rewarded[i] else -1 for i in candidates]
        return draw_contexts(
            "batch",
            [batch.prompt(i).ids for i in candidates],
            [batch.responses[i] for i in candidates],
            [batch.prompt(i).prompt_id for i in candidates],
            self._fields.contexts - self._fields.contexts // 2,
            self._generator,
            signs=signs,
            rollouts=candidates,
            step=batch.step,
        )

    def stepped(self, index: UpdateIndex, result: UpdateResult, before: dict[str, Tensor]) -> None:
        """Take note of an update that was made from the parameters `before`; for every update, followed or not."""
        if self._shares is not None:
            split = self._due(index, self._fields.shares_every)
            parts = self._shares.take(result, before, split=split)
            self._parts = parts if split else None

    def _due(self, index: UpdateIndex, every: int = 1) -> bool:
        """Whether the update is one of every so many that get a JVP."""
        every *= self._fields.contexts_every * self._fields.jvp_every
        return every > 0 and index.update % every == 0

    def after(
        self,
        index: UpdateIndex,
        result: UpdateResult,
        before: dict[str, Tensor],
        writer: RunWriter,
    ) -> None:
        """Look again at the new parameters, which were `before` before the update."""
        if self._due(index):
            parameters = dict(self._policy.model.named_parameters())
            steps = {name: parameters[name].detach() - value for name, value in before.items()}
            self._probe.jvp(self._policy.model, before, steps, self._parts)
        weights = None if self._batch is None else _weights(self._batch, result)
        for columns in self._probe.after(index.update, weights=weights):
            writer.append("flows", columns)

    def state_dict(self) -> dict[str, Any]:
        shares = None if self._shares is None else self._shares.state_dict()
        return {"probe": self._probe.state_dict(), "shares": shares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._probe.load_state_dict(state["probe"])
        if self._shares is not None:
            self._shares.load_state_dict(state["shares"])


def _weights(contexts: ContextRows, result: UpdateResult) -> list[list[float]]:
    """The measured weight of each context, 0 for a response that the update did not contain."""
    places = {
        rollout: (sign_pass, row) for sign_pass in result.passes for row, rollout in enumerate(sign_pass.rows.tolist())
    }
    assert contexts.rollouts is not None
    out = []
    for rollout, positions in zip(contexts.rollouts, contexts.positions, strict=True):
        if rollout in places:
            sign_pass, row = places[rollout]
            weights = sign_pass.weights[row].tolist()
            out.append([weights[position] for position in positions])
        else:
            out.append([0.0] * len(positions))
    return out
