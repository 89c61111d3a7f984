"""`ObjectiveTrainer` under the settings of a real training: resumed, with LoRA, checkpointed layers, bf16, two ranks.

Weights are compared as in `test_objective_trainer`, by closed forms in float64 at TRL's own log-probs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from . import objective_ranks
from .objective_runs import make_model, make_trainer, observed
from .objective_weights import TOLERANCE, Snapshots, compare, same

ROOT = Path(__file__).parents[2]
W_REINFORCE = {"objective": "w-reinforce", "parameters": {"form": "ratio", "lambda_": 0.1}}
# of parameters of size 1 after three steps of that size, whose float32 gradients are sums in another order; a row that
# counts twice, or on the wrong rank, moves them by 1e-2
ROUNDING = 1e-5


def parameters_of(trainer: Any) -> dict[str, Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# -- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "config"),
    [
        ("keep", {"steps_per_generation": 2}),
        ("keep", {"steps_per_generation": 2, "num_iterations": 2}),
        ("drop", {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2}),
    ],
    ids=["keep", "keep, 2 iterations", "drop, 2 accumulated, 2 iterations"],
)
def test_a_resumed_training_ends_as_an_uninterrupted_one(rows: str, config: dict[str, Any], tmp_path: Path) -> None:
    def trainer(folder: Path) -> Any:
        return make_trainer(
            folder,
            **W_REINFORCE if rows == "keep" else {"objective": "nsr", "parameters": {"form": "probability"}},
            rows=rows,
            per_device_train_batch_size=8 // config["steps_per_generation"] * 2,
            weight_decay=0.1,
            save_strategy="steps",
            save_steps=4,
            **config,
        )

    whole = trainer(tmp_path)
    whole.train()
    resumed = trainer(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="resume_from_checkpoint")
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.state.global_step == 8
    assert equal(parameters_of(whole), parameters_of(resumed))
    assert not equal(parameters_of(whole), dict(make_model().named_parameters()))
    moments = [Snapshots().take(t.model, t.optimizer)[1] for t in (whole, resumed)]
    assert same(({}, moments[0]), ({}, moments[1]))
    logs = [{log["step"]: log.get("objective/loss") for log in t.state.log_history} for t in (whole, resumed)]
    assert logs[0] == logs[1]


def test_resuming_within_a_generation_batch_is_warned_of(tmp_path: Path) -> None:
    options: dict[str, Any] = {**W_REINFORCE, "save_strategy": "steps", "save_steps": 3}
    make_trainer(tmp_path, **options, max_steps=3).train()
    resumed = make_trainer(tmp_path, **options, max_steps=4)
    with pytest.warns(UserWarning, match=r"step 3 .* batch of 4 optimiser steps; .* multiple of 4"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


# -- adapters, checkpointing, precision ----------------------------------------------------------------------------


def lora() -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    return peft.LoraConfig(r=2, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("objective", "parameters", "rows"),
    [
        ("w-reinforce", {"form": "ratio", "lambda_": 0.1}, "keep"),
        ("nsr", {"form": "probability"}, "drop"),
        ("dro", {"tau": 0.1}, "keep"),  # reads a reference, which is the model without its adapter
    ],
)
def test_weights_with_lora(objective: str, parameters: dict[str, Any], rows: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        objective,
        parameters=parameters,
        rows=rows,
        peft_config=lora(),
        model=make_model(tmp_path / "base"),
        num_iterations=2,
        max_steps=8,
    )
    start = parameters_of(trainer)
    run = observed(trainer)
    assert compare(run, objective, parameters.get("form")) < TOLERANCE
    end = parameters_of(trainer)
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    if objective == "dro":
        assert trainer.ref_model is None  # the adapter is switched off instead
        gaps = [part.log_probs - part.inputs["ref_per_token_logps"] for part in run.parts if part.log_probs is not None]
        assert max(float(gap[part.mask].abs().max()) for gap, part in zip(gaps, run.parts, strict=True)) > 1e-3


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_change_nothing(reentrant: bool, tmp_path: Path) -> None:
    runs = {
        checkpointed: observed(
            make_trainer(
                tmp_path,
                **W_REINFORCE,
                num_iterations=2,
                max_steps=4,
                gradient_checkpointing=checkpointed,
                gradient_checkpointing_kwargs={"use_reentrant": reentrant},
            )
        )
        for checkpointed in (False, True)
    }
    assert runs[True].trainer.model.is_gradient_checkpointing
    assert compare(runs[True], "w-reinforce", "ratio") < TOLERANCE
    plain, checkpointed = (parameters_of(runs[key].trainer) for key in (False, True))
    assert equal(plain, checkpointed)


@pytest.mark.parametrize("loaded", [False, True], ids=["autocast", "bf16 parameters"])
def test_weights_in_bf16_are_exact_at_its_log_probs(loaded: bool, tmp_path: Path) -> None:
    """w is a function of TRL's log-probs, which bf16 rounds; w itself is computed in float32."""
    model = make_model().to(torch.bfloat16) if loaded else make_model()
    run = observed(
        make_trainer(tmp_path, **W_REINFORCE, model=model, bf16=True, num_iterations=2, max_steps=8, learning_rate=3e-2)
    )
    dtype = run.parts[0].log_probs.dtype  # type: ignore[union-attr]
    # −w leaves through a gradient in the precision of the log-probs: half a unit in the last place of bf16 is 2⁻⁹
    tolerance = TOLERANCE if dtype == torch.float32 else 2.0**-8
    assert compare(run, "w-reinforce", "ratio") < tolerance
    assert all(torch.isfinite(value).all() for value in parameters_of(run.trainer).values())


# -- two ranks -----------------------------------------------------------------------------------------------------


def trained_on(ranks: int, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What `objective_ranks` wrote on each rank."""
    if ranks == 1:
        objective_ranks.main(folder, *arguments)
        return [torch.load(folder / "rank0.pt")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    script = ["-m", "tests.engines.objective_ranks", str(folder), *arguments]
    done = subprocess.run(command + script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["keep", "drop"])
def test_two_ranks_equal_one(rows: str, tmp_path: Path) -> None:
    """The same rollouts, one optimiser step for each generation batch: which rank holds a row must not matter."""
    (one,), two = (trained_on(n, tmp_path / str(n), "equal", rows) for n in (1, 2))
    assert [len(ranks["steps"]) for ranks in (one, *two)] == [3, 3, 3]
    for step, parts in enumerate(zip(*(ranks["steps"] for ranks in two), strict=True)):
        assert sum(part["tokens"] for part in parts) == one["steps"][step]["tokens"]
    assert equal(two[0]["parameters"], two[1]["parameters"])
    start = dict(make_model().named_parameters())
    moved = max(float((one["parameters"][name] - start[name].detach()).abs().max()) for name in start)
    apart = max(float((one["parameters"][name] - two[0]["parameters"][name]).abs().max()) for name in start)
    assert moved > 1e-2
    assert apart < ROUNDING
    for log, other in zip(one["logs"], two[0]["logs"], strict=True):
        for name in ("objective/selected", "loss"):
            assert log[name] == pytest.approx(other[name], abs=1e-5), name


@pytest.mark.slow
def test_dropped_rows_on_two_ranks_share_their_divisor_and_their_empty_steps(tmp_path: Path) -> None:
    """PSR where rank 0 has rows for two of four steps and rank 1 for one: step 0 divides by the tokens of both ranks,
    step 1 by those of rank 0 alone, and steps 2 and 3 leave parameters and moments as they are."""
    ranks = trained_on(2, tmp_path, "uneven", "drop")
    tokens = [[step["tokens"] for step in rank["steps"]] for rank in ranks]
    has_rows = [[count > 0 for count in rank] for rank in tokens]
    assert has_rows == [[True, True, False, False], [True, False, False, False]]
    for step in range(4):
        total = sum(rank[step] for rank in tokens)
        for rank, counts in zip(ranks, tokens, strict=True):
            # A = 1: each weight is 1/tokens of the step on all ranks, times 2 as DDP takes the mean over the ranks
            expected = 2 * counts[step] / total if total else 0.0
            assert rank["steps"][step]["weight"] == pytest.approx(expected, rel=1e-5)
    for rank in ranks:
        assert rank["moved"] == [True, True, False, False]
    assert equal(ranks[0]["parameters"], ranks[1]["parameters"])
