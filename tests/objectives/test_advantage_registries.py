"""Every advantage estimator of verl and reward setting of TRL: an objective has its numbers, or it says why none has.

The names come from the libraries' own registries, so that a new version with a new name fails here. TRL adds 1e-4 to a
standard deviation where 1e-6 is added here, which is the bound where one is divided by.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis.objectives import TokenBatch, get, parse_objective
from analysis.objectives.estimators import ESTIMATORS
from tests.objectives.peers import trl_kto, trl_peer, verl_peer

pytestmark = pytest.mark.slow  # importing the two libraries takes seconds

SIZE = 4
ARGUMENTS: dict[str, dict[str, Any]] = {  # what verl takes beside rewards
    "grpo_passk": {"config": {}},
    "reinforce_plus_plus": {"config": {"gamma": 1.0}},
}


def rows(setting: str, *, offered: bool = True) -> dict[str, str]:
    """Value of a setting -> the objective here; with `offered` false those that have none, with the remark."""
    wanted = [row for row in ESTIMATORS if row.option == setting and bool(row.ours) == offered]
    return {row.value: row.ours or row.note for row in wanted}


VERL = rows("algorithm.adv_estimator")
TRL = [(f, v) for f in ("scale_rewards", "multi_objective_aggregation") for v in rows(f"GRPOConfig.{f}")]


def case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Binary rewards (n,) of six groups, two of them all equal, lengths and mask (n, T)."""
    generator = torch.Generator().manual_seed(seed)
    rewards = (torch.rand(6 * SIZE, generator=generator) < 0.5).double()
    rewards[:SIZE], rewards[SIZE : 2 * SIZE] = 1.0, 0.0
    lengths = torch.randint(1, 8, (6 * SIZE,), generator=generator)
    return rewards, lengths, torch.arange(8) < lengths[:, None]


def test_every_estimator_of_verl_has_a_place() -> None:
    registry = verl_peer.core().ADV_ESTIMATOR_REGISTRY
    refused = rows("algorithm.adv_estimator", offered=False)
    assert set(registry) == set(VERL) | set(refused)
    assert all(refused.values())


@pytest.mark.parametrize("name", [name for name in VERL if "token_baseline" not in name])
@pytest.mark.parametrize("seed", [0, 1])
def test_advantages_of_verl(name: str, seed: int) -> None:
    rewards, lengths, mask = case(seed)
    text, arguments = VERL[name], ARGUMENTS.get(name, {})
    more: dict[str, Any] = {}
    if name == "remax":
        greedy = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64).repeat_interleave(SIZE)
        more, arguments = {"greedy_rewards": greedy}, {"reward_baselines": greedy}
    theirs = verl_peer.advantages(name, rewards, mask, SIZE, **arguments)
    if name == "gdpo":  # without components verl normalises the one reward
        more = {"reward_components": rewards[:, None]}
    ours = parse_objective(text).advantages(rewards, SIZE, lengths=lengths, **more)
    torch.testing.assert_close(ours[:, None] * mask, theirs, rtol=2e-6, atol=2e-6)  # verl computes in float32 in places
    assert theirs.any()


@pytest.mark.parametrize("name", [name for name in VERL if "token_baseline" in name])
@pytest.mark.parametrize("gaps", [False, True])
def test_token_baselines_of_verl(name: str, gaps: bool) -> None:
    """With tokens masked between others the two of verl differ; ours is the one that counts a response's own tokens."""
    rewards, _, mask = case(0)
    generator = torch.Generator().manual_seed(5)
    log_probs = -2 * torch.rand(mask.shape, generator=generator, dtype=torch.float64) - 0.05
    collision = log_probs.exp().square() + 0.1 * torch.rand(mask.shape, generator=generator, dtype=torch.float64)
    if gaps:
        mask = mask & ((torch.arange(8) + torch.arange(len(mask))[:, None]) % 3 != 1)
        mask[:, 0] = True
    import numpy as np

    token_rewards = torch.zeros(mask.shape, dtype=torch.float64)
    last = torch.tensor([int(row.nonzero()[-1]) for row in mask])
    token_rewards[torch.arange(len(mask)), last] = rewards
    function = verl_peer.core().get_adv_estimator_fn(name)
    theirs, _ = function(
        token_level_rewards=token_rewards,
        response_mask=mask.double(),
        index=np.array([i // SIZE for i in range(len(rewards))]),
        old_log_probs=log_probs,
        sum_pi_squared=collision,
    )
    ours = parse_objective(VERL[name]).advantages(
        rewards, SIZE, old_log_probs=log_probs, collision=collision, mask=mask
    )
    assert ours.shape == theirs.shape
    if gaps and name == "optimal_token_baseline":
        assert (ours - theirs).abs().max() > 0.01
    else:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gdpo_of_verl_with_two_components() -> None:
    rewards, lengths, mask = case(2)
    other = torch.rand(len(rewards), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    prompts, width = torch.zeros(len(rewards), 1), mask.shape[1]
    core = verl_peer.core()
    import numpy as np

    theirs, _ = core.compute_gdpo_outcome_advantage(
        token_level_rewards=torch.zeros(len(rewards), width),
        response_mask=mask.float(),
        index=np.array([i // SIZE for i in range(len(rewards))]),
        config={"gdpo_reward_keys": ["first", "second"], "gdpo_reward_weights": [1.0, 0.25]},
        non_tensor_batch={"first": rewards.numpy(), "second": other.numpy()},
        batch={"prompts": prompts, "attention_mask": torch.cat([prompts.long() + 1, mask.long()], 1)},
    )
    ours = get("gdpo", whiten="tokens").advantages(
        rewards,
        SIZE,
        lengths=lengths,
        reward_components=torch.stack([rewards, other], 1),
        component_weights=torch.tensor([1.0, 0.25]),
    )
    torch.testing.assert_close((ours[:, None] * mask).float(), theirs, rtol=1e-4, atol=1e-4)  # theirs is float32


def test_every_reward_setting_of_trl_has_a_place() -> None:
    """The names stand in the help of TRL's fields, and the trainer refuses any other."""
    config = trl_peer.trainer("trl.trainer.grpo_config", "GRPOConfig")
    for field in ("scale_rewards", "multi_objective_aggregation"):
        text = config.__dataclass_fields__[field].metadata["help"]
        named = set(re.findall(r"'(\w+)'", text)) | ({"group"} if "group'" in text else set())
        assert named == set(rows(f"GRPOConfig.{field}")), field
        with pytest.raises(ValueError, match="Must be"):
            trl_peer.grpo_advantages(torch.ones(SIZE), SIZE, **{field: "another"})
    kto = trl_peer.trainer("trl.trainer.kto_config", "KTOConfig").__dataclass_fields__["loss_type"].metadata["choices"]
    assert set(kto) == set(rows("KTOConfig.loss_type"))
    dpo = trl_peer.trainer("trl.trainer.dpo_config", "DPOConfig").__dataclass_fields__["loss_type"].metadata["help"]
    refused = rows("DPOConfig.loss_type", offered=False)
    assert set(re.findall(r"'(\w+)'", dpo)) == set(rows("DPOConfig.loss_type")) | set(refused)
    assert all(refused.values())


@pytest.mark.parametrize(("field", "value"), TRL)
def test_advantages_of_trl(field: str, value: str) -> None:
    rewards, _, _ = case(0)
    other = torch.rand(len(rewards), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    objective, both = parse_objective(rows(f"GRPOConfig.{field}")[value]), torch.stack([rewards, other], 1)
    theirs = trl_peer.grpo_advantages(both, SIZE, reward_weights=[1.0, 0.25], **{field: value})
    weights = torch.tensor([1.0, 0.25], dtype=torch.float64)
    ours = objective.advantages(both @ weights, SIZE, reward_components=both, component_weights=weights)
    torch.testing.assert_close(ours.to(theirs), theirs, rtol=2e-3, atol=2e-3)  # 1e-4 beside a std of at least 0.1
    assert theirs.any()


@pytest.mark.parametrize("normalize", [False, True])
def test_advantages_of_trl_s_rloo(normalize: bool) -> None:
    rewards, _, _ = case(0)
    theirs = trl_peer.rloo_advantages(rewards, SIZE, normalize_advantages=normalize)
    ours = parse_objective(rows("RLOOConfig.normalize_advantages")[str(normalize)]).advantages(rewards, SIZE)
    torch.testing.assert_close(ours.to(theirs), theirs, rtol=1e-6, atol=1e-6)


# -- losses -----------------------------------------------------------------------------------------------------------


def tokens() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log π, log π of another policy and mask, all (n, T), and advantages (n,)."""
    rewards, _, mask = case(0)
    generator = torch.Generator().manual_seed(1)
    log_probs = -torch.rand(mask.shape, generator=generator, dtype=torch.float64) - 0.1
    other = log_probs + 0.3 * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    return log_probs, other, mask, rewards - 0.4


@pytest.mark.parametrize(
    ("name", "loss_mode", "fields"),
    [("dro-token,tau=0.3", "dro", {"dro_beta": 0.3}), ("gpg", "gpg", {}), ("raft", "gpg", {})],
)
def test_weights_of_verl(name: str, loss_mode: str, fields: dict[str, float]) -> None:
    log_probs, old, mask, a = tokens()
    ours = parse_objective(name).weights(TokenBatch(log_probs, old, a, mask)).weight
    theirs = verl_peer.weights(loss_mode, log_probs, old, a, mask, **fields)
    torch.testing.assert_close(ours * mask, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["raft-plus-plus", "wapo", "qae", "reinforce-plus-plus", "pass-at-k,k=2"])
def test_clipped_ones_are_verl_s_vanilla(name: str) -> None:
    """PPO's loss with the clips of each; verl's dual clip is set out of reach."""
    log_probs, old, mask, a = tokens()
    objective = parse_objective(name)
    if objective.parameters.get("clip_low") is None:
        a = a.clamp(min=0)  # as the advantages of raft++ and WAPO are
    low, high = (objective.parameters.get(side) for side in ("clip_low", "clip_high"))
    fields = {"clip_ratio_low": 1.0 if low is None else low, "clip_ratio_high": 1e9 if high is None else high}
    theirs = verl_peer.weights("vanilla", log_probs, old, a, mask, clip_ratio_c=1e9, **fields)
    ours = objective.weights(TokenBatch(log_probs, old, a, mask)).weight
    if name.startswith("pass-at-k"):
        a = a.clamp(min=0)  # it has no clip at all, verl's cannot be below 0
        theirs = verl_peer.weights("vanilla", log_probs, old, a, mask, clip_ratio_c=1e9, **fields)
        ours = objective.weights(TokenBatch(log_probs, old, a, mask)).weight
    torch.testing.assert_close(ours * mask, theirs, rtol=1e-12, atol=1e-12)


def test_the_odds_of_trl_s_orpo() -> None:
    """TRL's odds-ratio term, differentiated in the mean log-prob of each response; ours has the likelihood besides."""
    from types import SimpleNamespace

    log_probs, _, mask, _ = tokens()
    lengths = mask.sum(-1, keepdim=True)
    mean = ((log_probs * mask).sum(-1, keepdim=True) / lengths).requires_grad_()
    trainer = trl_peer.trainer("trl.experimental.orpo.orpo_trainer", "ORPOTrainer")
    stub = SimpleNamespace(beta=0.7, accelerator=trl_peer.accelerator())
    losses, *_ = trainer.odds_ratio_loss(stub, mean[0::2, 0], mean[1::2, 0])
    (gradient,) = torch.autograd.grad((-mean[0::2].sum() - losses.sum()), mean)  # its loss: nll − losses.mean()
    ours = get("orpo", beta=0.7).weights(TokenBatch(log_probs, mask=mask)).weight
    torch.testing.assert_close(ours * mask, -gradient / lengths * mask, rtol=1e-5, atol=1e-6)  # TRL's is float32


@pytest.mark.parametrize(("name", "loss_type"), [("kto", "kto"), ("apo-zero-unpaired", "apo_zero_unpaired")])
def test_weights_of_trl_s_kto(name: str, loss_type: str) -> None:
    log_probs, ref, mask, a = tokens()
    rewards = (a > 0).double()
    leaf = log_probs.clone().requires_grad_()
    loss = trl_kto.kto_loss(
        leaf,
        ref,
        rewards > 0,
        mask,
        kl=0.2,
        loss_type=loss_type,
        beta=0.3,
        desirable_weight=1.2,
        undesirable_weight=0.6,
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    batch = TokenBatch(log_probs, None, None, mask, rewards, ref_log_probs=ref, kl_baseline=torch.full_like(a, 0.2))
    objective = get(name, beta=0.3, desirable_weight=1.2, undesirable_weight=0.6)
    ours = objective.weights(batch).weight * mask
    torch.testing.assert_close(ours, -gradient * len(mask), rtol=1e-10, atol=1e-12)
