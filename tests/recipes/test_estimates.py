"""Estimates of whole runs, as a dry run prints them: what they are made of, and that nothing is loaded for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import trace
from analysis.recipes import Recipe, RunConfig, plan
from analysis.recipes import devices as devices_module
from analysis.recipes.devices import CPU_CORE, GPUS, device_of
from analysis.recipes.estimates import estimate_run, step_seconds
from analysis.recipes.model_shape import model_shape, shape_of_config
from tests.offline.byte_models import byte_tokenizer

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
CONFIG |= {"num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300, "tie_word_embeddings": True}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of a model that has a configuration and a tokenizer of bytes, and no weights."""
    model = tmp_path / "model"
    byte_tokenizer().save_pretrained(model)
    (model / "config.json").write_text(json.dumps(CONFIG))
    rows = [{"prompt": "x" * (3 + i % 20), "answer": "a"} for i in range(60)] + [{"prompt": "y" * 37, "answer": "a"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.toml").write_text(
        """
schema = 1
steps = 10
device = "cpu"
policy.base = "model"
task.name = "file"
task.train_file = "prompts.jsonl"
task.train_prompts = 16
objective.name = "grpo"
optimizer.lr = 1e-6
rollout.prompts = 4
rollout.max_new_tokens = 11
eval.prompts = 1
eval.final_prompts = 1
record.contexts = 0
"""
    )
    return tmp_path / "mine.toml"


def config_of(path: Path, **changes: Any) -> RunConfig:
    (run,) = Recipe.load(path).set(**changes).expand()
    return run.config


def test_prompts_are_counted_with_the_tokenizer(recipe: Path) -> None:
    estimate = estimate_run(config_of(recipe))
    assert estimate is not None
    assert (estimate.prompt, estimate.response, estimate.assumed) == (37, 11, "")
    assert estimate.device == "CPU core"
    (recipe.parent / "model" / "tokenizer.json").unlink()
    guessed = estimate_run(config_of(recipe))
    assert guessed is not None
    assert (guessed.prompt, guessed.assumed) == (256, "the length of prompts is assumed")


def test_built_in_bases_and_unknown_models_have_none(recipe: Path) -> None:
    assert plan(Recipe.load("tiny")).estimates == (None, None)
    (recipe.parent / "model" / "config.json").write_text('{"model_type": "mystery"}')
    planned = plan(Recipe.load(recipe))
    assert planned.estimates == (None,)
    assert planned.cost == "unknown: it depends on the model"


def test_a_dry_run_says_memory_disk_and_time(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace.main(["--run", str(recipe), "--dry-run"]) == 0
    lines = {line.split(maxsplit=1)[0]: line for line in capsys.readouterr().out.splitlines() if line[:1].strip()}
    assert "on CPU core by a count of operations, with responses of 11 tokens" in lines["cost"]
    assert lines["memory"].endswith("for prompts of up to 37 tokens and responses of up to 11")
    assert "to resume from, twice that while it is written" in lines["disk"]
    assert trace.main(["--run", str(recipe), "--dry-run", "--json"]) == 0
    (estimate,) = json.loads(capsys.readouterr().out)["estimates"]
    assert estimate["memory_bytes"] == sum(estimate["memory_parts"].values()) + max(estimate["memory_phases"].values())
    assert estimate["prompt_tokens"] == 37


def test_an_estimate_loads_no_torch(recipe: Path) -> None:
    program = (
        "import sys\nfrom analysis.recipes import Recipe, plan\n"
        f"assert plan(Recipe.load({str(recipe)!r})).estimates[0].memory.peak > 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_time_follows_the_work(recipe: Path) -> None:
    shape = shape_of_config(CONFIG)
    assert shape is not None

    def seconds(**changes: Any) -> float:
        return step_seconds(config_of(recipe, **changes), shape, CPU_CORE, 37, 11)

    assert seconds(**{"rollout.prompts": 8}) == pytest.approx(2 * seconds(), rel=0.3)
    assert seconds(**{"update.epochs": 2}) > 1.3 * seconds()
    assert seconds(**{"update.gradient_checkpointing": True}) > 1.1 * seconds()
    assert seconds(**{"update.shared_prompts": True}) < 0.8 * seconds()
    assert seconds(threads=2) < 0.7 * seconds()
    assert seconds(**{"record.contexts": 16}) > seconds()


def test_a_forward_pass_is_two_operations_a_weight(recipe: Path) -> None:
    """One epoch of an update is three of them on every token, the head on responses alone, with long prompts."""
    shape = model_shape("Qwen/Qwen2.5-1.5B")
    assert shape is not None
    gpu = next(gpu for gpu in GPUS if gpu.name == "H100")
    config = config_of(recipe, **{"rollout.group_size": 2, "rollout.prompts": 1, "update.autocast": "bfloat16"})
    prompt = 100_000
    found = step_seconds(config, shape, gpu, prompt, 1) * gpu.flops["bfloat16"]
    attention = 2 * shape.layers * shape.query * prompt
    # three passes over both rows, and one of sampling over the prompt that they share
    assert found == pytest.approx(7 * prompt * (2 * shape.body + attention), rel=0.05)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "_driver_list", lambda: ("NVIDIA H100 80GB HBM3", "Unheard Of 1"))
    assert device_of("cpu") is CPU_CORE
    for name in ("auto", "cuda", "cuda:0"):
        device = device_of(name)
        assert device is not None
        assert device.name == "H100"
    assert device_of("cuda:1") is None
    assert device_of("cuda:2") is None
    monkeypatch.setattr(devices_module, "_driver_list", lambda: ())
    assert device_of("auto") is CPU_CORE
    assert device_of("cuda") is None
