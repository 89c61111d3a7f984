"""Passes that share what rows have in common, and passes over both signs, against the plain passes of each sign."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.recipes import Recipe
from analysis.recipes.fields import CriticFields
from analysis.training import train
from analysis.training.critic import Critic
from analysis.training.record_rows import UpdateIndex, update_row
from analysis.training.setup import check_sharing
from analysis.training.targets import fix_targets
from analysis.training.token_logits import StreamedLogits
from tests.offline.byte_models import byte_tokenizer
from tests.training.naive_update import make_config, make_updater, random_batch, random_policy
from toy_models import Policy, Prompt, prompt_hash

ROWS = torch.randperm(24, generator=torch.Generator().manual_seed(3))
PLANS = [[ROWS[:10], ROWS[10:]]]
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"objective": {"name": "grpo"}},
    "temperature": {"objective": {"name": "grpo"}, "rollout": {"temperature": 0.7}},
    "one sign": {"objective": {"name": "psr"}},
    "micro-batches": {"objective": {"name": "grpo"}, "update": {"micro_batch": 3}},
    "entropy bonus": {"objective": {"name": "reinforce", "entropy_coef": 0.2}},
    "k3 in the loss": {"objective": {"name": "reinforce", "kl_coef": 0.3, "entropy_coef": 0.1}},
    "full KL": {"objective": {"name": "reinforce", "kl_coef": 0.3, "kl_estimator": "full"}},
    "KL in the reward": {"objective": {"name": "grpo", "kl_coef": 0.3, "kl_placement": "before_baseline"}},
    "chosen tokens": {"objective": {"name": "high-entropy", "form": None, "share": 0.5}},
    "sequences": {"objective": {"name": "gspo", "form": None}},
    "critic": {"objective": {"name": "reinforce"}, "critic": {"enabled": True, "whiten": True, "clip": 0.2}},
}


def updated(case: dict[str, Any], by_sign: bool = True, **fields: Any) -> dict[str, Any]:
    """Two updates of a step from the same policy: parameters, and what was measured of each rollout."""
    tables = {name: dict(values) for name, values in case.items() if name != "critic"}
    tables["update"] = tables.get("update", {}) | fields
    config = make_config(**tables)
    policy, reference = random_policy(0), random_policy(1)
    updater = make_updater(config, policy)
    if "critic" in case:
        updater.critic = Critic(policy.model, dataclasses.replace(CriticFields(), **case["critic"]))
    referred = reference.model if config.objective.kl_coef > 0 else None
    batch = random_batch(updater.objective, groups=4, group_size=6)
    targets = fix_targets(batch, PLANS, updater, referred)
    out: dict[str, Any] = {"rows": [], "rollouts": {}}
    for i, rows in enumerate(PLANS[0]):
        result = updater.apply(batch, targets, rows, referred, f"update {i}", by_sign=by_sign)
        for one in result.passes:
            targets = targets.with_old(one.rows, one.old_log_probs)
            assert (batch.rewards[one.rows] > 0).eq(one.sign > 0).all()
            for b, rollout in enumerate(one.rows.tolist()):
                real = one.mask[b]
                names = ("weights", "closed_form", "log_probs", "ratio", "clip", "logits", "kl_weights")
                streamed = isinstance(one.token_logits, StreamedLogits)
                values = {name: getattr(one, name) for name in names if not (streamed and name == "logits")}
                out["rollouts"][i, rollout] = {k: v[b][real].double() for k, v in values.items() if v is not None}
        out["rows"].append(update_row(UpdateIndex(i, 0, 0, i), result, [], 0.1, 0.0))
    out["parameters"] = [p.detach().clone() for p in updater.parameters]
    return out


def compare(got: dict[str, Any], expected: dict[str, Any], unmeasured: tuple[str, ...] = ()) -> None:
    close = {"rtol": 1e-12, "atol": 1e-12}
    for a, b in zip(got["parameters"], expected["parameters"], strict=True):
        torch.testing.assert_close(a, b, **close)
    assert got["rollouts"].keys() == expected["rollouts"].keys()
    for key, values in expected["rollouts"].items():
        assert values.keys() - got["rollouts"][key].keys() <= {"logits"}  # streamed ones never exist
        for name in values.keys() & got["rollouts"][key].keys():
            value = values[name]
            torch.testing.assert_close(got["rollouts"][key][name], value, rtol=1e-11, atol=1e-11, msg=f"{key} {name}")
    for a, b in zip(got["rows"], expected["rows"], strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - set(unmeasured):
            (x,), (y,) = a[name], b[name]
            assert x == (y if y is None else pytest.approx(y, rel=1e-10, abs=1e-13)), name
        for name in unmeasured:
            assert a[name] == [None]


@pytest.mark.parametrize("name", CASES)
def test_shared_prompts_make_the_update_of_the_plain_pass(name: str) -> None:
    compare(updated(CASES[name], shared_prompts=True), updated(CASES[name]))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shared", [False, True])
def test_both_signs_together_make_the_sum_of_their_updates(name: str, shared: bool) -> None:
    unmeasured = ("grad_norm_pos", "grad_norm_neg", "grad_cos")
    compare(updated(CASES[name], by_sign=False, shared_prompts=shared), updated(CASES[name]), unmeasured)


def test_sharing_forwards_fewer_tokens() -> None:
    """Else the equalities above would compare the plain pass with itself."""
    seen: list[int] = []
    for shared in (False, True):
        policy = random_policy()
        config = make_config(objective={"name": "grpo"}, update={"shared_prompts": shared})
        updater = make_updater(config, policy)
        batch = random_batch(updater.objective, groups=4, group_size=6)
        embedded: list[int] = []
        policy.model.get_input_embeddings().register_forward_hook(
            lambda _, args, __, embedded=embedded: embedded.append(args[0].numel())
        )
        updater.apply(batch, fix_targets(batch, [[ROWS]], updater, None), ROWS, None, "update 0", by_sign=False)
        seen.append(sum(embedded))
    assert seen[1] < seen[0]


def test_old_log_probs_of_the_rollouts() -> None:
    """Those of the sampler for every row, the first update's included, and no forward pass for them."""
    policy = random_policy()
    updater = make_updater(make_config(objective={"name": "grpo"}, update={"old_log_probs": "rollouts"}), policy)
    batch = random_batch(updater.objective, groups=4, group_size=6)
    sampled = torch.rand(batch.sampling_log_probs.shape, generator=torch.Generator().manual_seed(5)) - 2
    batch = dataclasses.replace(batch, sampling_log_probs=sampled, kept_mass=torch.full_like(sampled, 0.5))
    calls: list[int] = []
    policy.model.register_forward_pre_hook(lambda *_: calls.append(1))
    for plans in (PLANS, [[ROWS]]):
        targets = fix_targets(batch, plans, updater, None)
        assert targets.awaited is None or not targets.awaited.any()
        assert targets.old_log_probs is not None
        expected = (sampled + torch.tensor(0.5).log()).double().masked_fill(~batch.mask(), 0)
        torch.testing.assert_close(targets.old_log_probs, expected, rtol=0, atol=1e-6)
    assert not calls
    result = updater.apply(batch, targets, ROWS, None, "update 0")
    for one in result.passes:
        log_ratio = one.log_probs - expected[one.rows, : one.mask.shape[1]]
        torch.testing.assert_close(one.ratio[one.mask], log_ratio.exp()[one.mask], rtol=1e-6, atol=1e-6)


def test_a_model_that_cannot_share_is_refused_by_name() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            sliding_window=4,
            initializer_range=0.4,
        )
    ).eval()
    ids = tuple(range(40, 46))
    prompt = Prompt(prompt_hash(ids), ids, "x", "train", None)
    message = (
        r"policy.base: expected a model for update.shared_prompts, got MistralForCausalLM: the log-probs of its tokens "
        r"differ by up to .* set update.shared_prompts = false"
    )
    with pytest.raises(UsageError, match=message):
        check_sharing(Policy(model, tokenizer), [prompt], 8, "policy.base")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"record.signs_every": 0, "record.contexts": 8},
            r"record.signs_every = 0 with record.contexts = 8 and record.shares_every = 2: steps by source need",
        ),
        (
            {"update.old_log_probs": "rollouts", "critic.enabled": True, "objective.name": "reinforce"},
            r'update.old_log_probs = "rollouts" with critic.enabled: the critic reads the hidden states',
        ),
        (
            {"update.shared_prompts": True, "update.estimator": "exact"},
            r'update.estimator = "exact" requires .*update.shared_prompts = false',
        ),
    ],
)
def test_combinations_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.load("tiny").set(**{"grid": "unset", **settings}).expand()


@pytest.mark.slow
def test_interrupted_runs_resume_to_the_same_records(tmp_path: Path) -> None:
    """With every field of speed on; `signs_every` counts the updates of the run, not of the process."""
    from analysis.records import digest, load_trace

    settings = {
        "grid": "unset",
        "steps": 4,
        "objective.name": "grpo",
        "update.rows": "keep",
        "update.shared_prompts": True,
        "update.old_log_probs": "rollouts",
        "record.signs_every": 3,
        "record.contexts": 0,
        "record.chunk": 1,
        "eval.every": 2,
        "eval.prompts": 2,
        "eval.final_prompts": 4,
    }
    (planned,) = Recipe.load("tiny").set(**settings).expand()
    config = planned.config
    train(config, tmp_path / "whole", run_id="r", label="L")
    stops = iter([False, True, *[False] * 10])
    args = {"run_id": "r", "label": "L"}
    assert train(config, tmp_path / "parts", **args, should_stop=lambda: next(stops)) == "interrupted"
    assert train(copy.deepcopy(config), tmp_path / "parts", **args, resume=True) == "complete"
    whole = load_trace(tmp_path / "whole")
    assert digest(whole) == digest(load_trace(tmp_path / "parts"))
    measured = whole.table("updates").grad_cos.notna()
    assert measured.tolist() == [i % 3 == 0 for i in range(len(measured))]
