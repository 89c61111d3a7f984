"""The contexts of a run by the ways in which their logits can be had: all positions, the contexts alone, shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.evaluation import FixedPrefixes
from analysis.probes import ContextProbe, ContextRows, context_probe
from analysis.recipes.fields import RecordFields
from analysis.training import context_follower
from analysis.training.context_follower import ContextFollower
from analysis.training.record_rows import UpdateIndex
from analysis.training.step_targets import StepTargets
from tests.training.naive_update import VOCAB, make_config, make_updater, random_batch
from toy_models import Prompt

INDEX = UpdateIndex(0, 0, 0, 0)


class Written:
    """Stands for a RunWriter; keeps the columns of `flows`."""

    def __init__(self) -> None:
        self.flows: list[dict[str, Any]] = []

    def append(self, table: str, columns: Any) -> None:
        if table == "flows":
            self.flows.append({name: self._plain(value) for name, value in columns.items()})

    @staticmethod
    def _plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.numpy()
        return np.asarray(value.values if hasattr(value, "values") else value, dtype=float)


def followed(*, share: bool) -> tuple[dict[str, Any], list[int]]:
    """One update with its contexts, JVP and shares: the columns of `flows`, and how many hidden states the output head
    read in each pass that looked at contexts."""
    config = make_config(optimizer={"name": "adamw", "lr": 1e-3})
    updater = make_updater(config)
    batch = random_batch(updater.objective, groups=4, group_size=6)
    held_out = [Prompt(f"v{i}", prompt.ids, "", "validation", None) for i, prompt in enumerate(batch.prompts)]
    fixed = FixedPrefixes([p.prompt_id for p in held_out], [list(p.ids) for p in held_out], batch.responses[::6])
    fields = RecordFields(contexts=16, contexts_every=1, jvp_every=1, shares_every=1, top_k=3)
    generator = torch.Generator().manual_seed(2)
    follower = ContextFollower(
        updater.policy, fixed, held_out, fields, 0.7, generator, updater.optimizer, config.optimizer, share=share
    )
    read: list[int] = []
    head = updater.policy.model.get_output_embeddings()
    writer, rows = Written(), torch.arange(len(batch))
    handle = head.register_forward_hook(lambda _, args, __: read.append(args[0].shape[:-1].numel()))
    follower.before(INDEX, batch, rows, writer)  # type: ignore[arg-type]
    handle.remove()
    trained = dict(updater.policy.model.named_parameters())
    before = {name: p.detach().clone() for name, p in trained.items()}
    result = updater.apply(batch, StepTargets.on_policy(batch), rows, None, "update 0")
    follower.stepped(INDEX, result, before)
    follower.after(INDEX, result, before, writer)  # type: ignore[arg-type]
    (columns,) = writer.flows
    return columns, read


def test_contexts_are_the_same_by_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, read_plain = followed(share=False)
    monkeypatch.setattr(context_follower, "_PICKED_FROM", VOCAB)
    picked, read_picked = followed(share=False)
    shared, read_shared = followed(share=True)
    assert np.abs(plain["jvp_dlog_prob_shares"]).max() > 1e-4
    for other in (picked, shared):
        assert other.keys() == plain.keys()
        for name, value in plain.items():  # records are float32: 1e-7 of themselves, and differences of such numbers
            np.testing.assert_allclose(other[name], value, rtol=3e-6, atol=1e-9, err_msg=name)
    assert sum(read_picked) == sum(read_shared) == len(plain["tv"]) < sum(read_plain)  # the head reads these alone


def test_a_vocabulary_is_worked_on_a_few_contexts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = followed(share=False)
    monkeypatch.setattr(context_probe, "_AT_ONCE", 3 * VOCAB)
    parts, _ = followed(share=False)
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


def test_between_two_looks_a_probe_keeps_the_logits_once_in_their_dtype() -> None:
    table = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).float()

    def prepared(prompts: Any, responses: Any, positions: Any) -> Callable[[], Tensor]:
        return lambda: table[[prompt[0] for prompt, at in zip(prompts, positions, strict=True) for _ in at]]

    rows = ContextRows("panel", [[i] for i in range(6)], [[1]] * 6, [[0]] * 6, ["p"] * 6)
    probe = ContextProbe(prepared, panel=rows, picks=True)
    probe.before(0)
    kept = [value for value in vars(probe).values() if isinstance(value, Tensor)]
    assert sum(value.numel() * value.element_size() for value in kept) == 6 * 50 * 4
