"""Held-out contexts and the gradients of the two signs under `watch`, against passes of the test's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError
from tests.reference.trl_losses import Setting, clipped

from .objective_runs import make_model
from .watched_runs import Parameters, make_trl_trainer


def trained(folder: Any, spec: RecordSpec, panel: Any = None, **config: Any) -> tuple[Any, Any, list[Any]]:
    trainer = make_trl_trainer(folder, **config)
    parameters = Parameters()
    trainer.add_callback(parameters)
    watch = analysis.watch(trainer, record=spec, panel=panel)
    trainer.train()
    return trainer, watch, [*parameters.before, parameters.last]


@pytest.mark.parametrize("given", [False, True])
def test_flows_of_the_panel_are_those_between_the_parameters(given, tmp_path):
    spec = RecordSpec(contexts=12, contexts_every=2)
    panel = ["3 5 7", "11 4"] if given else None
    _, watch, parameters = trained(tmp_path, spec, panel, max_steps=4, temperature=0.7)
    records = watch.records()
    contexts, flows = records["contexts"].set_index("context"), records["flows"]
    assert sorted(flows["update"].unique()) == [0, 2]
    assert (contexts["kind"] == "panel").all()
    assert set(contexts["prompt_id"]) <= set(records["prompts"]["prompt_id"])
    if given:
        assert (records["prompts"].split == "validation").sum() == 2
    else:
        assert set(contexts["sign"]) == {-1, 1}
    model = make_model().double()
    for _, row in flows.iterrows():
        context = contexts.loc[row.context]
        log_probs = []
        for state in (parameters[row["update"]], parameters[row["update"] + 1]):
            model.load_state_dict(state)
            with torch.no_grad():
                logits = model(torch.tensor([context.prefix_ids.tolist()])).logits[0, -1] / 0.7
            log_probs.append(logits.log_softmax(-1).numpy())
        for side, values in zip(("before", "after"), log_probs, strict=True):
            assert row[f"log_prob_{side}"] == pytest.approx(values[context.token], abs=5e-6)
            assert row[f"entropy_{side}"] == pytest.approx(-(np.exp(values) * values).sum(), abs=5e-6)
        step = parameters[row["update"]], parameters[row["update"] + 1]
        log_prob, entropy = _slopes(*step, context, 0.7)
        assert row["jvp_dlog_prob"] == pytest.approx(log_prob, rel=5e-6, abs=5e-6)  # rounding of float32 parameters
        assert row["jvp_dentropy"] == pytest.approx(entropy, rel=5e-6, abs=5e-6)
    assert (flows["tv"] > 0).any()
    assert flows["jvp_dlog_prob"].abs().max() > 1e-3


def _slopes(before: Any, after: Any, context: Any, temperature: float) -> tuple[float, float]:
    """Slopes of log π_y and H along the parameter step: reverse-mode gradients times the step."""
    model = make_model().double()
    model.load_state_dict(before)
    values = (model(torch.tensor([context.prefix_ids.tolist()])).logits[0, -1] / temperature).log_softmax(-1)
    parameters = dict(model.named_parameters())
    found = []
    for quantity in (values[context.token], -(values.exp() * values).sum()):
        gradients = torch.autograd.grad(quantity, list(parameters.values()), retain_graph=True)
        steps = (after[name].double() - before[name].double() for name in parameters)
        found.append(sum(float((one * step).sum()) for one, step in zip(gradients, steps, strict=True)))
    return found[0], found[1]


def test_the_panel_changes_nothing(tmp_path):
    """Its passes draw no random number, and leave every module in training mode."""
    runs = []
    for spec in (RecordSpec(), RecordSpec(contexts=12, grad_cos_every=1)):
        model = make_model()
        model.model.layers[0].self_attn.attention_dropout = 0.1
        trainer, _, parameters = trained(tmp_path, spec, model=model, max_steps=3)
        assert all(module.training for module in trainer.model.modules())
        runs.append(parameters[-1])
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_gradients_of_the_signs_are_those_of_the_loss_written_out(beta, tmp_path):
    config = {"loss_type": "dr_grpo", "max_grad_norm": 1e9, "beta": beta, "num_iterations": 2, "max_steps": 3}
    model = make_model(tmp_path / "base") if beta else make_model()
    spec = RecordSpec(tokens=1.0, grad_cos_every=1)
    trainer, watch, parameters = trained(tmp_path, spec, model=model, **config)
    records = watch.records()
    rollouts = records["rollouts"].set_index(["step", "rollout"])
    prompts = records["prompts"].set_index("prompt_id").token_ids
    for _, update in records["updates"].iterrows():
        tokens = records["tokens"][records["tokens"]["update"] == update["update"]]
        model = make_model().double()
        model.load_state_dict(parameters[int(update["update"])])
        losses: list[Any] = [torch.zeros((), dtype=torch.float64)] * 2
        for number, part in tokens.groupby("rollout"):
            rollout = rollouts.loc[(int(update["step"]), number)]
            prompt, response = prompts[rollout.prompt_id].tolist(), rollout.response_ids.tolist()
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            log_probs = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]
            ratio = (log_probs - torch.tensor(part.old_log_prob.to_numpy(dtype=np.float64))).exp()
            loss = clipped(ratio, float(rollout.advantage), Setting("dr_grpo")).sum() / (8 * 5)
            place = 0 if rollout.advantage > 0 else 1
            losses[place] = losses[place] + loss
        first, second = (
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])
            for loss in losses
        )
        assert update.grad_norm_pos == pytest.approx(float(first.norm()), rel=1e-4)
        assert update.grad_norm_neg == pytest.approx(float(second.norm()), rel=1e-4)
        assert update.grad_cos == pytest.approx(float(first @ second / first.norm() / second.norm()), abs=1e-4)
        if beta == 0:
            assert update.grad_norm_total == pytest.approx(float((first + second).norm()), rel=1e-4)
    logged = [log["dynamics/grad_cos"] for log in trainer.state.log_history if "dynamics/grad_cos" in log]
    assert logged == records["updates"].grad_cos.tolist()


def test_prompts_without_contexts_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"panel: expected prompts and record=RecordSpec\(contexts=…\) above 0, got 1"):
        analysis.watch(make_trl_trainer(tmp_path), panel=["3 4"])
