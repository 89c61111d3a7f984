"""A loss that the user wrote: its weight, its verdict, its name; and the command of the objectives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis import objectives
from analysis.errors import UsageError
from analysis.objectives import Example, TokenBatch, analyze, get
from analysis.objectives import user_losses as own
from analysis.objectives.__main__ import main

ROOT = Path(__file__).parents[2]
SOURCE = """
from analysis import objectives

@objectives.register("square")
def square(log_probs, batch):
    return -batch.per_token("advantages") * log_probs.exp() ** 2

def plain(log_probs, batch):
    return -batch.per_token("advantages") * log_probs

def shapeless(log_probs, batch):
    return log_probs.sum()
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(own, "_OWN", {})
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def example() -> Example:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, generator=g, dtype=torch.float64)
    tokens = torch.randint(6, (3, 4), generator=g)
    a = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    return Example(logits, tokens, {"advantages": a, "old_log_probs": torch.full((3, 4), -2.0, dtype=torch.float64)})


def test_analysis_of_an_objective_gives_its_closed_form() -> None:
    for name in ("cispo", "sapo", "grpo", "topr", "gspo"):
        objective = get(name, **({"clip_low": None} if name != "gspo" else {"clip_low": 1.0, "clip_high": 50.0}))
        found = analyze(objective.loss, example())
        log_probs = example().logits.log_softmax(-1).gather(-1, example().tokens[..., None])[..., 0]
        weight = objective.weights(TokenBatch(log_probs, **example().fields)).weight
        torch.testing.assert_close(found.weight, weight, rtol=1e-9, atol=1e-12)
        assert found.scalar
        assert found.regularizer.abs().max() < 1e-12
        assert str(found).startswith("of scalar form: residual at most")


@pytest.mark.parametrize("name", ["gspo", "gspo-token", "luspo", "gmpo", "vespo", "topr", "opd-iw", "sequence-nft"])
def test_coupled_weights_are_scalar_forms_token_by_token(name: str) -> None:
    """The gradient at each token of a response is its own weight times e_y − π, and what a token has to do with the
    others is in the weight alone: moving log π of one of them moves the weights of its response and of no other."""
    g = torch.Generator().manual_seed(3)
    logits, tokens = torch.randn(3, 4, 6, generator=g, dtype=torch.float64), example().tokens
    log_probs = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    a = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    old, teacher = log_probs + 0.1 * torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    mask = torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
    fields = {
        "advantages": a,
        "old_log_probs": old,
        "mask": mask,
        "accuracy": a.abs() / 2,
        "teacher_log_probs": teacher,
    }
    clips = {"clip_low": 1.0, "clip_high": 9.0} if name in ("gspo", "gspo-token", "luspo") else {}
    objective = get(name, **clips)
    found = analyze(lambda x, batch: objective.loss(x, batch).masked_fill(~mask, 0), Example(logits, tokens, fields))
    weight = objective.weights(TokenBatch(log_probs, **fields)).weight
    assert found.scalar
    torch.testing.assert_close(found.weight[mask], weight[mask], rtol=1e-9, atol=1e-12)
    for row, position in mask.nonzero().tolist():
        moved = log_probs.clone()
        moved[row, position] -= 2.0
        changed = (objective.weights(TokenBatch(moved, **fields)).weight != weight) & mask
        others = torch.arange(3) != row
        assert not changed[others].any()
        if name != "opd-iw" and a[row] < 0:  # topr and vespo of one sign; opd-iw is fixed by the rollout
            assert changed[row][mask[row]].all()


def test_a_vector_valued_part_is_told_apart() -> None:
    bonus = get("entropy-bonus", alpha=0.1)
    plain = get("reinforce-log")

    def both(logits: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        log_probs = logits.log_softmax(-1).gather(-1, example().tokens[..., None])[..., 0]
        return plain.loss(log_probs, batch) + bonus.logits_loss(logits)

    found = analyze(both, example(), of="logits")
    assert not found.scalar
    assert "not of scalar form" in str(found)
    logits, tokens = example().logits, example().tokens
    direction = torch.nn.functional.one_hot(tokens, 6) - logits.softmax(-1)
    along = -(bonus.vector(logits) * direction).sum(-1) / direction.square().sum(-1)
    a = example().fields["advantages"][:, None]
    torch.testing.assert_close(found.weight, a + along, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.regularizer, bonus.vector(logits) + along[..., None] * direction)
    assert ((found.regularizer * direction).sum(-1).abs() < 1e-12).all()


def test_by_file_by_name_and_its_errors(source: Path) -> None:
    batch = TokenBatch(torch.tensor([[0.5, 0.25]], dtype=torch.float64).log(), advantages=torch.tensor([-1.0]))
    objective = get(f"{source}:square")
    torch.testing.assert_close(objective.weights(batch).weight, -2 * batch.log_probs.exp() ** 2)
    assert get("square", advantage="group_mean").advantage == "group_mean"
    torch.testing.assert_close(get(f"{source}:plain").weights(batch).weight, torch.full((1, 2), -1.0).double())
    with pytest.raises(UsageError, match=r"shapeless: expected a loss for each token, shape \(1, 2\), got \(\)"):
        get(f"{source}:shapeless").weights(batch)
    with pytest.raises(UsageError, match=r"objective: expected one of .*, got 'sqare'; did you mean square"):
        get(f"{source}:sqare")
    with pytest.raises(UsageError, match="expected an existing Python file, got"):
        get(f"{source}x.py:square")
    with pytest.raises(UsageError, match="name: expected one that no objective has, without a colon, got 'cispo'"):
        objectives.register("cispo")
    with pytest.raises(UsageError, match="needs: unknown field 'old_logprobs'; did you mean old_log_probs"):
        objectives.register("mine", needs=("old_logprobs",))
    with pytest.raises(UsageError, match="coupling: expected token or response, got 'group'"):
        objectives.register("mine", coupling="group")


def test_what_cannot_be_analysed() -> None:
    with pytest.raises(UsageError, match="of: expected log_probs or logits, got 'probs'"):
        analyze(lambda x, b: x, example(), of="probs")
    with pytest.raises(UsageError, match="loss_fn: expected a loss that depends on log_probs, got one that does not"):
        analyze(lambda x, b: x.detach(), example())
    with pytest.raises(UsageError, match=r"tokens: expected one for each context .* shape \(3, 4\), got \(3,\)"):
        analyze(lambda x, b: x, Example(example().logits, torch.zeros(3, dtype=torch.int64)))
    bad = example().logits.clone()
    bad[1, 2, 3] = torch.inf
    with pytest.raises(UsageError, match=r"logits: expected finite numbers, got inf at index \(1, 2, 3\)"):
        analyze(lambda x, b: x, Example(bad, example().tokens))
    with pytest.raises(UsageError, match="entropy-bonus has a vector over the vocabulary, not a weight of each token"):
        get("entropy-bonus").weights(TokenBatch(torch.zeros(1, 1)))
    with pytest.raises(UsageError, match=r"ref_logits: kl-full needs them, of the shape \(1, 2\), got None"):
        get("kl-full").vector(torch.zeros(1, 2))
    with pytest.raises(UsageError, match="grpo is a weight of each token; use weights and loss"):
        get("grpo").vector(torch.zeros(1, 2))
    with pytest.raises(UsageError, match=r"log_probs: dpo takes pairs, .* an even number of rows .* got \(3, 2\)"):
        get("dpo").weights(TokenBatch(torch.zeros(3, 2), ref_log_probs=torch.zeros(3, 2)))
    with pytest.raises(UsageError, match="selection: high-entropy needs them, got None; make it for the whole"):
        get("high-entropy").weights(TokenBatch(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1)))


def test_the_command_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nsr"]) == 0
    assert "nsr-probability: NSR probability" in capsys.readouterr().out
    assert main(["GRPO"]) == main(["grpo"]) == 0
    upper, lower = capsys.readouterr().out.split("grpo: GRPO")[1:]
    assert upper == lower
    assert main(["gppo"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main(["kl"]) == 2
    assert "did you mean kl-cov or kl-k1 or kl-k2" in capsys.readouterr().err
    assert main(["--list"]) == main([]) == 0
    listed = capsys.readouterr().out
    assert listed[: len(listed) // 2] == listed[len(listed) // 2 :]
    assert main(["--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == list(objectives.names())
    assert main(["sapo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["parameters"][-1] == {
        "name": "tau_neg",
        "default": 1.05,
        "required": False,
        "expected": "a number > 0",
        "meaning": "τ of the sigmoid gate where A ≤ 0",
    }
    assert main(["--family", "PREFERENCES"]) == 0
    shown = capsys.readouterr().out
    assert "dpo" in shown
    assert "cispo" not in shown
    assert main(["--family", "preferences", "--json"]) == 0
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} < set(objectives.names())
    assert main(["--family", "tables"]) == 2
    assert "--family: expected part of one of Positive and negative samples;" in capsys.readouterr().err
    for more in (["--list"], ["--family", "kl"]):
        with pytest.raises(SystemExit):
            main(["grpo", *more])
    code = "import sys; from analysis.objectives.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("clip-cov", "psr-ratio", "kl-full"))
