"""What `watch` puts into the trainer's logs, recomputed from the records; objectives and tools under `watch`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError
from analysis.engines.scalars import SCALARS

from .objective_runs import make_trainer
from .watched_runs import KINDS, make_trl_trainer

EVERYTHING = RecordSpec(tokens=1.0, grad_cos_every=1)


def logs_of(trainer: Any, prefix: str = "dynamics/") -> list[dict[str, float]]:
    lines = [{k.removeprefix(prefix): v for k, v in log.items() if k.startswith(prefix)} for log in history(trainer)]
    return [line for line in lines if line]


def history(trainer: Any) -> list[dict[str, float]]:
    return trainer.state.log_history


def test_scalars_are_those_of_the_recorded_tokens(tmp_path):
    """Every token is recorded, so that each number follows from the table by its equation."""
    trainer = make_trl_trainer(tmp_path, num_iterations=2, max_steps=6)
    watch = analysis.watch(trainer, record=EVERYTHING, prefix="d/")
    trainer.train()
    records, seen = watch.records(), set()
    laws = watch.run.laws()
    for update, logged in enumerate(logs_of(trainer, "d/")):
        tokens = laws[laws["update"] == update]
        weight, advantage, entropy = tokens.weight.astype(float), tokens.advantage, tokens.entropy.astype(float)
        negative = weight < 0
        below = tokens.one_minus_prob > 1 - tokens.collision  # π_y < c
        rollouts = records["rollouts"][records["rollouts"]["step"] == update // 4]
        expected = {
            "entropy": entropy.mean(),
            "entropy_pos": entropy[advantage > 0].mean(),
            "entropy_neg": entropy[advantage < 0].mean(),
            "weight_pos": weight[weight > 0].sum(),
            "weight_neg": -weight[negative].sum(),
            "lambda": weight[weight > 0].sum() / -weight[negative].sum() if negative.any() else None,
            "dentropy_pos": tokens.dentropy[weight > 0].mean(),
            "dentropy_neg": tokens.dentropy[negative].mean(),
            "squeezed_neg": below[negative].mean(),
            "clip_low": (tokens["clip"] < 0).mean(),
            "clip_high": (tokens["clip"] > 0).mean(),
            "dead_groups": (rollouts.groupby("group").advantage.apply(lambda a: (a == 0).all())).mean(),
            "updates": update + 1,
            "grad_cos": records["updates"].grad_cos[update],
        }
        expected = {name: value for name, value in expected.items() if value is not None and not np.isnan(value)}
        assert set(logged) == set(expected)
        for name, value in expected.items():
            assert logged[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        seen |= set(logged)
    assert seen == set(SCALARS)


def test_clip_shares_are_trls_own_where_an_update_is_one_microbatch(tmp_path):
    trainer = make_trl_trainer(tmp_path, gradient_accumulation_steps=1, num_iterations=3, max_steps=9)
    analysis.watch(trainer)
    trainer.train()
    clipped = 0.0
    for log in history(trainer)[:-1]:
        for side in ("low", "high"):
            assert log[f"dynamics/clip_{side}"] == pytest.approx(log[f"clip_ratio/{side}_mean"], abs=1e-7)
            clipped += log[f"dynamics/clip_{side}"]
        assert log["dynamics/entropy"] == pytest.approx(log["entropy"], rel=1e-6)
    assert clipped > 0


@pytest.mark.parametrize("rows", ["keep", "drop"])
def test_an_objective_is_watched(rows, tmp_path):
    """PSR: w = r·π/π_old over the divisor; rows that it drops are in no loss, and empty steps are skipped updates."""
    trainer = make_trainer(tmp_path, "psr", rows=rows, parameters={"form": "ratio"}, num_iterations=2, max_steps=8)
    watch = analysis.watch(trainer, record=RecordSpec(tokens=1.0))
    trainer.train()
    records = watch.records()
    tokens, rollouts, updates = records["tokens"], records["rollouts"], records["updates"]
    assert watch.run.info["label"] == "psr-ratio"
    assert (rollouts.dropped == ((rollouts.reward == 0) & (rows == "drop"))).all()
    assert set(tokens.rollout) == set(rollouts.rollout[~rollouts.dropped])
    weighed = tokens[tokens.advantage != 0].merge(updates[["update", "normalizer"]], on="update")
    expected = weighed.ratio * (weighed["clip"] == 0) / weighed.normalizer
    assert np.allclose(weighed.weight, expected, rtol=2e-5, atol=1e-9)
    assert (tokens.weight[tokens.advantage == 0] == 0).all()
    assert updates.skipped.any() == (rows == "drop")
    assert watch.updates == int((~updates.skipped).sum())


class WithTools(KINDS["grpo"][0]):  # type: ignore[misc]
    """A trainer whose second token of each response was written by a tool."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        output["tool_mask"] = torch.ones_like(output["completion_mask"])
        output["tool_mask"][:, 1] = 0
        return output


def test_tokens_of_tools_are_not_the_policys(tmp_path):
    trainer = make_trl_trainer(tmp_path, trainer_class=WithTools, loss_type="bnpo")
    watch = analysis.watch(trainer, record=RecordSpec(tokens=1.0))
    trainer.train()
    records = watch.records()
    assert 1 not in set(records["tokens"].position)
    assert {0, 2} <= set(records["tokens"].position)
    ids = records["rollouts"].response_ids.map(len)
    assert (records["rollouts"].length == ids - (ids > 1)).all()


def test_the_loss_of_a_subclass_has_no_clip_that_is_known(tmp_path):
    class Own(KINDS["grpo"][0]):  # type: ignore[misc]
        def _compute_loss(self, model, inputs):
            return 2 * super()._compute_loss(model, inputs)

    trainer = make_trl_trainer(tmp_path, trainer_class=Own)
    watch = analysis.watch(trainer, record=RecordSpec(tokens=1.0))
    trainer.train()
    records = watch.records()
    assert records["tokens"]["clip"].isna().all()
    assert records["updates"].clip_low_pos.isna().all()
    assert "clip_low" not in logs_of(trainer)[0]
    first = records["tokens"][records["tokens"]["update"] == 0].merge(records["updates"], on="update")
    assert np.allclose(first.weight, 2 * first.advantage / first.normalizer, rtol=1e-5)


class Scaler:
    """What accelerate uses of a GradScaler: the loss is multiplied before the backward pass."""

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def get_scale(self) -> float:
        return self._scale

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss * self._scale

    def step(self, optimizer: torch.optim.Optimizer, closure: Any = None) -> None:
        if np.isfinite(self._scale):
            optimizer.step()

    def update(self) -> None:
        """The scale stays."""


@pytest.mark.parametrize("scale", [1024.0, float("inf")])
def test_the_scale_of_mixed_precision_is_undone(scale, tmp_path):
    """A scale that overflows gives no finite weight: no self-check then, and the other numbers are still logged."""
    weights = []
    for scaler in (None, Scaler(scale)):
        trainer = make_trl_trainer(tmp_path, max_steps=1)
        trainer.accelerator.scaler = scaler
        watch = analysis.watch(trainer, record=RecordSpec(tokens=1.0))
        trainer.train()
        weights.append(watch.records()["tokens"].weight.to_numpy())
        assert "dynamics/entropy" in history(trainer)[0]
    if np.isfinite(scale):
        assert np.array_equal(weights[0], weights[1])  # a power of two rounds nothing
    else:
        assert not np.isfinite(weights[1]).any()
        assert watch.records()["updates"].skipped.tolist() == [True]


def test_a_head_that_no_process_holds_is_refused(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    head = trainer.model.lm_head
    head.weight = torch.nn.Parameter(torch.empty(0))  # as DeepSpeed ZeRO-3 leaves it
    with pytest.raises(UsageError, match=r"got an empty one, as DeepSpeed ZeRO-3 leaves it"):
        analysis.watch(trainer)
