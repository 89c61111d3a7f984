"""The recipes of the paper's runs that need no verl: the data in verl's layout, and the runs with TRL."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

from analysis.errors import UsageError

FOLDER = Path(__file__).parents[2] / "recipes" / "full_scale"
ASKED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def script(name: str) -> ModuleType:
    """A script of the folder as a module; it is in no package."""
    spec = importlib.util.spec_from_file_location(f"full_scale_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


prepare_data, trl_run = script("prepare_data"), script("trl_run")


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


MATH = [
    {"problem": "Half of 1?", "solution": r"It is $\boxed{\frac{1}{2}}$.", "level": "Level 1", "type": "Algebra"},
    {"problem": "3²?", "solution": r"so $3 \cdot 3 = \boxed 9$.", "level": "Level 1", "type": "Algebra"},
    {"problem": "How many?", "solution": r"There are $\boxed{}$.", "level": "Level 2", "type": "Number Theory"},
    {"problem": "Half of 1?", "solution": r"First \boxed{2}, no: \boxed{0.5}", "level": "Level 1", "type": "Algebra"},
]


def prepared(tmp_path: Path, rows: Sequence[dict[str, Any]], *more: str) -> list[dict[str, Any]]:
    out = tmp_path / "data" / "train.parquet"
    assert prepare_data.main([lines(tmp_path / "rows.jsonl", rows), "--out", str(out), *more]) == 0
    rows = pq.read_table(out).to_pylist()
    return list(rows)


def test_math_in_the_layout_of_verl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    rows = prepared(tmp_path, MATH, "--name", "TianHongZXY/MATH")
    assert [row["reward_model"] for row in rows] == [
        {"style": "rule", "ground_truth": answer} for answer in (r"\frac{1}{2}", "9", "0.5")
    ]
    assert rows[0]["prompt"] == [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Half of 1?" + ASKED},
    ]
    assert rows[2]["extra_info"] == {"split": "train", "index": 3, "level": "Level 1", "type": "Algebra"}
    assert {row["data_source"] for row in rows} == {"TianHongZXY/MATH"}
    said = capsys.readouterr().out
    assert "3 prompts of 4 rows" in said
    assert "left out, without an answer: 1" in said
    assert "questions that came before: 1" in said
    assert "answers that math-verify cannot read: 0" in said


def test_an_answer_that_cannot_be_read_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    prepared(tmp_path, [{"problem": "1+1?", "answer": "2"}, {"problem": "Which?", "answer": r"\text{}"}])
    said = capsys.readouterr().out
    assert "answers that math-verify cannot read: 1" in said
    assert "'\\\\text{}'  of  'Which?'" in said


def test_answers_and_the_files_of_the_fork(tmp_path: Path) -> None:
    truths = [
        {"question": "1+1?", "target": "27"},  # AMC
        {"question": "1+1?", "target": "2,3,{}4", "solution": r"\boxed{2, 3, \text{ and } 4}"},  # MATH
    ]
    rows = [
        {"prompt": [{"role": "user", "content": "1+1?"}], "reward_model": {"ground_truth": truth}} for truth in truths
    ]
    rows.append({"problem": "2+2?", "answer": 4})  # AIME, whose answers are numbers
    answers = [row["reward_model"]["ground_truth"] for row in prepared(tmp_path, rows, "--no-check", "--split", "test")]
    assert answers == ["27", r"2, 3, \text{ and } 4", "4"]


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([{"question": "1+1?", "label": "2"}], [], "got the columns question, label; rename them"),
        ([{"problem": "1+1?", "solution": "two"}], [], "expected problems with an answer, got none in 1 rows"),
        ([{"problem": "1+1?", "answer": "2"}], ["--workers", "0"], "--workers: expected a number of processes ≥ 1"),
        ([{"problem": "1+1?", "answer": "2"}], ["--out", "data.json"], "--out: expected a file that ends in .parquet"),
    ],
)
def test_what_cannot_be_prepared_is_one_message(
    rows: list[dict[str, Any]], more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path / "rows.jsonl", rows)
    assert prepare_data.main([source, "--out", str(tmp_path / "out.parquet"), "--no-check", *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("model", trl_run.MODELS)
@pytest.mark.parametrize("method", trl_run.METHODS)
def test_a_run_with_trl_has_the_sizes_of_the_paper(model: str, method: str, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    scale = trl_run.Scale(rows=trl_run.MODELS[model], processes=8)
    config = trl_run.config_of(model, method, scale, tmp_path, bf16=False, use_cpu=True)
    rows = config.per_device_train_batch_size * scale.processes
    assert rows * config.steps_per_generation == 1024 * 8
    assert rows * config.gradient_accumulation_steps == 256 * 8
    assert config.max_steps == 20 * (7500 // 1024) * 4
    assert (config.beta > 0) == (method == "grpo")
    assert scale.rows * config.vllm_max_model_length <= 32_768
    assert config.max_completion_length == {"qwen2.5-math-7b": 3072, "qwen3-4b": 31744}[model]
    assert "<|im_start|>assistant" in trl_run.setting(model, "actor_rollout_ref.model.custom_chat_template")


def test_accelerate_reads_its_configuration() -> None:
    cluster = pytest.importorskip("accelerate.commands.config.config_args", reason="accelerate is not installed")
    config = cluster.load_config_from_file(str(FOLDER / "accelerate_fsdp2.yaml"))
    assert (config.num_processes, config.mixed_precision, config.distributed_type.value) == (8, "bf16", "FSDP")
    assert config.fsdp_config["fsdp_version"] == 2


def test_rows_that_do_not_divide_a_batch_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--model", "qwen3-4b", "--method", "nsr", "--out", str(tmp_path), "--rows", "0"]
    assert trl_run.main(command) == 2
    assert "--rows: expected a whole number from 1, got 0" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"--rows: expected rows · processes that divide the 2048 rows of minibatch"):
        _ = trl_run.Scale(rows=3).accumulation


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nsr", "w_reinforce", "grpo"])
def test_a_run_with_trl_trains_and_is_watched(method: str, tmp_path: Path) -> None:
    """The functions of the script from end to end, with a random model and a scale of two prompts."""
    pytest.importorskip("trl", reason="trl is not installed")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import analysis
    from tests.offline.byte_models import byte_tokenizer

    tokenizer = byte_tokenizer(trl_run.setting("qwen2.5-math-7b", "actor_rollout_ref.model.custom_chat_template"))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, initializer_range=0.3)).save_pretrained(
        tmp_path / "model"
    )
    rows = [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(4)]
    prepare_data.main([lines(tmp_path / "rows.jsonl", rows), "--out", str(tmp_path / "d.parquet"), "--no-check"])
    data = trl_run.prompts_of(tmp_path / "d.parquet", tokenizer)
    assert len(data) == 4
    assert len(trl_run.prompts_of(tmp_path / "d.parquet", tokenizer, longest=1024)[0]["prompt"]) == 2
    with pytest.raises(UsageError, match="expected prompts of at most 5 tokens, got none"):
        trl_run.prompts_of(tmp_path / "d.parquet", tokenizer, longest=5)
    scale = trl_run.Scale(prompts=2, rollouts=4, minibatch=1, batches=2, rows=4)
    small = {"use_cpu": True, "bf16": False, "use_vllm": False, "gradient_checkpointing": False, "disable_tqdm": True}
    small |= {"max_completion_length": 5, "save_strategy": "no"}
    config = trl_run.config_of("qwen2.5-math-7b", method, scale, tmp_path, **small)

    def reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        assert set(answer) <= {"1", "2", "3", "4"}
        return [float(place % 2) for place in range(len(completions))]

    trainer = trl_run.make_trainer(
        method, str(tmp_path / "model"), tokenizer, config, data, tmp_path / "records", reward=reward, tokens=1
    )
    trainer.train()
    run = analysis.load_trace(tmp_path / "records")
    assert (len(run.table("steps")), len(run.table("updates"))) == (2, 4)
    assert run.table("rollouts")["correct"].notna().all()
    assert len(run.table("tokens")) > 0


def test_the_reward_of_trl_is_math_verify() -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    reward = trl_run.MathReward(workers=1)
    said = [[{"role": "assistant", "content": text}] for text in (r"\boxed{0.5}", r"\boxed{2}", "nothing")]
    assert reward(said, [r"\frac12"] * 3, prompts=[]) == [1.0, 0.0, 0.0]
    reward._verifier.close()
