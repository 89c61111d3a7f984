"""The training loop on a policy with a LoRA adapter: what moves, what is recorded, and what resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.probes import jvp_step
from analysis.recipes import Recipe, plan
from analysis.records import digest, load_trace
from analysis.training import loop, train
from analysis.training.setup import load_policy_and_task
from tests.training.test_foreign_models import path_base
from toy_models import load_policy

SETTINGS: dict[str, Any] = {
    "steps": 3,
    "policy.dtype": "float64",
    "policy.lora.r": 2,
    "policy.lora.targets": ["q_proj", "down_proj"],
    "task.train_prompts": 4,
    "task.false_positive": 0.5,  # a random model has no other rewards
    "rollout.prompts": 4,
    "rollout.group_size": 4,
    "optimizer.lr": 1e-3,
    "eval.prompts": 2,
    "eval.final_prompts": 2,
    "eval.samples": 1,
    "record.contexts": 4,
    "record.contexts_every": 1,
    "record.jvp_every": 1,
    "record.shares_every": 1,
    "record.chunk": 1,
}
NOISE = {"record__noise_every": 2, "record__noise_prompts": 2, "record__noise_replicates": 3}


def recipe_on(base: Path, **fields: Any) -> Recipe:
    """A run of the task path-small with an adapter; dotted fields with a double underscore."""
    changes = {"policy.base": str(base)} | {name.replace("__", "."): value for name, value in fields.items()}
    return Recipe.load("tiny").set(**SETTINGS | changes)


def loop_of(recipe: Recipe, folder: Path, *, resume: bool = False, stop: bool = False) -> loop.Loop:
    run = recipe.expand()[0]
    return loop.Loop(run.config, folder, run_id=run.run_id, label=run.label, resume=resume, should_stop=lambda: stop)


@pytest.mark.slow
def test_an_adapter_is_trained_recorded_and_resumed(tmp_path: Path) -> None:
    base = path_base(tmp_path / "base")
    recipe = recipe_on(base, objective__kl_coef=0.1, rollout__refresh_every=2, optimizer__max_grad_norm=1.0, **NOISE)
    whole = loop_of(recipe, tmp_path / "whole")
    frozen = {n: p.clone() for n, p in whole.policy.model.named_parameters() if not p.requires_grad}
    moves: list[float] = []
    before = {n: p.detach().clone() for n, p in whole.policy.model.named_parameters() if p.requires_grad}
    drift: list[float] = []

    def look(*_: object) -> None:
        now = {n: p.detach() for n, p in whole.policy.model.named_parameters() if p.requires_grad}
        moves.append(torch.cat([(now[n] - before[n]).flatten() for n in now]).norm().item())
        before.update({n: p.clone() for n, p in now.items()})
        assert whole.reference is not None
        start = load_policy(base, dtype=torch.float64).model
        ids = torch.tensor([[3, 4, 5]])
        with torch.no_grad():
            drift.append((whole.reference(ids).logits - start(ids).logits).abs().max().item())

    whole.on_update = look
    assert whole.run() == "complete"
    named = dict(whole.policy.model.named_parameters())
    assert all(torch.equal(named[name], value) for name, value in frozen.items())
    assert max(drift) == 0.0  # the reference of the KL is the base throughout
    trace = load_trace(tmp_path / "whole")
    updates = trace.table("updates")
    assert updates["param_step_norm"].tolist() == pytest.approx(moves, rel=1e-12)
    assert min(moves) > 0
    flows = trace.table("flows")
    realised, predicted = flows["log_prob_after"] - flows["log_prob_before"], flows["jvp_dlog_prob"]
    assert realised.abs().max() > 1e-4
    assert 1 - (realised - predicted).pow(2).sum() / realised.pow(2).sum() > 0.99
    parts = flows["jvp_dlog_prob_shares"].map(sum)
    assert (parts - predicted).abs().max() < 1e-6
    assert len(trace.table("noise"))

    assert loop_of(recipe, tmp_path / "resumed", stop=True).run() == "interrupted"
    state = loop_of(recipe, tmp_path / "resumed", resume=True)
    assert set(state.trained.state_dict()) == set(before)
    assert state.run() == "complete"
    assert digest(load_trace(tmp_path / "resumed")) == digest(trace)

    final = tmp_path / "whole/checkpoints/final"
    assert (final / "adapter_model.safetensors").is_file()
    assert not (final / "model.safetensors").exists()
    again = load_policy(final, dtype=torch.float64)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.allclose(again.model(ids).logits, whole.policy.model(ids).logits, rtol=0, atol=1e-10)


def test_the_jvp_of_an_adapter_s_step_is_exact_to_first_order(tmp_path: Path) -> None:
    """The remainder of a first-order prediction falls with the square of the step: slope 2."""
    config = recipe_on(path_base(tmp_path / "base")).expand()[0].config
    policy, _ = load_policy_and_task(config, torch.device("cpu"))
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.values():  # B at zero would make the step of A have no effect
            parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    direction = {n: torch.randn(p.shape, dtype=torch.float64, generator=generator) for n, p in trained.items()}

    def logits() -> torch.Tensor:
        result: torch.Tensor = policy.model(torch.tensor([[3, 4, 5, 6]])).logits
        return result

    with torch.no_grad():
        start = logits()
    sizes, remainders = (1e-2, 1e-3), []  # norms of Llama compute in float32: below, rounding of 3e-6 is all
    for size in sizes:
        step = {name: size * value for name, value in direction.items()}
        predicted = jvp_step(policy.model, logits, {}, step)
        with torch.no_grad():
            for name, value in step.items():
                trained[name] += value
            remainders.append((logits() - start - predicted).norm().item())
            for name, value in step.items():
                trained[name] -= value
    slope = torch.tensor(remainders).log().diff() / torch.tensor(sizes).log().diff()
    assert 1.9 < slope.item() < 2.1


@pytest.mark.slow
def test_a_critic_and_a_sampler_of_another_dtype_go_with_an_adapter(tmp_path: Path) -> None:
    recipe = recipe_on(
        path_base(tmp_path / "base"),
        grid="unset",
        objective__name="reinforce-ratio",
        objective__form="unset",
        critic__enabled=True,
        update__rows="keep",
        rollout__dtype="float32",
        steps=2,
    )
    whole = loop_of(recipe, tmp_path / "run")
    copied = whole.sampler.current(0)
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in whole.policy.model.parameters()} == {torch.float64}
    assert whole.run() == "complete"
    assert load_trace(tmp_path / "run").table("updates")["param_step_norm"].gt(0).all()


@pytest.mark.slow
def test_an_adapter_as_the_base_is_its_model_with_all_weights_trained(tmp_path: Path) -> None:
    recipe = recipe_on(path_base(tmp_path / "base"), steps=1)
    assert loop_of(recipe, tmp_path / "first").run() == "complete"
    final = tmp_path / "first/checkpoints/final"
    more = recipe_on(final, steps=1, policy__lora__r="unset", policy__lora__targets="unset")
    assert plan(more).runs
    before = more.hash
    second = loop_of(more, tmp_path / "second")
    assert all(parameter.requires_grad for parameter in second.policy.model.parameters())
    assert second.run() == "complete"
    assert (tmp_path / "second/checkpoints/final/model.safetensors").is_file()
    config = json.loads((tmp_path / "base/generation_config.json").read_text())
    (tmp_path / "base/generation_config.json").write_text(json.dumps(config | {"max_length": 7}))
    assert more.hash != before  # the base of an adapter counts, too


def test_a_frozen_base_must_be_the_same_on_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = path_base(tmp_path / "base")
    recipe = recipe_on(base, steps=2, record__contexts=0)
    assert loop_of(recipe, tmp_path / "run", stop=True).run() == "interrupted"
    monkeypatch.setattr("analysis.training.setup.weights_hash", lambda model: "other")
    with pytest.raises(UsageError, match=r"expected the weights that the run started from .* part of the policy, got"):
        loop_of(recipe, tmp_path / "run", resume=True)


def test_settings_of_an_adapter_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Recipe.load("tiny")
    with pytest.raises(UsageError, match=r"policy\.lora\.alpha and policy\.lora\.targets without policy\.lora\.r"):
        tiny.set(**{"policy.lora.alpha": 4.0, "policy.lora.targets": ["q_proj"]})
    with pytest.raises(UsageError, match=r"policy\.lora\.r with policy\.base = \"given\": an adapter is saved with"):
        tiny.set(**{"policy.base": "given", "policy.digest": "x", "policy.lora.r": 2})
    with pytest.raises(UsageError, match=r"policy\.lora\.targets: expected a list of strings, got \[3\]"):
        tiny.set(**{"policy.lora.r": 2, "policy.lora.targets": [3]})
    assert tiny.set(**{"policy.lora.r": 2}).hash != tiny.set(**{"policy.lora.r": 3}).hash != tiny.hash
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"policy\.lora\.r = 2: expected the package peft"):
        plan(tiny.set(**{"policy.lora.r": 2}))


def test_targets_that_the_model_lacks_are_refused_before_the_run(tmp_path: Path) -> None:
    recipe = recipe_on(path_base(tmp_path / "base"), policy__lora__targets=["query"])
    run = recipe.expand()[0]
    with pytest.raises(UsageError, match=r"policy\.base = .*lora targets: expected names of linear layers .*got query"):
        train(run.config, tmp_path / "run", run_id=run.run_id, label=run.label)


def test_an_adapter_has_the_settings_of_the_recipe(tmp_path: Path) -> None:
    base = path_base(tmp_path / "base")
    config = recipe_on(base, policy__lora__alpha=3.0).expand()[0].config
    policy, _ = load_policy_and_task(config, torch.device("cpu"))
    settings = policy.model.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.target_modules) == (2, 3.0, {"q_proj", "down_proj"})
    layer = policy.model.model.layers[0].mlp.down_proj
    assert (layer.lora_A["default"].weight.shape[0], layer.scaling["default"]) == (2, 1.5)
    other = recipe_on(base, policy__lora__targets="unset", policy__seed=1).expand()[0].config
    policy, _ = load_policy_and_task(other, torch.device("cpu"))
    assert policy.model.model.layers[0].mlp.down_proj.scaling["default"] == 2.0  # alpha is 2 r where it is unset
    assert policy.model.model.layers[0].self_attn.k_proj.r["default"] == 2
    assert not torch.equal(
        policy.model.model.layers[0].mlp.down_proj.lora_A["default"].weight, layer.lora_A["default"].weight
    )


@pytest.mark.slow
def test_passes_that_save_memory_give_the_same_gradients_of_an_adapter(tmp_path: Path) -> None:
    base = path_base(tmp_path / "base")

    def gradients(**fields: Any) -> torch.Tensor:
        recipe = recipe_on(base, steps=1, record__contexts=0, record__checkpoint=False, eval__samples=0, **fields)
        seen: list[torch.Tensor] = []
        made = loop_of(recipe, tmp_path / f"run{len(list(tmp_path.iterdir()))}")

        def look(*arguments: Any) -> None:
            seen.append(torch.cat([g.flatten() for source in arguments[-1].gradients.values() for g in source]))

        made.on_update = look
        assert made.run() == "complete"
        return seen[0]

    plain = gradients()
    assert plain.norm() > 0
    switches = ("gradient_checkpointing", True), ("logits", "streamed"), ("shared_prompts", True), ("micro_batch", 3)
    for name, value in switches:
        # Norms of Llama compute in float32, which bounds how alike sums in another order are.
        assert torch.allclose(gradients(**{f"update__{name}": value}), plain, rtol=1e-4, atol=1e-6), name


@pytest.mark.slow
def test_an_adapter_in_bfloat16_steps_by_its_float32_copy(tmp_path: Path) -> None:
    base = path_base(tmp_path / "base")
    recipe = recipe_on(base, policy__dtype="bfloat16", objective__kl_coef=0.1, optimizer__lr=1e-5, record__contexts=0)
    made = loop_of(recipe, tmp_path / "run")
    assert made.reference is not None
    assert made.reference.model.embed_tokens.weight is made.policy.model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in made.policy.model.parameters()} == {torch.bfloat16}
    assert made.masters is not None
    assert len(made.masters.values) == sum(parameter.requires_grad for parameter in made.policy.model.parameters())
    assert made.run() == "complete"
    assert load_trace(tmp_path / "run").table("updates")["param_step_norm"].gt(0).all()
    assert (tmp_path / "run/checkpoints/final/adapter_model.safetensors").is_file()
