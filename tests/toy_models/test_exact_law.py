"""Bases that learn the exact law: its targets, how numbers are embedded, and what a short training comes to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toy_models import BASES, bases, ensure_base
from toy_models.bases import ExactLaw
from toy_models.exact_law import SolvedPrompts, embed_by_value, pretrain_on_law, value_features
from toy_models.pretraining import build_model
from toy_models.task import built_in_task

LAW = ExactLaw(
    prompts=60, periods=(2, 5, 10, 24), characters=(), feature_scale=3.0, noise=0.2, mark_scale=5.0, embedding_rate=0.1,
    first_share=0.25, all_from=(0.4, 0.6),
)  # fmt: skip
SMALL = dataclasses.replace(BASES["tiny"], corpus={}, steps=60, lr=3e-3, exact=LAW)


@pytest.mark.parametrize("name", ["path-small", "countdown-small", "two-modes-small"])
def test_targets_are_the_shares_among_the_solutions_that_agree_so_far(name: str) -> None:
    task = built_in_task(name)
    text, laws = SolvedPrompts(task, 40, np.random.default_rng(0)).draw(50, np.random.default_rng(1))
    for row, law in zip(text.tolist(), laws, strict=True):
        prompt, response = row[:5], [token for token in row[5:] if token != task.ids["<pad>"]]
        solutions = task.solutions(prompt)
        assert tuple(response) in solutions
        for t, _ in enumerate(response):
            after = [s[t] for s in solutions if list(s[:t]) == response[:t]]
            expected = [after.count(token) / len(after) for token in range(len(task.words))]
            assert law[t].tolist() == pytest.approx(expected, abs=1e-6)
        assert not law[len(response) :].any()


def test_prompts_are_of_no_split_and_ascend_in_span() -> None:
    task = built_in_task("path-small")
    solved = SolvedPrompts(task, 200, np.random.default_rng(0))
    held_out = {prompt.ids for split in ("train", "validation", "test") for prompt in task.prompts(split)}
    assert held_out.isdisjoint(map(tuple, solved.prompts.tolist()))
    spans = [puzzle.target - puzzle.start for puzzle in map(task.parse, solved.prompts.tolist())]
    assert spans == sorted(spans)
    text, _ = solved.draw(300, np.random.default_rng(0), share=0.25)
    assert {tuple(row[:5]) for row in text.tolist()} <= set(map(tuple, solved.prompts[:50].tolist()))


def test_each_solution_is_drawn_equally_often() -> None:
    """2,000 draws from one prompt; χ² with k − 1 degrees of freedom, beyond its mean by 5 standard deviations."""
    task = built_in_task("path-small")
    solved = SolvedPrompts(task, 1, np.random.default_rng(0))
    text, _ = solved.draw(2000, np.random.default_rng(1))
    _, counts = np.unique(text.numpy(), axis=0, return_counts=True)
    k = len(task.solutions(solved.prompts[0].tolist()))
    assert len(counts) == k
    expected = 2000 / k
    assert ((counts - expected) ** 2 / expected).sum() < k - 1 + 5 * np.sqrt(2 * (k - 1))


def test_sums_rotate_features_and_products_rotate_characters() -> None:
    def as_complex(n: int) -> np.ndarray:
        pairs = np.array(value_features(n, (3, 7, 100), (1, 3, 10))).reshape(-1, 2)
        return pairs[:, 0] + 1j * pairs[:, 1]

    for x, y in [(3, 5), (12, 8), (9, 11)]:
        np.testing.assert_allclose(as_complex(x + y)[:3], as_complex(x)[:3] * as_complex(y)[:3], atol=1e-12)
        np.testing.assert_allclose(as_complex(x * y)[3:], as_complex(x)[3:] * as_complex(y)[3:], atol=1e-12)
    codes = np.array([as_complex(n)[3:] for n in range(1, 100)])
    assert len(np.unique(codes.round(9), axis=0)) == 99


def test_embedding_has_features_marks_and_little_else() -> None:
    task, model = built_in_task("path-small"), build_model(SMALL, built_in_task("path-small"), seed=0)
    before = model.get_input_embeddings().weight.detach().clone()
    embed_by_value(model, task, LAW, SMALL.init_std)
    after = model.get_input_embeddings().weight.detach()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    seven, jump, end = (after[task.ids[word]] for word in ("7", "+3", "$"))
    scale = 3.0 * 2**0.5 * SMALL.init_std
    np.testing.assert_allclose(seven[:8], np.array(value_features(7, LAW.periods, ())) * scale, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(jump[:8], after[task.ids["3"]][:8])
    torch.testing.assert_close(seven[8:-3], 0.2 * before[task.ids["7"]][8:-3])
    torch.testing.assert_close(end[:-3], before[task.ids["$"]][:-3])
    marks = [row[-3:].tolist() for row in (seven, jump, end)]
    assert marks == [pytest.approx(mark) for mark in ([0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5])]


def test_too_many_features() -> None:
    model = build_model(SMALL, built_in_task("path-small"), seed=0)
    law = dataclasses.replace(LAW, characters=tuple(range(1, 28)))
    with pytest.raises(ValueError, match=r"expected at most 30 together, as hidden is 64, received 31"):
        embed_by_value(model, built_in_task("path-small"), law, 0.1)


def test_the_loss_falls_and_the_embedding_moves_least(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    losses = [loss for _, loss in pretrain_on_law(SMALL, 0, tmp_path)]
    assert losses[-1] < losses[0] / 2
    start = build_model(SMALL, built_in_task("path-small"), seed=0)
    embed_by_value(start, built_in_task("path-small"), LAW, SMALL.init_std)
    made = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    moved = {name: (weight - made.state_dict()[name]).abs().mean() for name, weight in start.state_dict().items()}
    others = [moved[name] for name in moved if name.endswith("proj.weight")]
    assert 0 < moved["model.embed_tokens.weight"] < 0.5 * min(others)


def test_such_a_base_is_made_once_and_its_code_changes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path))
    monkeypatch.setitem(BASES, "on-law", dataclasses.replace(SMALL, steps=20))
    reports: list[tuple[int, int]] = []
    folder = ensure_base("on-law", progress=lambda step, steps, loss: reports.append((step, steps)))
    assert reports == [(10, 20), (20, 20)]
    card = json.loads((folder / "base.json").read_text())
    assert ExactLaw.from_json(card["recipe"]["exact"]) == LAW
    names = ("tiny", "path-p75", "on-law")
    before = {name: bases._folder(name, 0) for name in names}
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "exact_law.py"))
    assert {name for name in names if bases._folder(name, 0) != before[name]} == {"on-law"}


def test_an_exact_law_stands_alone() -> None:
    with pytest.raises(ValueError, match="exact: expected neither a corpus nor a refinement beside it"):
        dataclasses.replace(BASES["path-p75"], exact=LAW)
