"""Verifiers that give numbers in training: rewards, signs, records, refusals, the summary, and tasks in texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import UsageError
from analysis.objectives import get
from analysis.recipes import Recipe
from analysis.recipes.score_rules import takes_scores
from analysis.records import load_trace
from analysis.records.hypothetical_weights import assumed_weights
from analysis.report import summarize
from analysis.report.page_file import write_report_page
from analysis.report.trace_data import reward_signs
from analysis.training import train
from analysis.training.judged import score_rewards
from tests.offline.byte_models import byte_tokenizer, small_model
from toy_models import Policy, Prompt, TextItem, Verdict
from toy_models.verifiers import VerifierError

# Half of the letters that a response could have had are right: scores 0, 0.5, 1 and above.
SCORES = """
def score(prompt, response, answer):
    return response.count(answer) / 2
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that says "1", "2" and its end token often."""
    tokenizer = byte_tokenizer()
    model = small_model(len(tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name:
                parameter.abs_()
            elif "layers" in name and parameter.ndim > 1:
                parameter.mul_(0.01)
        model.lm_head.weight.fill_(-1.0)
        model.lm_head.weight[[tokenizer.eos_token_id, *tokenizer.encode("12")]] = 0.0
    folder = tmp_path_factory.mktemp("base")
    Policy(model, tokenizer).save(folder)
    return folder


def recipe(folder: Path, base: Path, **settings: Any) -> Recipe:
    (folder / "rewards.py").write_text(SCORES)
    lines = [json.dumps({"prompt": f"{i}+{i}=", "answer": "1"}) for i in range(20)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    fields = {
        "grid": "unset",
        "steps": 2,
        "policy.base": str(base),
        "task.name": "file",
        "task.train_file": str(folder / "train.jsonl"),
        "task.verifier": f"{folder / 'rewards.py'}:score",
        "task.train_prompts": 4,
        "objective.name": "grpo",
        "objective.form": "unset",
        "rollout.prompts": 4,
        "rollout.group_size": 8,
        "rollout.max_new_tokens": 4,
        "update.rows": "keep",
        "eval.prompts": 1,
        "eval.final_prompts": 1,
        "eval.samples": 1,
        "record.tokens": 1.0,
        "record.contexts": 0,
        "record.checkpoint": False,
    }
    return Recipe.load("tiny").set(**{**fields, **settings})


def trained(folder: Path, base: Path, **settings: Any) -> Any:
    run = recipe(folder, base, **settings).expand()[0]
    assert train(run.config, folder / "run", run_id=run.run_id, label=run.label) == "complete"
    return load_trace(folder / "run")


def test_scores_are_rewards_and_the_verdict_is_the_sign(tmp_path: Path, base: Path) -> None:
    run = trained(tmp_path, base, **{"task.reward": "score", "task.threshold": 1.5})
    rollouts, tokens, updates = (run.table(name) for name in ("rollouts", "tokens", "updates"))
    texts = rollouts["response_text"].str.removesuffix("<eos>")
    assert rollouts["score"].tolist() == [text.count("1") / 2 for text in texts]
    assert rollouts["reward"].tolist() == rollouts["score"].tolist()
    assert rollouts["correct"].tolist() == (rollouts["score"] >= 1.5).tolist()
    assert {0.0, 0.5, 1.0, 1.5} <= set(rollouts["score"])
    for _, group in rollouts.groupby(["step", "group"]):  # GRPO of the scores, not of the verdicts
        expected = (group["score"] - group["score"].mean()) / (group["score"].std() + 1e-6)
        assert np.allclose(group["advantage"], expected, atol=1e-5)
    once = updates[updates["epoch"] == 0]
    assert once["rows_pos"].sum() == rollouts["correct"].sum() < (rollouts["reward"] > 0).sum()
    assert once["rows_neg"].sum() == (~rollouts["correct"]).sum()
    assert run.table("steps")["correct_ratio"].tolist() == rollouts.groupby("step")["correct"].mean().tolist()
    joined = tokens.merge(rollouts.drop(columns="advantage"), on=["step", "rollout"])
    assert (reward_signs(run, joined) == np.where(joined["correct"], 1, -1)).all()
    # an objective that knows verdicts alone is told the verdicts
    weights = assumed_weights(run, tokens, get("nsr", form="log")).numpy()
    right = tokens[["step", "rollout"]].merge(rollouts, on=["step", "rollout"])["correct"].to_numpy(bool)
    assert (weights == np.where(right, 0.0, -1.0)).all()


def test_verdicts_are_rewards_unless_scores_are_asked_for(tmp_path: Path, base: Path) -> None:
    run = trained(tmp_path, base, **{"task.threshold": 0.5, "steps": 1})
    rollouts = run.table("rollouts")
    assert rollouts["reward"].tolist() == (rollouts["score"] >= 0.5).astype(float).tolist()
    assert 0 < rollouts["correct"].sum() < len(rollouts)
    between = rollouts[(rollouts["score"] > 0) & (rollouts["score"] < 1)]
    (note,) = [note for note in summarize(run).notes if "strictly between" in note]
    assert f"{len(between)} of {len(rollouts)} recorded scores" in note
    assert f"{len(between)} of these (100.0%) count as correct (task.threshold = 0.5)" in note


def test_runs_without_scores_have_none(tmp_path: Path, base: Path) -> None:
    run = trained(tmp_path, base, **{"task.verifier": "exact", "steps": 1})
    assert run.table("rollouts")["score"].isna().all()
    assert not any("scores" in note for note in summarize(run).notes)


def test_errors_stop_the_run_or_count_as_zero(tmp_path: Path, base: Path) -> None:
    failing = SCORES + "    \n" + "def fails(prompt, response, answer):\n    return 1.0 if '1' in response else 1 / 0\n"
    (tmp_path / "own.py").write_text(failing)
    settings = {"task.verifier": f"{tmp_path / 'own.py'}:fails", "steps": 1}
    with pytest.raises(VerifierError, match=r"^train.jsonl line \d+: verifier .*fails failed with ZeroDivisionError"):
        trained(tmp_path, base, **settings)
    (tmp_path / "again").mkdir()
    run = trained(tmp_path / "again", base, **settings, **{"task.verifier_errors": "zero"})
    rollouts = run.table("rollouts")
    failed = rollouts["verdict"].str.startswith("not judged: the verifier failed with ZeroDivisionError")
    assert failed.tolist() == (~rollouts["response_text"].str.contains("1")).tolist()
    assert (rollouts["score"] == (~failed).astype(float)).all()
    (note,) = [note for note in summarize(run).notes if "the verifier failed" in note]
    assert f"failed on {failed.sum()} of {len(rollouts)} recorded responses" in note


def test_scores_that_are_not_finite_stop_the_run(tmp_path: Path, base: Path) -> None:
    (tmp_path / "own.py").write_text("def score(prompt, response, answer): return float('nan')")
    with pytest.raises(VerifierError, match=r"^train.jsonl line \d+: verifier .*expected a finite score, got nan"):
        trained(tmp_path, base, **{"task.verifier": f"{tmp_path / 'own.py'}:score"})
    prompt = Prompt("a", (1,), "2+2=", "train", None)
    with pytest.raises(UsageError, match=r"task\.reward: expected finite scores, got inf for .* the prompt '2\+2='"):
        score_rewards([Verdict(True, "", float("inf"))], [prompt])
    assert score_rewards([Verdict(True, ""), Verdict(False, "", 0.25)], [prompt] * 2).tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective.name": "psr", "objective.form": "ratio"}, r"it needs the sign of each response, correct or wrong"),
        (
            {"objective.name": "psr", "objective.form": "ratio", "objective.advantage": "group_mean"},
            r"it needs the sign of each response",
        ),
        ({"objective.name": "nsr-log"}, r"it needs the sign of each response, correct or wrong; choose grpo or rloo"),
        (
            {"objective.name": "w-reinforce", "objective.form": "log", "objective.lambda": 0.1},
            r"it needs the sign of each response",
        ),
        ({"objective.name": "reinforce-log"}, r"without a baseline the sign of A would be that of the score; set obj"),
        ({"objective.name": "nft"}, r"it needs the sign of each response"),
        ({"task.false_positive": 0.1}, r"verifier noise turns a 1 into a 0, which a score is not"),
        ({"task.verifier": "math"}, r"it says correct or wrong and gives no score"),
        ({"record.noise_every": 1}, r"record\.noise_every = 1: "),
    ],
)
def test_what_does_not_go_with_scores(tmp_path: Path, base: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(tmp_path, base, **{"task.reward": "score", **settings}).expand()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"task.threshold": 0.5, "task.verifier": "exact"},
            r"task\.threshold with task\.verifier = \"exact\": they are",
        ),
        ({"task.threshold": 0.5, "task.name": "path"}, r"task\.threshold with task\.name = \"path\""),
        ({"task.reward": "score", "task.name": "path"}, r"task\.reward with task\.name = \"path\""),
    ],
)
def test_what_only_functions_have(tmp_path: Path, base: Path, settings: dict[str, Any], message: str) -> None:
    unset = {"task.train_file": "unset", "task.verifier": "unset"} if "task.name" in settings else {}
    with pytest.raises(UsageError, match=message):
        recipe(tmp_path, base, **unset, **settings).expand()


def test_objectives_for_scores() -> None:
    entries = {name: get(name, **more).entry for name, more in (("grpo", {}), ("rloo", {}), ("remax", {}))}
    assert all(takes_scores(entry, "group_mean_std") for entry in entries.values())
    reinforce = get("reinforce", form="log").entry
    assert [takes_scores(reinforce, how) for how in ("none", "constant", "leave_one_out")] == [False, False, True]
    assert takes_scores(reinforce, "none", critic=True)


class Ones:
    """A task in texts: the fraction of a response that is "1"."""

    name = "ones"

    def items(self, split: str) -> Any:
        if split == "train":
            return [TextItem(f"item {i}", f"{i}+{i}=", "1") for i in range(20)]
        return None

    def score(self, item: TextItem, text: str) -> Any:
        return text.count(item.reference) / max(1, len(text))


def text_recipe(folder: Path, base: Path, **settings: Any) -> Recipe:
    gone = {"task.name": "given", "task.train_file": "unset", "task.verifier": "unset", "steps": 1}
    return recipe(folder, base, **{**gone, "name": "ones", **settings})


def test_a_task_in_texts_is_trained(tmp_path: Path, base: Path) -> None:
    made = text_recipe(tmp_path, base, **{"task.reward": "score"})
    run = next(iter(analysis.run(made, task=Ones(), out=tmp_path / "out", quiet=True).runs.values()))
    rollouts = run.table("rollouts")
    texts = rollouts["response_text"].str.removesuffix("<eos>")
    assert np.allclose(rollouts["score"], [text.count("1") / max(1, len(text)) for text in texts])
    assert run.info["task"] == "ones"
    assert run.info["texts"]["threshold"] == 1.0


class Listed(Ones):
    """Two texts are right, and they are listed."""

    def score(self, item: TextItem, text: str) -> Any:
        return text in ("1", "12")

    def solutions(self, item: TextItem) -> Any:
        return ["1", "12"]


@pytest.mark.slow
def test_a_task_that_lists_its_texts_is_evaluated_exactly(tmp_path: Path, base: Path) -> None:
    made = text_recipe(tmp_path, base, **{"eval.samples": 64, "eval.final_prompts": 2, "steps": 0})
    run = next(iter(analysis.run(made, task=Listed(), out=tmp_path / "out", quiet=True).runs.values()))
    evals, prompts = run.table("evals"), run.table("prompts")
    assert run.info["texts"]["solutions"] == "listed"
    assert evals["p"].between(0.01, 0.9).all()
    assert (prompts["n_solutions"].dropna() == 2).all()  # one end token, and each text has one encoding in bytes
    sampled = evals[evals["n"] > 0]
    rate, p = sampled["c"].sum() / sampled["n"].sum(), sampled["p"].mean()
    assert abs(rate - p) < 5 * np.sqrt(p * (1 - p) / sampled["n"].sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"objective.name": "remax"},
        {"objective.name": "reinforce", "objective.form": "log", "objective.advantage": "leave_one_out"},
        {"objective.name": "rloo", "objective.kl_coef": 0.1, "objective.kl_placement": "before_baseline"},
        {"objective.name": "reinforce", "objective.form": "log", "critic.enabled": True},
    ],
)
def test_objectives_are_trained_on_scores(tmp_path: Path, base: Path, settings: dict[str, Any]) -> None:
    unclipped = {"objective.clip_low": "unset", "objective.clip_high": "unset"}
    run = trained(tmp_path, base, **{**unclipped, "task.reward": "score", "steps": 1, **settings})
    rollouts = run.table("rollouts")
    if settings["objective.name"] == "remax":  # less one number for each prompt, the score of its greedy response
        greedy = (rollouts["score"] - rollouts["advantage"]).round(5)
        assert (greedy.groupby(rollouts["group"]).nunique() == 1).all()
        assert set(greedy) <= {0.0, 0.5, 1.0, 1.5, 2.0}
    if "objective.advantage" in settings:
        others = rollouts.groupby("group")["score"].transform("sum") - rollouts["score"]
        assert np.allclose(rollouts["advantage"], 2 * (rollouts["score"] - others / 7), atol=1e-5)
    write_report_page(run, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_task_in_texts_that_cannot_run(tmp_path: Path, base: Path) -> None:
    from analysis.training.user_objects import adopted

    def refused(task: Any, **settings: Any) -> Any:
        return adopted(text_recipe(tmp_path, base, **settings), {"task": task})

    with pytest.raises(UsageError, match=r'task\.name = "given" stands for a task object, got none; pass it with'):
        analysis.run(text_recipe(tmp_path, base), out=tmp_path / "out", quiet=True)
    with pytest.raises(UsageError, match=r"rollout\.max_new_tokens: expected the length of the longest response to"):
        refused(Ones(), **{"rollout.max_new_tokens": "unset"})
    broken = Ones()
    broken.score = lambda item, text: item.missing  # type: ignore[method-assign, attr-defined]
    with pytest.raises(UsageError, match=r"expected a score of an empty response to item 0, but it fails with Attrib"):
        refused(broken)
    broken.items = lambda split: ["text"]  # type: ignore[method-assign, assignment]
    with pytest.raises(UsageError, match=r"task\.items\('train'\): expected toy_models\.TextItem objects, got str"):
        refused(broken)
    from toy_models import get_task

    with pytest.raises(UsageError, match=r"task\.threshold: expected a task in texts .*, got .*Path.*, whose prompts"):
        refused(get_task("path-small"), **{"task.threshold": 0.5})
    first, again = refused(Ones()), refused(Ones())
    changed = Ones()
    changed.items = lambda split: [TextItem("a", "1+1=", "1")] if split == "train" else None  # type: ignore[method-assign]
    assert first.hash == again.hash != refused(changed).hash
