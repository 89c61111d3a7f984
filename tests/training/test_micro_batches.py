"""Passes that are bounded by their tokens: how rows are cut, and that the update is the one of a single pass."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import UsageError
from analysis.common import bounded_sampling
from analysis.recipes import Recipe
from analysis.recipes.fields import UpdateFields
from analysis.training.micro_batches import row_parts
from tests.training.naive_update import make_config, make_updater, random_batch, random_policy
from tests.training.small_runs import look
from tests.training.test_shared_prompts import CASES, compare, updated
from toy_models import sample


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(1, 120),
    st.booleans(),
)
def test_every_row_once_and_within_the_budget(rows: list[tuple[int, int]], budget: int, shared: bool) -> None:
    group_size = 3
    prompts = [row // group_size for row in range(len(rows))]
    prompt_lengths = [rows[prompt * group_size][0] for prompt in prompts]  # rows of a prompt have its length
    response_lengths = [response for _, response in rows]
    fields = UpdateFields(micro_batch_tokens=budget, shared_prompts=shared)
    parts = row_parts(prompt_lengths, response_lengths, prompts, fields)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(rows)))
    for part in parts:
        members = part.tolist()
        longest = max(response_lengths[i] for i in members)
        if shared:
            size = sum({prompts[i]: prompt_lengths[i] for i in members}.values()) + len(members) * longest
        else:
            size = len(members) * (max(prompt_lengths[i] for i in members) + longest)
        assert size <= budget or len(members) == 1
    if shared:  # the rows of a prompt are never parted by those of another
        seen = [prompts[i] for part in parts for i in part.tolist()]
        assert len([a for a, b in itertools.pairwise(seen) if a != b]) == len(set(prompts)) - 1


def test_rows_of_like_lengths_go_together() -> None:
    """Of long and short rows in turn, no part holds both: padding would take half of its budget."""
    lengths = [2, 20] * 6
    parts = row_parts([3] * 12, lengths, list(range(12)), UpdateFields(micro_batch_tokens=60))
    assert all(len({lengths[i] for i in part.tolist()}) == 1 for part in parts)
    assert [len(part) for part in parts] == [6, 2, 2, 2]


@pytest.mark.parametrize("budget", [1, 25, 60])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("micro-batches", "chosen tokens")])
def test_parts_make_the_update_of_the_whole(name: str, shared: bool, budget: int) -> None:
    """Gradients, weights and rows of the table in float64 to 1e-12, with every kind of loss, mask and critic."""
    compare(updated(CASES[name], micro_batch_tokens=budget, shared_prompts=shared), updated(CASES[name]))


@pytest.mark.parametrize("budget", [25, 60])
def test_tokens_are_chosen_over_the_whole_minibatch(budget: int) -> None:
    """First tokens of one prompt have equal entropies, whose order is that of rounding: not for rows of their own."""
    compare(updated(CASES["chosen tokens"], micro_batch_tokens=budget), updated(CASES["chosen tokens"]))


@pytest.mark.parametrize("mask", ["probability", "entropy"])
def test_a_token_mask_ranks_over_the_whole_minibatch(mask: str) -> None:
    fields: dict[str, Any] = {"token_mask": mask, "mask_high": 0.6, "mask_norm": "full"}
    compare(updated(CASES["grpo"], micro_batch_tokens=20, **fields), updated(CASES["grpo"], **fields))


def test_no_pass_is_beyond_the_budget() -> None:
    """With gradients and without: the tokens of every call of the model."""
    budget, policy = 40, random_policy()
    updater = make_updater(make_config(objective={"name": "grpo"}, update={"micro_batch_tokens": budget}), policy)
    batch = random_batch(updater.objective, groups=4, group_size=6)
    seen: list[int] = []
    policy.model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    rows = torch.arange(24)
    updater.runner.log_probs(policy.model, batch, rows.tolist())
    passes, _ = updater.runner.run(batch, _targets(batch), rows, torch.ones(24).double(), 0, None, "update 0")
    assert len(seen) > 4
    assert max(seen) <= budget
    assert sum(len(one.rows) for one in passes) == 24


def _targets(batch: Any) -> Any:
    from analysis.training.step_targets import StepTargets

    return StepTargets.on_policy(batch)


@pytest.mark.slow
def test_rollouts_and_evaluations_are_sampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is the same to the last bit but for rounding, and no call of the sampler is beyond the bound."""
    bound, seen = 60, []

    def counted(model: Any, prompts: Any, *, group_size: int, max_new_tokens: int, **named: Any) -> Any:
        seen.append(len(prompts) * group_size * (max(map(len, prompts)) + max_new_tokens))
        return sample(model, prompts, group_size=group_size, max_new_tokens=max_new_tokens, **named)

    evaluated = {"eval.prompts": 4, "eval.final_prompts": 4, "eval.samples": 2}
    whole = look(tuple(sorted(evaluated.items())))
    monkeypatch.setattr(bounded_sampling, "sample", counted)
    parts = look(tuple(sorted((evaluated | {"rollout.batch_tokens": bound}).items())))
    assert len(seen) > 20
    assert max(seen) <= bound
    assert [batch.responses for batch in parts.batches] == [batch.responses for batch in whole.batches]
    for got, expected in zip(parts.batches, whole.batches, strict=True):
        torch.testing.assert_close(got.sampling_log_probs, expected.sampling_log_probs, rtol=0, atol=1e-6)
    got, expected = (run.tables["evals"] for run in (parts, whole))
    assert got.c.tolist() == expected.c.tolist()
    assert got.greedy_correct.tolist() == expected.greedy_correct.tolist()
    torch.testing.assert_close(parts.updates[-1].theta, whole.updates[-1].theta, rtol=0, atol=1e-9)


def test_one_bound_of_a_pass() -> None:
    with pytest.raises(UsageError, match=r"update.micro_batch = 2 with update.micro_batch_tokens = 64: both bound"):
        Recipe.load("tiny").set(**{"update.micro_batch": 2, "update.micro_batch_tokens": 64}).expand()
    with pytest.raises(UsageError, match=r"update.micro_batch_tokens: expected an integer ≥ 1, got 0"):
        Recipe.load("tiny").set(**{"update.micro_batch_tokens": 0}).expand()
