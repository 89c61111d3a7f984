"""The coefficient of the entropy bonus follows the entropy, by hand and as TRL's trainer has it."""

from __future__ import annotations

import pytest
import torch

from analysis.recipes.fields import ObjectiveFields
from analysis.training.entropy_control import AdaptiveEntropy
from analysis.training.targets import fix_targets
from analysis.training.update import Updater
from tests.objectives.peers import trl_peer
from tests.training.naive_update import make_config, make_updater, random_batch, random_policy

FIELDS = ObjectiveFields(
    entropy_coef=0.1, entropy_target=1.0, entropy_coef_delta=0.04, entropy_coef_min=0.05, entropy_coef_max=0.17
)
ENTROPIES = (0.9, 0.5, 1.0, 0.2, 1.1, 3.0, 2.0, 2.0, 0.1)


def test_by_hand() -> None:
    control = AdaptiveEntropy(FIELDS)
    applied, coefficients = [], []
    for entropy in ENTROPIES:
        applied.append(control.applied)
        control.observe(entropy)
        coefficients.append(control.coefficient)
    assert coefficients == pytest.approx([0.14, 0.17, 0.17, 0.17, 0.13, 0.09, 0.05, 0.05, 0.09])
    assert applied == pytest.approx([0.0, 0.14, 0.17, 0.17, 0.17, 0.0, 0.0, 0.0, 0.0])
    again = AdaptiveEntropy(FIELDS)
    again.load_state_dict(control.state_dict())
    assert again.applied == control.applied == pytest.approx(0.09)


@pytest.mark.slow
def test_as_in_trl() -> None:
    """The gradient of TRL's loss in the entropies is minus the coefficient over the tokens, update after update."""
    control = AdaptiveEntropy(FIELDS)
    log_probs = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    state = {"entropy_coef": FIELDS.entropy_coef, "_last_world_entropy": float("inf")}
    for entropy in ENTROPIES:
        entropies = torch.full((2, 3), entropy, dtype=torch.float64, requires_grad=True)
        stub: dict[str, object] = {}
        loss = trl_peer.grpo_loss(
            log_probs,
            None,
            torch.ones(2, dtype=torch.float64),
            torch.ones(2, 3, dtype=torch.bool),
            entropies=entropies,
            attributes=state,
            after=stub,
            loss_type="bnpo",
            use_adaptive_entropy=True,
            entropy_target=FIELDS.entropy_target,
            entropy_coef=FIELDS.entropy_coef,
            entropy_coef_delta=FIELDS.entropy_coef_delta,
            entropy_coef_min=FIELDS.entropy_coef_min,
            entropy_coef_max=FIELDS.entropy_coef_max,
        )
        (gradient,) = torch.autograd.grad(loss, entropies, allow_unused=True)
        theirs = 0.0 if gradient is None else -6 * float(gradient[0, 0])
        assert control.applied == pytest.approx(theirs, abs=1e-12)
        control.observe(entropy)
        state = {name: stub[name] for name in state}
        assert control.coefficient == pytest.approx(state["entropy_coef"])


@pytest.mark.parametrize("target", [0.1, 2.5])
def test_the_coefficient_follows_the_entropy_of_each_update(target: float) -> None:
    """The weights of the bonus are the controlled coefficient over the tokens; the entropies are the policy's."""
    fields = {"name": "reinforce", "entropy_coef": 0.1, "entropy_target": target, "entropy_coef_delta": 0.5}
    config = make_config(objective=fields | {"entropy_coef_max": 0.8, "entropy_coef_min": 0.05})
    plain = make_updater(config, random_policy(0))
    control = AdaptiveEntropy(config.objective)
    updater = Updater(plain.runner, plain.optimizer, config.update, entropy=control)
    batch = random_batch(updater.objective)
    rows, tokens = torch.arange(len(batch)), int(batch.lengths.sum())
    coefficients, applied = [], []
    for _ in range(3):
        applied.append(control.applied)
        result = updater.apply(batch, fix_targets(batch, [[rows]], updater, None), rows, None, "update")
        coefficients.append(control.coefficient)
        logits = [one.logits[one.mask] for one in result.passes]
        entropy = torch.cat([torch.distributions.Categorical(logits=z).entropy() for z in logits]).mean()
        assert control.state_dict()["last"] == pytest.approx(float(entropy), rel=1e-9)
        assert 0.1 < entropy < 2.5
        for one in result.passes:
            if applied[-1] == 0:
                assert one.entropy_weights is None
            else:
                assert one.entropy_weights is not None
                expected = torch.full_like(one.log_probs, applied[-1] / tokens)
                torch.testing.assert_close(one.entropy_weights[one.mask], expected[one.mask])
    low = target == 0.1
    assert coefficients == pytest.approx([0.05] * 3 if low else [0.6, 0.8, 0.8])
    assert applied == pytest.approx([0.0] * 3 if low else [0.0, 0.6, 0.8])
