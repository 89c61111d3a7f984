"""`watch` on Trainers without rollouts: SFT, DPO, KTO and the plain one, against weights that are known in advance."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed")
from datasets import Dataset
from packaging.version import Version
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

import analysis
from analysis import RecordSpec, UsageError
from analysis.records import digest

from .objective_runs import make_model, make_tokenizer

SMOOTHING = pytest.mark.skipif(
    Version(version("trl")) < Version("1.16"), reason="SFTTrainer of this TRL fails with label smoothing by itself"
)
EVERY = RecordSpec(tokens=1, chunk=2)
PROMPTS = ["3 4 5", "6 7", "8", "9 10 11 12", "4 4", "5 6", "7 8 9", "10"]
GOOD = ["4", "5 6 7", "8 9", "3 3 3", "12", "11 10", "9", "8 8"]
BAD = ["5 5", "6", "7 8 9", "10 11", "12 3 4", "4", "5 6", "7"]
BETA = 0.2

DATA: dict[str, dict[str, list[Any]]] = {
    "sft": {"prompt": PROMPTS, "completion": [f" {text}" for text in GOOD]},
    "dpo": {"prompt": PROMPTS, "chosen": [f" {text}" for text in GOOD], "rejected": [f" {text}" for text in BAD]},
    "kto": {
        "prompt": PROMPTS,
        "completion": [f" {text}" for text in GOOD],
        "label": [True, False, True, True, False, True, False, False],
    },
}
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sft": (SFTTrainer, SFTConfig, {}),
    "dpo": (DPOTrainer, DPOConfig, {"beta": BETA}),
    "kto": (KTOTrainer, KTOConfig, {"beta": BETA}),
}


def make(folder: Path, kind: str, **config: Any) -> Any:
    trainer, config_class, own = KINDS[kind]
    usual = {
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    references = {} if kind == "sft" else {"ref_model": make_model()}
    args = config_class(**(usual | own | config))
    data = Dataset.from_dict(DATA[kind])
    return trainer(make_model(), args=args, train_dataset=data, processing_class=make_tokenizer(), **references)


def responses_of(run: Any) -> dict[str, list[str]]:
    """The recorded responses of each prompt, as texts without the end token."""
    prompts = run.table("prompts").set_index("prompt_id")["text"]
    out: dict[str, list[str]] = {}
    for name, text in run.table("rollouts")[["prompt_id", "response_text"]].itertuples(index=False):
        out.setdefault(prompts[name].replace("<s>", "").strip(), []).append(text.replace("</s>", "").strip())
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_first_update(kind, tmp_path):
    """Policy and reference are equal before it, so that the weights of DPO and KTO are the slope of their loss at 0."""
    trainer = make(tmp_path, kind, max_steps=1)
    analysis.watch(trainer, out=tmp_path / "run", record=EVERY)
    trainer.train()
    run = analysis.load_trace(tmp_path / "run", verify=True)
    assert (run.status, run.committed_step) == ("complete", 1)
    tokens, rollouts = run.table("tokens"), run.table("rollouts")
    assert rollouts["reward"].isna().all()
    known = {prompt: {good, bad} for prompt, good, bad in zip(PROMPTS, GOOD, BAD, strict=True)}
    for prompt, texts in responses_of(run).items():
        assert set(texts) <= known[prompt]
    assert len(tokens) == rollouts["length"].sum()
    if kind == "sft":  # the mean over the tokens of the update
        expected = np.full(len(tokens), 1 / len(tokens))
    else:
        texts = rollouts.set_index("rollout")["response_text"].str.replace("</s>", "").str.strip()
        prompts = run.table("prompts").set_index("prompt_id")["text"].str.replace("<s>", "").str.strip()
        asked = rollouts.set_index("rollout")["prompt_id"].map(prompts)
        if kind == "dpo":  # −log σ(βΔ), mean over the 4 pairs of the update
            good = {(prompt, text) for prompt, text in zip(PROMPTS, GOOD, strict=True)}
            slope = {True: BETA / 2 / 4, False: -BETA / 2 / 4}
        else:  # 1 − σ(±βr), mean over its 4 sequences
            labels = zip(PROMPTS, GOOD, DATA["kto"]["label"], strict=True)
            good = {(prompt, text) for prompt, text, label in labels if label}
            slope = {True: BETA / 4 / 4, False: -BETA / 4 / 4}
        expected = np.array([slope[(asked[number], texts[number]) in good] for number in tokens["rollout"]])
        assert (expected > 0).any()
        assert (expected < 0).any()
    np.testing.assert_allclose(tokens["weight"].to_numpy(dtype=float), expected, rtol=1e-4)
    assert len(run.laws()) == len(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_and_its_logs_say_more(kind, tmp_path):
    ends = []
    for watched in (False, True):
        trainer = make(tmp_path, kind)
        before = {name: vars(trainer).get(name) for name in ("train", "compute_loss", "log")}
        if watched:
            watch = analysis.watch(trainer, record=EVERY)
        trainer.train()
        assert {name: vars(trainer).get(name) for name in before} == before
        ends.append(([p.detach().clone() for p in trainer.model.parameters()], trainer.state.log_history))
    for plain, seen in zip(ends[0][0], ends[1][0], strict=True):
        assert torch.equal(plain, seen)
    for plain, seen in zip(ends[0][1], ends[1][1], strict=True):
        own = {name: value for name, value in seen.items() if not name.startswith("dynamics/")}
        timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
        assert {k: v for k, v in own.items() if k not in timed} == {k: v for k, v in plain.items() if k not in timed}
    assert watch.updates == 2
    tokens = watch.records()["tokens"]
    for number, logged in enumerate(entry for entry in ends[1][1] if "loss" in entry):
        rows = tokens[tokens["update"] == number]
        weight = rows["weight"].to_numpy(dtype=float)
        assert logged["dynamics/updates"] == number + 1
        assert logged["dynamics/entropy"] == pytest.approx(rows["entropy"].mean(), rel=1e-5)
        assert logged["dynamics/weight_pos"] == pytest.approx(weight[weight > 0].sum(), rel=1e-5)
        assert logged["dynamics/weight_neg"] == pytest.approx(-weight[weight < 0].sum(), rel=1e-5)
        assert ("dynamics/lambda" in logged) == bool((weight < 0).any())


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"label_smoothing_factor": 0.1}, marks=SMOOTHING),
        {"padding_free": True, "max_length": None},
        {"packing": True, "max_length": 16},
    ],
)
def test_prompts_are_never_responses(config, tmp_path):
    """Label smoothing calls the model without labels; packed rows hold several sequences."""
    trainer = make(tmp_path, "sft", max_steps=1, **config)
    watch = analysis.watch(trainer, out=tmp_path / "run", record=EVERY)
    trainer.train()
    known = dict(zip(PROMPTS, GOOD, strict=True))
    found = responses_of(watch.run)
    assert found
    for prompt, texts in found.items():
        assert set(texts) == {known[prompt]}


def test_a_plain_trainer_without_labels_is_refused_or_warned_of(tmp_path):
    class Own(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return model(input_ids=inputs["input_ids"]).logits.float().logsumexp(-1).mean()

    def make_own(**options: Any) -> Any:
        args = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, max_steps=2, save_strategy="no", report_to=[], disable_tqdm=True
        )
        return Own(make_model(), args=args, train_dataset=Dataset.from_dict({"input_ids": [[3, 4, 5]] * 8}))

    trainer = make_own()
    analysis.watch(trainer, record=EVERY)
    with pytest.raises(UsageError, match="trainer: expected labels or a completion_mask"):
        trainer.train()
    assert "train" not in vars(trainer)
    trainer = make_own()
    watch = analysis.watch(trainer, out=tmp_path / "run", record=EVERY, on_error="warn")
    with pytest.warns(UserWarning, match="recording ends at update 0, training goes on"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert (watch.updates, watch.run.status) == (0, "interrupted")


@pytest.mark.slow
def test_a_resumed_training_has_the_records_of_an_uninterrupted_one(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}

    class Stop(Exception):
        pass

    for name in ("whole", "parts"):
        trainer = make(tmp_path / name, "sft", **options)
        watch = analysis.watch(trainer, out=tmp_path / name / "run", record=RecordSpec(tokens=1, chunk=1))
        if name == "parts":
            plain = trainer.training_step

            def step(*args, trainer=trainer, plain=plain, **kwargs):
                if trainer.state.global_step == 3:
                    raise Stop
                return plain(*args, **kwargs)

            trainer.training_step = step
            with pytest.raises(Stop):
                trainer.train()
            assert (watch.run.status, watch.run.committed_step) == ("interrupted", 3)
            trainer = make(tmp_path / name, "sft", **options)
            watch = analysis.watch(trainer, out=tmp_path / name / "run", record=RecordSpec(tokens=1, chunk=1))
            trainer.train(resume_from_checkpoint=True)
        else:
            trainer.train()
        assert (watch.updates, watch.run.status) == (4, "complete")
    assert digest(tmp_path / "parts/run") == digest(tmp_path / "whole/run")


def test_what_cannot_be_watched(tmp_path):
    with pytest.raises(UsageError, match="trainer: expected a Trainer of transformers, got object without train"):
        analysis.watch(object())
    trainer = make(tmp_path, "sft", auto_find_batch_size=True)
    with pytest.raises(UsageError, match="trainer: expected a fixed batch size"):
        analysis.watch(trainer)
    trainer = make(tmp_path, "sft")
    with pytest.raises(UsageError, match="trainer: expected one of rollouts for correct= and panel=, got SFTTrainer"):
        analysis.watch(trainer, correct=0.5)
    with pytest.raises(UsageError, match="record: expected no held-out contexts"):
        analysis.watch(trainer, record=RecordSpec(contexts=3))
    with analysis.watch(trainer, record=EVERY) as watch:
        with pytest.raises(UsageError, match="is not watched, got one that another watch is on"):
            analysis.watch(trainer)
        with pytest.raises(UsageError, match="watch: expected a run that has started"):
            watch.records()
        with pytest.raises(UsageError, match="watch: expected a run folder, got records that stay in memory"):
            _ = watch.run
        assert "waiting" in repr(watch)
    assert "train" not in vars(trainer)


def test_the_mean_over_processes_and_the_scale_of_mixed_precision_are_undone(tmp_path):
    trainer = make(tmp_path, "sft")
    with analysis.watch(trainer, record=EVERY) as watch:
        assert watch._scale() == 1
        scaler = SimpleNamespace(get_scale=lambda: torch.tensor(8.0))
        watch._trainer = SimpleNamespace(accelerator=SimpleNamespace(num_processes=2, scaler=scaler))
        assert watch._scale() == 16
        watch._trainer = trainer
