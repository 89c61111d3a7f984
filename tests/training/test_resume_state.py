"""What a run keeps to resume from, and how often: `record.state_every`, and the reference that is loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.recipes import Recipe, RunConfig
from analysis.records import digest, load_trace
from analysis.training.loop import Loop
from toy_models.tasks.file_task import DataFiles

NAMED = {"run_id": "r", "label": "L"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small random model with a tokenizer of bytes, as a folder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.offline.byte_models import byte_tokenizer

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def config_of(model: Path, **changes: Any) -> RunConfig:
    data = model.parent / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i} ", "answer": "a"}) + "\n" for i in range(40)))
    assert DataFiles(str(data))
    settings: dict[str, Any] = {
        "grid": "unset",
        "steps": 6,
        "policy.base": str(model),
        "task.name": "file",
        "task.train_file": str(data),
        "task.train_prompts": 8,
        "objective.name": "reinforce",
        "objective.kl_coef": 0.1,
        "update.rows": "keep",
        "rollout.prompts": 4,
        "rollout.max_new_tokens": 3,
        "eval.prompts": 1,
        "eval.final_prompts": 1,
        "record.chunk": 1,
        "record.contexts": 0,
        "record.checkpoint": "none",
    }
    (planned,) = Recipe.load("tiny").set(**settings | changes).expand()
    return planned.config


class Killed(BaseException):
    pass


def killed_after(config: RunConfig, folder: Path, steps: int) -> None:
    """A run that ends without a word after so many steps."""

    def report(event: dict[str, Any]) -> None:
        if event["phase"] == "rollout" and event["step"] == steps:
            raise Killed

    with pytest.raises(Killed):
        Loop(config, folder, report=report, **NAMED).run()


@pytest.mark.parametrize(("every", "begins"), [(1, 4), (3, 2), (0, 0), (100, 0)])
def test_a_killed_run_resumes_from_the_last_state(model: Path, tmp_path: Path, every: int, begins: int) -> None:
    """Commits are at 0, 1, 2, …: with every = 3 the first state is that of the third of them, at step 2."""
    config = config_of(model, **{"record.state_every": every})
    whole = Loop(config, tmp_path / "whole", **NAMED)
    assert whole.run() == "complete"
    killed_after(config, tmp_path / "parts", 4)
    states = list((tmp_path / "parts" / "state").iterdir())
    assert [path.name for path in states] == ([f"{begins:06d}.pt"] if begins or every == 1 else [])
    assert load_trace(tmp_path / "parts").committed_step == 4  # the records of all steps can be read
    resumed = Loop(config, tmp_path / "parts", resume=True, **NAMED)
    assert resumed.position.step == begins
    assert resumed.run() == "complete"
    assert digest(load_trace(tmp_path / "parts")) == digest(load_trace(tmp_path / "whole"))
    assert not list((tmp_path / "parts" / "state").iterdir())


def test_a_stop_writes_the_state(model: Path, tmp_path: Path) -> None:
    config = config_of(model, **{"record.state_every": 100})
    stops = iter([False, False, True])
    assert Loop(config, tmp_path / "run", should_stop=lambda: next(stops), **NAMED).run() == "interrupted"
    assert Loop(config, tmp_path / "run", resume=True, **NAMED).position.step == 3


def test_the_reference_is_loaded_again_and_not_stored(model: Path, tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    config = config_of(model)
    killed_after(config, tmp_path / "run", 3)
    step, state = Loop(config, tmp_path / "run", resume=True, **NAMED).writer.resume_state() or (0, {})
    assert step == 3
    assert "reference" not in state
    resumed = Loop(config, tmp_path / "run", resume=True, **NAMED)
    base = GPT2LMHeadModel.from_pretrained(model).state_dict()
    assert resumed.reference is not None
    assert all(torch.equal(value, base[name]) for name, value in resumed.reference.state_dict().items())
    assert not torch.equal(
        resumed.policy.model.transformer.h[0].mlp.c_fc.weight, base["transformer.h.0.mlp.c_fc.weight"]
    )
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    info["base_sha256"] = "0" * 64  # a built-in base that was pretrained again on another machine, say
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match=r"policy.base: expected the weights that the run started from .* got others"):
        Loop(config, tmp_path / "run", resume=True, **NAMED)


def test_checkpoint_in_words() -> None:
    recipe = Recipe.load("tiny")
    for word, value in (("none", False), ("final", True), (False, False), (True, True)):
        assert all(run.config.record.checkpoint is value for run in recipe.set(**{"record.checkpoint": word}).expand())
    assert recipe.set(**{"record.checkpoint": "final"}).hash == recipe.hash
    with pytest.raises(UsageError, match=r"record.checkpoint: expected true or false, got"):
        recipe.set(**{"record.checkpoint": "all"}).expand()
