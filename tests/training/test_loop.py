"""Whole runs on the tiny base: what is trained, what is recorded, and that the one does not depend on the other."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from analysis.errors import UsageError
from analysis.recipes import Recipe
from analysis.records import RunWriter, digest, load_trace
from analysis.records.schema import SHARES
from analysis.training.loop import Loop, train
from toy_models import get_task, load_policy

pytestmark = pytest.mark.filterwarnings("ignore:.*force_all_finite.*")


def tiny(method: str = "PSR", **changes):
    """The RunConfig of one method of the tiny recipe with some fields set."""
    recipe = Recipe.load("tiny").set(**changes) if changes else Recipe.load("tiny")
    return next(run.config for run in recipe.expand() if run.label == method)


SMALL = {
    "record.jvp_every": 2,
    "record.shares_every": 1,
    "steps": 4,
    "eval.prompts": 4,
    "eval.final_prompts": 6,
    "record.chunk": 2,
    "rollout.prompts": 8,
}


def go(folder, config, **options):
    assert train(config, folder, run_id="r", label="L", **options) == "complete"
    return load_trace(folder)


def final_weights(run):
    return load_policy(str(run.folder / "checkpoints" / "final")).model.state_dict()


def same_weights(a, b):
    x, y = final_weights(a), final_weights(b)
    return all(torch.equal(x[name], y[name]) for name in x)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One run under the settings of SMALL, and its folder."""
    return go(tmp_path_factory.mktemp("plain") / "run", tiny(**SMALL))


METHODS = {"psr": {}, "nsr": {}, "w-reinforce": {"objective.lambda": 0.1}, "reinforce": {}, "grpo": {}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"), [*itertools.product(METHODS, ["ratio"]), ("psr", "probability"), ("nsr", "probability")]
)
def test_measured_weight_is_the_closed_form_on_every_update(tmp_path, name, form):
    settings = {
        "grid": "unset",
        "objective.name": name,
        "objective.form": form,
        "update.epochs": 2,
        "optimizer.lr": 5e-3,
        "steps": 2,
        **METHODS[name],
        "eval.prompts": 2,
        "eval.final_prompts": 2,
        "rollout.prompts": 8,
    }
    config = Recipe.load("tiny").set(**settings).expand()[0].config
    loop = Loop(config, tmp_path / "run", run_id="r", label="L")
    seen = {"updates": 0, "clipped": 0}

    def look(index, batch, targets, result):
        seen["updates"] += 1
        for one in result.passes:
            scale = one.closed_form[one.mask].abs().max().item()
            torch.testing.assert_close(one.weights[one.mask], one.closed_form[one.mask], rtol=1e-5, atol=1e-6 * scale)
            seen["clipped"] += int((one.clip[one.mask] != 0).sum())
        if result.skipped:  # a step of lr 5e-3 can leave no correct response for PSR
            return
        norms = result.grad_norm
        assert norms["total"] <= norms.get("pos", 0) + norms.get("neg", 0) + 1e-6

    loop.on_update = look
    assert loop.run() == "complete"
    assert seen["updates"] == 2 * 2 * 2
    assert seen["clipped"] > 0


@pytest.mark.slow
def test_same_seed_same_records_other_seed_other_records(plain, tmp_path):
    again = go(tmp_path / "again", tiny(**SMALL))
    assert digest(again.folder) == digest(plain.folder)
    assert same_weights(plain, again)
    other = go(tmp_path / "other", tiny(**{**SMALL, "seed": 1}))
    assert digest(other.folder) != digest(plain.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"record.tokens": 0.0, "record.contexts": 0},
        {"record.tokens": 1.0, "record.contexts_every": 1, "record.jvp_every": 1, "record.top_k": 3},
        {"eval.every": 1, "eval.samples": 7, "eval.temperatures": [1.0, 0.3]},
        {"record.chunk": 1},
    ],
    ids=["nothing recorded", "more recorded", "more evaluated", "more commits"],
)
def test_what_is_measured_changes_no_parameter_by_a_bit(plain, tmp_path, changes):
    assert same_weights(plain, go(tmp_path / "run", tiny(**{**SMALL, **changes})))


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_interrupted_and_resumed_gives_the_same_records(plain, tmp_path, stop_after):
    asked = itertools.count(1)
    config = tiny(**SMALL)
    status = train(config, tmp_path / "run", run_id="r", label="L", should_stop=lambda: next(asked) >= stop_after)
    assert status == "interrupted"
    assert load_trace(tmp_path / "run").status == "interrupted"
    resumed = go(tmp_path / "run", config, resume=True)
    assert digest(resumed.folder) == digest(plain.folder)
    assert same_weights(plain, resumed)


@pytest.mark.slow
def test_crash_between_commits_goes_back_to_the_last_one(plain, tmp_path, monkeypatch):
    config = tiny(**SMALL)
    calls = itertools.count(1)
    original = Loop._one_step

    def crash(self):
        if next(calls) == 4:
            raise RuntimeError("power cut")
        original(self)

    monkeypatch.setattr(Loop, "_one_step", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "run", run_id="r", label="L")
    monkeypatch.setattr(Loop, "_one_step", original)
    assert digest(go(tmp_path / "run", config, resume=True).folder) == digest(plain.folder)


@pytest.mark.slow
def test_tables_agree_with_each_other(plain):
    tokens, updates = plain.table("tokens"), plain.table("updates")
    rollouts, steps, evals = plain.table("rollouts"), plain.table("steps"), plain.table("evals")
    assert list(steps.step) == [0, 1, 2, 3]
    assert list(updates["update"]) == list(range(8))
    assert (rollouts.groupby("step").correct.mean() == steps.set_index("step").correct_ratio).all()
    assert set(evals.step) == {0, 3, 4}
    assert (rollouts.dropped == ~rollouts.correct).all()
    merged = tokens.merge(rollouts, on=["step", "rollout"])
    assert len(merged) == len(tokens)
    assert merged.correct.all()
    assert all(row.response_ids[row.position] == row.token for row in merged.itertuples())
    # the first update of a step is on-policy: the sampler's own log-prob, up to float32 batching differences
    first = tokens[tokens.minibatch == 0]
    assert np.abs(first.ratio - 1).max() == 0
    assert np.abs(first.log_prob - first.sampling_log_prob).max() < 1e-4
    # Σ of weights is that of a token mean over positive rows with A = 1: mean ratio of the unclipped ones, so about one
    assert updates.weight_sum_pos.between(0.8, 1.2).all()
    assert updates[["rows_neg", "tokens_neg"]].eq(0).all(axis=None)


@pytest.mark.slow
def test_panel_and_batch_contexts(plain):
    contexts, flows = plain.table("contexts").set_index("context"), plain.table("flows")
    kinds = contexts.kind.loc[flows.context].to_numpy()
    panel, batch = flows[kinds == "panel"], flows[kinds == "batch"]
    assert panel.groupby("update").size().nunique() == 1
    assert panel.weight.isna().all()
    assert set(contexts.sign.loc[batch.context]) == {-1, 1}
    negative = contexts.sign.loc[batch.context].to_numpy() < 0
    assert (batch.weight[negative] == 0).all()  # PSR dropped them
    assert (batch.weight[~negative] > 0).any()
    # after one update is before the next
    by = panel.set_index(["context", "update"]).sort_index()
    after = by.log_prob_after.groupby("context").shift(1)
    assert (after.dropna() == by.log_prob_before[after.notna()]).all()
    with_jvp = flows[flows.jvp_dlog_prob.notna()]
    assert set(with_jvp["update"]) == {0, 4}  # every second time that there are contexts of the update
    realised = with_jvp.log_prob_after - with_jvp.log_prob_before
    assert np.corrcoef(realised, with_jvp.jvp_dlog_prob)[0, 1] > 0.9


def shares(run, column):
    flows = run.table("flows")
    seen = flows[flows[f"{column}_shares"].notna()]
    return seen["update"].to_numpy(), np.stack(seen[f"{column}_shares"]).astype(float), seen[column].to_numpy(float)


@pytest.mark.slow
def test_shares_sum_to_the_jvp_and_stand_under_their_source(plain, tmp_path):
    settings = {
        **SMALL,
        "record.jvp_every": 1,
        "record.shares_every": 2,
        "optimizer.weight_decay": 0.1,
        "objective.name": "reinforce",
        "objective.entropy_coef": 0.01,
        "update.rows": "keep",
        "grid": "unset",
    }
    both = go(tmp_path / "both", Recipe.load("tiny").set(**settings).expand()[0].config)
    present = {
        id(plain): {"pos_now", "pos_past"},
        id(both): set(SHARES) - {"decay_past"},
    }
    for run, updates in ((plain, {0, 4}), (both, {0, 4})):
        for column in ("jvp_dlog_prob", "jvp_dentropy"):
            at, parts, whole = shares(run, column)
            assert set(at) == updates
            # parts and whole are each exact to float32 of the largest of them, through the model's own rounding
            scale = np.abs(parts).sum(1).max()
            np.testing.assert_allclose(parts.sum(1), whole, rtol=0, atol=1e-5 * scale)
            assert {name for i, name in enumerate(SHARES) if parts[:, i].any()} == present[id(run)]
            past = [i for i, name in enumerate(SHARES) if name.endswith("past")]
            assert not parts[at == 0][:, past].any()
            assert np.abs(parts[at == 4][:, past]).sum() > 0


@pytest.mark.slow
def test_shares_change_no_other_column(plain, tmp_path):
    without = go(tmp_path / "run", tiny(**{**SMALL, "record.shares_every": 0})).table("flows")
    assert without[["jvp_dlog_prob_shares", "jvp_dentropy_shares"]].isna().all(axis=None)
    flows = plain.table("flows")
    for name in flows.columns.drop(["jvp_dlog_prob_shares", "jvp_dentropy_shares"]):
        assert flows[name].astype(str).equals(without[name].astype(str)), name


@pytest.mark.slow
def test_dropping_rows_is_invisible_when_the_normaliser_counts_them_out(tmp_path):
    """PSR on kept rows, divided by the selected tokens, makes the gradients of PSR on dropped rows (one minibatch)."""
    same = {"update.minibatches": 1, "objective.clip_low": "unset", "objective.clip_high": "unset", **SMALL, "steps": 2}
    drop = go(tmp_path / "drop", tiny(**same, **{"update.rows": "drop"}))
    keep = go(tmp_path / "keep", tiny(**same, **{"update.rows": "keep", "update.normalizer": "selected_tokens"}))
    a, b = drop.table("updates"), keep.table("updates")
    np.testing.assert_allclose(a.grad_norm_pos, b.grad_norm_pos, rtol=1e-5)
    assert (b.grad_norm_neg == 0).all()
    assert (b.rows_neg > 0).all()


@pytest.mark.slow
def test_verifier_noise_flips_rewards_not_verdicts(tmp_path):
    config = tiny(**{**SMALL, "steps": 3, "task.false_negative": 1.0, "task.false_positive": 0.5})
    rollouts = go(tmp_path / "run", config).table("rollouts")
    assert (rollouts.reward[rollouts.correct] == 0).all()
    wrong = rollouts[~rollouts.correct]
    assert 0.25 < wrong.reward.mean() < 0.75  # ± 4 standard errors at n ≈ 70
    assert (rollouts.noise_flipped == (rollouts.reward != rollouts.correct)).all()


@pytest.mark.slow
def test_divergence_is_a_status_with_its_reason(tmp_path):
    config = tiny(**{**SMALL, "optimizer.lr": 1e30, "optimizer.max_grad_norm": "unset"})
    events = []
    assert train(config, tmp_path / "run", run_id="r", label="L", report=events.append) == "diverged"
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "diverged"
    assert "update" in info["error"]
    assert events[-1]["phase"] == "diverged"
    assert len(load_trace(tmp_path / "run").table("updates")) >= 1


@pytest.mark.slow
def test_killed_right_after_the_commit_of_a_divergence(tmp_path, monkeypatch):
    """What is committed then is a policy that cannot train further; resumed, the run ends as it would have."""
    config = tiny(**{**SMALL, "optimizer.lr": 1e30, "optimizer.max_grad_norm": "unset"})
    assert train(config, tmp_path / "whole", run_id="r", label="L") == "diverged"

    class Killed(BaseException):
        pass

    def kill(self, **fields):
        if "error" in fields:
            raise Killed
        original(self, **fields)

    original = RunWriter.update_run_json
    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "update_run_json", kill)
        with pytest.raises(Killed):
            train(config, tmp_path / "run", run_id="r", label="L")
    assert load_trace(tmp_path / "run").status == "running"
    assert train(config, tmp_path / "run", run_id="r", label="L", resume=True) == "diverged"
    ended, whole = load_trace(tmp_path / "run"), load_trace(tmp_path / "whole")
    assert (ended.status, ended.info["error"]) == ("diverged", whole.info["error"])
    assert digest(ended) == digest(whole)


@pytest.mark.slow
def test_exact_estimator_takes_the_gradient_of_the_success_probability(tmp_path):
    """One SGD step of the exact estimator against p_x summed over solutions, each by its own forward pass."""
    settings = {
        **SMALL,
        "steps": 1,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.5,
        "optimizer.max_grad_norm": "unset",
        "update.estimator": "exact",
        "update.normalizer": "constant",
        "update.constant": 10.0,
        "update.minibatches": "unset",
        "update.rows": "keep",
        "policy.dtype": "float64",
    }
    for name in ("PSR", "NSR"):
        config = tiny(name, **settings)
        loop = Loop(config, tmp_path / name, run_id="r", label="L")
        before = {k: v.clone() for k, v in loop.policy.model.state_dict().items()}
        assert loop.run() == "complete"
        trained = loop.policy.model
        policy = load_policy("tiny", dtype=torch.float64)
        task = get_task(config.task.name, policy.tokenizer)
        drawn = set(load_trace(tmp_path / name).table("rollouts").prompt_id)
        prompts = [p for p in task.prompts("train") if p.prompt_id in drawn]
        total = torch.zeros((), dtype=torch.float64)
        for prompt in prompts:
            for solution in task.solutions(prompt.ids):
                ids = torch.tensor([[*prompt.ids, *solution]])
                laws = policy.model(ids).logits[0].log_softmax(-1)
                at = torch.arange(len(prompt.ids) - 1, ids.shape[1] - 1)
                total = total + laws[at, ids[0, len(prompt.ids) :]].sum().exp()
        n = len(prompts) * config.rollout.group_size
        (total / len(prompts) * n / 10.0).backward()
        for k, p in policy.model.named_parameters():
            step = trained.state_dict()[k] - before[k]
            # float32 inside the norms of this model: relative 1e-5 of the largest entry
            torch.testing.assert_close(step, 0.5 * p.grad, rtol=0, atol=1e-5 * float(p.grad.abs().max()) + 1e-12)


@pytest.mark.slow
def test_kl_as_reward_moves_advantages_and_as_loss_does_not(tmp_path):
    base = {**SMALL, "steps": 2, "record.tokens": 1.0, "objective.kl_coef": 0.5, "optimizer.lr": 5e-3}
    reward = go(
        tmp_path / "reward", tiny(**base, **{"objective.kl_placement": "reward", "objective.kl_estimator": "k1"})
    )
    loss = go(tmp_path / "loss", tiny(**base))
    shifted = reward.table("tokens")
    assert shifted.ref_log_prob.notna().all()
    last = shifted[shifted.step == 1]
    rows = (
        last.assign(k=last.old_log_prob - last.ref_log_prob)
        .groupby("rollout")
        .agg(k=("k", "sum"), a=("advantage", "first"))
    )
    np.testing.assert_allclose(rows.a, 1 - 0.5 * rows.k, rtol=0, atol=1e-5)
    assert rows.k.abs().max() > 1e-3
    assert shifted.kl_weight.isna().all()
    penalty = reward.table("updates").kl
    assert penalty[0] == 0  # the base itself
    assert penalty[2:].abs().gt(1e-6).all()
    assert (loss.table("tokens").advantage == 1).all()
    assert loss.table("updates").grad_norm_reg[1:].gt(0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"task.train_prompts": 100_000},
            r"task.train_prompts: expected at most \d+, the number of train prompts of task .*, got 100000",
        ),
        ({"device": "cuda"}, r"device: expected an available device, got cuda, but torch .* finds no CUDA device"),
    ],
)
def test_bad_input(tmp_path, change, message):
    if "device" in change and torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    with pytest.raises(ValueError, match=message):
        Loop(
            dataclasses.replace(
                tiny(**{k: v for k, v in change.items() if k != "device"}), device=change.get("device", "auto")
            ),
            tmp_path / "run",
            run_id="r",
            label="L",
        )


@pytest.mark.slow
def test_critic_resumes_with_its_state_and_learns(tmp_path):
    settings = {
        **SMALL,
        "grid": "unset",
        "objective.name": "reinforce",
        "critic.enabled": True,
        "critic.lr": 3e-3,
        "critic.whiten": True,
        "critic.clip": 0.2,
        "objective.kl_coef": 0.01,
        "objective.kl_placement": "reward",
        "update.epochs": 2,
        "update.rows": "keep",
    }
    config = Recipe.load("tiny").set(**settings).expand()[0].config
    whole = go(tmp_path / "whole", config)
    asked = itertools.count(1)
    train(config, tmp_path / "parts", run_id="r", label="L", should_stop=lambda: next(asked) >= 2)
    assert digest(go(tmp_path / "parts", config, resume=True).folder) == digest(whole.folder)
    assert same_weights(load_trace(tmp_path / "parts"), whole)
    losses = whole.table("updates").value_loss
    assert losses.notna().all()
    assert losses.iloc[0] == 0.5  # V = 0 and R = ±1
    assert losses.iloc[1:].min() < 0.45


def test_any_local_causal_lm_with_a_matching_tokenizer_takes_the_place_of_the_base(tmp_path):
    tokenizer = get_task("path-small").tokenizer
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=32,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path / "mine"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {**SMALL, "steps": 1, "policy.base": str(folder)}
    run = go(tmp_path / "run", tiny("NSR", **settings))
    assert run.table("updates").param_step_norm.gt(0).all()
    assert run.table("tokens").log_prob.lt(0).all()

    model.save_pretrained(tmp_path / "no-tokenizer")
    settings["policy.base"] = str(tmp_path / "no-tokenizer")
    with pytest.raises(UsageError, match=r"policy.base = .*tokenizer"):
        go(tmp_path / "run2", tiny("NSR", **settings))


@pytest.mark.slow
@pytest.mark.parametrize("contexts", [0, 8])
def test_parameters_that_are_not_finite_are_a_divergence(tmp_path, contexts):
    config = tiny(**{**SMALL, "record.contexts": contexts})
    loop = Loop(config, tmp_path / "run", run_id="r", label="L")
    with torch.no_grad():
        next(loop.policy.model.parameters()).fill_(torch.inf)
    loop._started = True  # so that the base's evaluation is not what notices
    assert loop.run() == "diverged"
    assert "step 0" in load_trace(tmp_path / "run").info["error"]


@pytest.mark.slow
def test_adaptive_entropy_and_a_teacher_resume(tmp_path):
    """The coefficient goes on where it was; a teacher of other weights makes another run."""
    policy = load_policy("tiny")
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.add_(0.1)
        policy.model.get_input_embeddings().weight.mul_(0.9)
    policy.save(tmp_path / "teacher")
    settings = {
        **SMALL,
        "grid": "unset",
        "objective.name": "opd",
        "objective.form": "unset",
        "objective.teacher": str(tmp_path / "teacher"),
        "objective.entropy_target": 0.5,
        "objective.entropy_coef": 0.01,
        "update.rows": "keep",
    }
    config = Recipe.load("tiny").set(**settings).expand()[0].config
    whole = go(tmp_path / "whole", config)
    asked = itertools.count(1)
    train(config, tmp_path / "parts", run_id="r", label="L", should_stop=lambda: next(asked) >= 2)
    shutil.copytree(tmp_path / "parts", tmp_path / "again")
    assert digest(go(tmp_path / "parts", config, resume=True).folder) == digest(whole.folder)
    assert whole.info["teacher_sha256"] != whole.info["base_sha256"]
    load_policy("tiny").save(tmp_path / "teacher")
    with pytest.raises(UsageError, match=r"hash: expected .* a run can only be resumed with what it was started with"):
        go(tmp_path / "again", config, resume=True)
