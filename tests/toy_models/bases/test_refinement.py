"""The second stage of a base: own correct responses to fresh prompts."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toy_models import BASES, Policy, ensure_base, sample
from toy_models.bases import cache as bases
from toy_models.bases import refinement
from toy_models.bases.recipes import Refinement
from toy_models.bases.refinement import refine
from toy_models.tasks.registry import built_in_task

TASK = built_in_task("path-small")
STAGE = Refinement(rounds=6, prompts=256, samples=4, temperature=1.0, batch=64, lr=2e-3)


def _accuracy(model: torch.nn.Module) -> float:
    prompts = TASK.prompts("validation")
    u = torch.rand(
        len(prompts) * 16, TASK.max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    drawn = sample(
        model,
        [p.ids for p in prompts],
        group_size=16,
        max_new_tokens=TASK.max_new_tokens,
        eos_id=TASK.tokenizer.eos_token_id,
        pad_id=TASK.tokenizer.pad_token_id,
        uniforms=u,
    )
    right = [
        TASK.verify(prompts[i // 16].ids, ids[:n].tolist()).correct
        for i, (ids, n) in enumerate(zip(drawn.response_ids, drawn.lengths, strict=True))
    ]
    return sum(right) / len(right)


@pytest.mark.slow
def test_accuracy_rises_and_a_seed_gives_the_same_weights_again(tiny: Policy) -> None:
    models = [copy.deepcopy(tiny.model) for _ in range(3)]
    losses = [list(refine(model, TASK, STAGE, seed)) for model, seed in zip(models, (0, 0, 1), strict=True)]
    assert len(losses[0]) == STAGE.rounds
    assert losses[0] == losses[1] != losses[2]
    weights = [model.state_dict() for model in models]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    # 2048 responses a side: a difference has a standard error of at most 0.016.
    assert _accuracy(models[0]) > _accuracy(tiny.model) + 0.05


@pytest.mark.slow
def test_only_correct_responses_to_prompts_of_no_split_are_learnt(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[torch.Tensor] = []
    find = refinement._own_successes

    def find_and_tell(*given: Any) -> torch.Tensor:
        learnt.append(find(*given))
        return learnt[-1]

    monkeypatch.setattr(refinement, "_own_successes", find_and_tell)
    list(refine(copy.deepcopy(tiny.model), TASK, dataclasses.replace(STAGE, rounds=2), 0))
    held_out = {prompt.ids for split in ("train", "validation", "test") for prompt in TASK.prompts(split)}
    rows = [row.tolist() for round_rows in learnt for row in round_rows]
    assert len(rows) > 50
    for row in rows:
        prompt, response = tuple(row[:5]), [token for token in row[5:] if token != TASK.tokenizer.pad_token_id]
        assert prompt not in held_out
        assert TASK.verify(prompt, response).correct


@pytest.mark.parametrize("name", ["path-small", "countdown-small", "two-modes-small"])
def test_fresh_prompts_are_none_of_the_splits(name: str) -> None:
    task = built_in_task(name)
    held_out = {prompt.ids for split in ("train", "validation", "test") for prompt in task.prompts(split)}
    fresh = task.fresh_prompts(300, np.random.default_rng(0))
    assert len(fresh) == 300
    assert held_out.isdisjoint(fresh)
    assert all(task.solutions(prompt) for prompt in fresh)


@pytest.mark.slow
def test_a_model_that_is_never_right_cannot_be_refined(tiny: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "_own_successes", lambda *given: torch.empty(0))
    with pytest.raises(ValueError, match=r"refinement: expected a correct response, got none in round 1; pretrain"):
        list(refine(tiny.model, TASK, STAGE, 0))


@pytest.mark.slow
def test_a_refined_base_is_made_with_both_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path))
    stage = dataclasses.replace(STAGE, rounds=2, prompts=512)
    plain = dataclasses.replace(BASES["tiny"], steps=60)
    monkeypatch.setitem(BASES, "tiny", plain)
    unrefined = ensure_base("tiny")
    monkeypatch.setitem(BASES, "tiny", dataclasses.replace(plain, refinement=stage))
    reports: list[tuple[int, int]] = []
    folder = ensure_base("tiny", progress=lambda step, steps, loss: reports.append((step, steps)))
    assert folder != unrefined
    assert reports[-3:] == [(60, 62), (61, 62), (62, 62)]
    card = json.loads((folder / "base.json").read_text())
    assert card["recipe"]["refinement"] == dataclasses.asdict(stage)
    assert "refinement" not in json.loads((unrefined / "base.json").read_text())["recipe"]
    assert (folder / "model.safetensors").read_bytes() != (unrefined / "model.safetensors").read_bytes()


def test_code_of_the_second_stage_changes_no_base_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "refined", dataclasses.replace(BASES["tiny"], refinement=STAGE))
    names = ("tiny", "refined")
    before = {name: bases.base_folder(name, 0) for name in names}
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, **options: read(path, **options) + "\n0\n" * (path.name == "sampling.py")
    )
    assert {name for name in names if bases.base_folder(name, 0) != before[name]} == {"refined"}
