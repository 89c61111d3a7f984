"""What estimators and losses refuse while they compute, registration, and the numbers that they give to verl's logs."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
from verl.utils.metric import AggregationType, Metric, reduce_metrics

from analysis import UsageError, objectives
from analysis.engines import verl
from analysis.engines.verl import microbatch
from analysis.engines.verl.objectives import estimators, policy_losses
from analysis.engines.verl.objectives.estimators import ESTIMATORS
from analysis.engines.verl.objectives.policy_losses import LOSSES, token_batch
from analysis.objectives import get

from .objective_batches import Rollouts, actor_config, estimated, names_restored, weights_by_verl


@pytest.mark.parametrize(
    ("name", "algorithm", "message"),
    [
        ("w_reinforce", {}, r"^algorithm.rlvr_lambda: w_reinforce needs λ.*add \+algorithm.rlvr_lambda=0.1"),
        ("w_reinforce", {"rlvr_lambda": -1}, r"^algorithm.rlvr_lambda: expected a number ≥ 0, got -1"),
        ("psr", {"rlvr_lambda": 0.1}, r"^algorithm.rlvr_lambda: only w-reinforce has it"),
        ("psr", {"rlvr_lamda": 0.1}, r"^algorithm.rlvr_lamda: .* a key that nothing reads"),
        ("psr", {"rlvr_parameters": {"clipp": 1}}, r"^algorithm.rlvr_parameters.clipp: unknown parameter"),
        ("psr", {"rlvr_parameters": 0.2}, r"^algorithm.rlvr_parameters: expected a parameter beneath it"),
        ("psr", {"use_kl_in_reward": True}, r"^algorithm.use_kl_in_reward: expected False"),
        ("psr", {"rlvr_threshold": "high"}, r"^algorithm.rlvr_threshold: expected a finite number.*got 'high'"),
        (
            "w_reinforce",
            {"rlvr_lambda": 0.1, "rlvr_parameters": {"lambda": 0.2}},
            r"^algorithm.rlvr_lambda: expected the λ of rlvr_parameters, 0.2, got 0.1",
        ),
    ],
)
def test_settings_that_an_estimator_refuses(name, algorithm, message):
    with pytest.raises(UsageError, match=message):
        estimated(name, Rollouts.make(), **algorithm)


def test_the_settings_of_a_hydra_configuration_are_read_as_those_of_a_dictionary():
    algorithm = {"rlvr_parameters": {"lambda": 0.3}}
    given = OmegaConf.create({"algorithm": algorithm, "actor_rollout_ref": {"rollout": {"n": 4}}}).algorithm
    OmegaConf.set_struct(given, True)
    rollouts = Rollouts.make()
    plain, _ = estimated("w_reinforce", rollouts, **algorithm)
    estimate = ADV_ESTIMATOR_REGISTRY["w_reinforce"]
    scores = rollouts.rewards[:, None] * torch.nn.functional.one_hot(torch.zeros(7, dtype=torch.long), 5)
    advantages, _ = estimate(
        token_level_rewards=scores, response_mask=rollouts.mask.long(), config=given, index=rollouts.uids
    )
    assert torch.equal(plain, advantages)
    assert float(advantages.max()) == pytest.approx(0.3)


def test_real_rewards_need_a_threshold_where_the_sign_matters():
    rollouts = Rollouts.make()
    rollouts.rewards *= 0.7
    with pytest.raises(UsageError, match=r"psr-ratio is defined for 0 and 1, got 0.7.*\+algorithm.rlvr_threshold=0.5"):
        estimated("psr", rollouts)
    verdicts, _ = estimated("psr", rollouts, rlvr_threshold=0.5)
    assert torch.equal(verdicts, estimated("psr", Rollouts.make())[0])
    graded, _ = estimated("dr_grpo", rollouts)
    assert float(graded.max()) == pytest.approx(0.35)
    rollouts.rewards[1] = torch.nan
    with pytest.raises(UsageError, match="expected finite numbers, got nan for row 1"):
        estimated("dr_grpo", rollouts)


def test_several_outputs_of_a_session_are_refused_where_responses_are_compared():
    rollouts = Rollouts.make()
    whole = OmegaConf.create({"algorithm": {}, "actor_rollout_ref": {"rollout": {"n": 2}}})

    def estimate(name):
        return ADV_ESTIMATOR_REGISTRY[name](
            token_level_rewards=rollouts.rewards[:, None] / 5 * torch.ones(7, 5),
            response_mask=rollouts.mask.long(),
            config=whole.algorithm,
            index=rollouts.uids,
        )

    rollouts.rewards = rollouts.rewards.round()
    with pytest.raises(UsageError, match=r"expected at most rollout.n = 2 of them, got 4.*several outputs of one"):
        estimate("dr_grpo")
    advantages, _ = estimate("nsr")  # weighs each output by its session's reward
    assert advantages[1, 0] == -1


def test_a_prompt_with_too_few_finished_responses_has_no_weight_and_is_named(caplog):
    rollouts = Rollouts.make()
    rollouts.uids = np.array(["a", "a", "b", "a", "c", "a", "pad0"], dtype=object)
    with caplog.at_level(logging.WARNING):
        advantages, _ = estimated("maxrl", rollouts)
    assert advantages[[2, 4]].eq(0).all()
    assert advantages[0].ne(0).any()
    assert "maxrl: 2 prompts have 1 finished responses, too few to compare" in caplog.text
    alone = rollouts.rows([2, 4])
    with pytest.raises(UsageError, match=r"actor_rollout_ref.rollout.n: maxrl compares .* got 1"):
        estimated("maxrl", alone)


def test_uids_are_needed_to_compare():
    rollouts = Rollouts.make()
    rollouts.uids = None
    with pytest.raises(UsageError, match="expected the uid of each row, since dr-grpo compares"):
        estimated("dr_grpo", rollouts)
    advantages, _ = estimated("psr", rollouts)
    assert advantages[-1].eq(0).all()


def test_a_name_that_another_plug_in_holds_is_refused(monkeypatch):
    def foreign(*_):
        return None

    def registry(of_verl, table):
        kept = {name: function for name, function in of_verl.items() if name not in table}
        return kept | {"psr_ratio": foreign}

    for module, name, table in (
        (estimators, "ADV_ESTIMATOR_REGISTRY", ESTIMATORS),
        (policy_losses, "POLICY_LOSS_REGISTRY", LOSSES),
    ):
        monkeypatch.setattr(module, name, registry(getattr(module, name), table))
        with pytest.raises(UsageError, match=rf"psr_ratio: expected a name that is free, got one that {__name__}"):
            module._register()


@objectives.register("verl-square")
def square(log_probs, batch):
    return -batch.per_token("advantages") * log_probs.exp() ** 2


@objectives.register("verl-taught", needs=("teacher_log_probs",))
def taught(log_probs, batch):
    return -batch.per_token("teacher_log_probs") * log_probs


@names_restored()
def test_a_loss_that_the_user_wrote():
    verl.offer("square", "verl-square")
    verl.offer("square", "verl-square")  # a second import of the user's module
    rollouts = Rollouts.make()
    advantages, returns = estimated("square", rollouts, rlvr_parameters={"advantage": "group_mean"})
    assert float(advantages[0, 0]) == 1.0  # 2r − 1 less its mean in a group of two correct of four
    weights, _, _ = weights_by_verl(actor_config("square"), rollouts, advantages, returns, engine=False)
    expected = advantages * 2 * (2 * rollouts.log_probs).exp() / rollouts.mask.sum()
    assert torch.allclose(weights, expected, rtol=1e-9, atol=0)
    for name, objective, message in (
        ("square", "verl-taught", "verl-taught learns from a teacher"),
        ("psr", "verl-square", "estimator psr: expected a name that is free"),
        ("my square", "verl-square", "expected a name of letters, digits and underscores"),
        ("cube", "verl-cube", "unknown value 'verl-cube'"),
    ):
        with pytest.raises(UsageError, match=message):
            verl.offer(name, objective)


def test_names_of_verl_stay_with_verl():
    for registry, ours, names in (
        (ADV_ESTIMATOR_REGISTRY, ESTIMATORS, ("grpo", "rloo", "opo", "gpg")),
        (POLICY_LOSS_REGISTRY, LOSSES, ("gspo", "sapo", "gpg", "cispo", "clip_cov", "dro")),
    ):
        for name in names:
            assert registry[name].__module__ == "verl.trainer.ppo.core_algos"
            assert name not in ours
            assert f"dynamics_{name}" in ours
            assert f"dynamics_{name}" in registry


def test_shares_of_tokens_survive_the_means_that_verl_takes():
    """Micro batches of unequal length on two ranks: the quotient is the share among all tokens."""
    rollouts = Rollouts.make()
    rollouts.old = rollouts.log_probs - 0.4  # ρ = 1.49 at each token
    advantages, returns = estimated("psr", rollouts)
    config = actor_config("psr_ratio", rlvr_parameters={"clip_high": 0.1})
    ranks: list[list[dict[str, Metric]]] = [[], []]
    for rank, rows in ((0, [0, 2]), (0, [1, 4, 6]), (1, [5]), (1, [3])):
        ranks[rank].append(weights_by_verl(config, rollouts.rows(rows), advantages[rows], returns[rows])[2])
    merged = {}
    for name in ranks[0][0]:
        per_rank = []
        for parts in ranks:
            metric = Metric(AggregationType.SUM if name == "actor/pg_loss" else AggregationType.MEAN)
            for part in parts:
                metric.append(part[name])
            per_rank.append(metric)
        merged[name] = [Metric.aggregate_dp(per_rank)]
    numbers = reduce_metrics(merged)
    share = numbers["actor/objective_tokens_clipped_high"] / numbers["actor/objective_tokens"]
    correct = rollouts.mask[[0, 2, 5]].sum()
    assert share == pytest.approx(int(correct) / int(rollouts.mask.sum()), rel=1e-12)
    assert numbers["actor/objective_tokens_clipped_low"] == 0
    assert not [name for name in merged if "max" in name or "min" in name]


def test_the_engine_hears_which_tokens_were_clipped():
    rollouts = Rollouts.make()
    rollouts.old = rollouts.log_probs - 0.4
    objective = get("psr", form="ratio", clip_high=0.1)
    config = actor_config("psr_ratio", rlvr_parameters={"clip_high": 0.1})
    with microbatch.in_progress(TensorDict({}, [7])) as seen:
        POLICY_LOSS_REGISTRY["psr_ratio"](
            old_log_prob=rollouts.old,
            log_prob=rollouts.log_probs,
            advantages=rollouts.rewards[:, None] * rollouts.mask,
            response_mask=rollouts.mask,
            config=config,
        )
    assert objective.entry.is_policy_gradient
    assert torch.equal(seen.clips, ((rollouts.rewards[:, None] * rollouts.mask) > 0).to(torch.int8))


def test_a_loss_without_the_engine_or_its_field_says_what_is_missing():
    rollouts = Rollouts.make()
    advantages, returns = estimated("nft", rollouts)
    with pytest.raises(UsageError, match=r"nft reads more of a micro batch.*VERL_ENGINE_VENDOR=dynamics"):
        weights_by_verl(actor_config("nft"), rollouts, advantages, returns, engine=False)
    objective = get("dro", tau=0.1)
    with (
        microbatch.in_progress(TensorDict({}, [7])),
        pytest.raises(UsageError, match=r"dro reads ref_log_prob of each token.*use_kl_loss=True"),
    ):
        token_batch(
            objective,
            rollouts.log_probs,
            rollouts.old,
            rollouts.rewards[:, None] * rollouts.mask,
            rollouts.mask,
            config=SimpleNamespace(global_batch_info={}),
        )


@pytest.mark.parametrize("name", ["high_entropy", "dynamics_kl_cov", "kto"])
def test_what_is_made_of_a_minibatch_needs_it_whole(name):
    rollouts = Rollouts.make()
    advantages, returns = estimated(name if name in ESTIMATORS else "kl_cov", rollouts)
    for info in ({"global_batch_size": 14}, {"dp_size": 2}):
        with pytest.raises(UsageError, match=r"reads all tokens of a minibatch.*on one GPU"):
            weights_by_verl(actor_config(name), rollouts, advantages, returns, **info)


def test_losses_that_read_rewards_need_verdicts():
    rollouts = Rollouts.make()
    rollouts.rewards *= 0.7
    advantages, returns = estimated("oreal", rollouts, rlvr_threshold=0.5)
    with pytest.raises(UsageError, match=r"oreal is defined for 0 and 1, got 0.7.*policy_loss.rlvr_threshold=0.5"):
        weights_by_verl(actor_config("oreal"), rollouts, advantages, returns)
    weights, _, _ = weights_by_verl(actor_config("oreal", rlvr_threshold=0.5), rollouts, advantages, returns)
    assert weights.abs().max() > 0


def test_a_key_that_the_loss_does_not_know_is_refused():
    rollouts = Rollouts.make()
    advantages, returns = estimated("psr", rollouts)
    key = r"^actor_rollout_ref.actor.policy_loss.rlvr_parameters.clip_hgih: unknown parameter"
    with pytest.raises(UsageError, match=key):
        weights_by_verl(actor_config("psr_ratio", rlvr_parameters={"clip_hgih": 0.1}), rollouts, advantages, returns)
    with pytest.raises(UsageError, match="expected log, which the name grpo_log says, got ratio"):
        weights_by_verl(actor_config("grpo_log", rlvr_parameters={"form": "ratio"}), rollouts, advantages, returns)
