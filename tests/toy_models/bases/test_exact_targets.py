"""Bases that learn from exact targets: the targets, what they are taught on, how numbers are embedded, and what a short
training comes to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toy_models import BASES, ensure_base
from toy_models.bases import cache as bases
from toy_models.bases.exact_targets import _denominator, _optimizers, batches, pretrain_on_targets
from toy_models.bases.pretraining import build_model
from toy_models.bases.recipes import BaseRecipe, ExactTargets, NearFirst, WideNumbers
from toy_models.bases.solved_prompts import SolvedPrompts
from toy_models.bases.value_embedding import embed_by_value, value_features
from toy_models.tasks.countdown import CountdownTask
from toy_models.tasks.puzzle import PuzzleTask
from toy_models.tasks.registry import built_in_task

TARGETS = ExactTargets(
    NearFirst(prompts=60, first_share=0.25, all_from=(0.4, 0.6)),
    periods=(2, 5, 10, 24),
    characters=(),
    feature_scale=3.0,
    noise=0.2,
    mark_scale=5.0,
    embedding_rate=0.1,
)
SMALL = dataclasses.replace(BASES["tiny"], corpus={}, steps=60, lr=3e-3, exact=TARGETS)
WIDE = dataclasses.replace(
    TARGETS, lessons=WideNumbers(largest=8, power=0.5, shuffled=0.5, opening=3, short=0.75), muon_lr=1e-2
)
SMALL_WIDE = dataclasses.replace(SMALL, task="countdown-small", exact=WIDE)


def lessons_of(recipe: BaseRecipe, task: PuzzleTask, **changes: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All batches of a recipe whose lessons are changed."""
    lessons = dataclasses.replace(recipe.exact.lessons, **changes)
    changed = dataclasses.replace(recipe, exact=dataclasses.replace(recipe.exact, lessons=lessons))
    return list(batches(changed, task, seed=0))


def shares(task: PuzzleTask, prompt: list[int], response: list[int]) -> list[list[float]]:
    """The distribution of every token of a response, by going through all solutions."""
    distributions, solutions = [], task.solutions(prompt)
    for t, _ in enumerate(response):
        after = [s[t] for s in solutions if list(s[:t]) == response[:t]]
        distributions.append([after.count(token) / len(after) for token in range(len(task.words))])
    return distributions


@pytest.mark.parametrize("name", ["path-small", "countdown-small", "two-modes-small"])
def test_targets_are_the_shares_among_the_solutions_that_agree_so_far(name: str) -> None:
    task = built_in_task(name)
    text, distributions = SolvedPrompts.drawn(task, 40, np.random.default_rng(0)).draw(
        np.arange(40), np.random.default_rng(1)
    )
    for row, distribution in zip(text.tolist(), distributions, strict=True):
        prompt, response = row[:5], [token for token in row[5:] if token != task.ids["<pad>"]]
        assert tuple(response) in task.solutions(prompt)
        np.testing.assert_allclose(distribution[: len(response)], shares(task, prompt, response), atol=1e-6)
        assert not distribution[len(response) :].any()


def test_prompts_are_of_no_split_and_ascend_in_span() -> None:
    task = built_in_task("path-small")
    solved = SolvedPrompts.drawn(task, 200, np.random.default_rng(0))
    held_out = {prompt.ids for split in ("train", "validation", "test") for prompt in task.prompts(split)}
    assert held_out.isdisjoint(map(tuple, solved.prompts.tolist()))
    spans = [puzzle.target - puzzle.start for puzzle in map(task.parse, solved.prompts.tolist())]
    assert spans == sorted(spans)


def test_training_starts_on_the_nearest_and_goes_on_to_all() -> None:
    task = built_in_task("path-small")
    near = set(map(tuple, SolvedPrompts.drawn(task, 60, np.random.default_rng([0, 1])).prompts[:15].tolist()))
    seen = [{tuple(row[:5]) for row in text.tolist()} for text, _ in batches(SMALL, task, seed=0)]
    assert all(prompts <= near for prompts in seen[:24])
    assert not any(prompts <= near for prompts in seen[36:])


def test_each_solution_is_drawn_equally_often() -> None:
    """2,000 draws from one prompt; χ² with k − 1 degrees of freedom, beyond its mean by 5 standard deviations."""
    task = built_in_task("path-small")
    solved = SolvedPrompts.drawn(task, 1, np.random.default_rng(0))
    text, _ = solved.draw(np.zeros(2000, dtype=np.int64), np.random.default_rng(1))
    _, counts = np.unique(text.numpy(), axis=0, return_counts=True)
    k = len(task.solutions(solved.prompts[0].tolist()))
    assert len(counts) == k
    expected = 2000 / k
    assert ((counts - expected) ** 2 / expected).sum() < k - 1 + 5 * np.sqrt(2 * (k - 1))


def test_wide_numbers_are_all_puzzles_of_no_split_with_all_their_solutions() -> None:
    task = CountdownTask()
    solved = dict(task.solved_puzzles(15))
    held_out = {puzzle for split in task.splits.values() for puzzle in split}
    assert held_out.isdisjoint(solved)
    random = np.random.default_rng(0)
    puzzles = [(*sorted(random.integers(1, 16, 3).tolist()), int(random.integers(1, 100))) for _ in range(400)]
    for puzzle in puzzles:
        solutions = task.solutions(task.encode_prompt(puzzle)) if puzzle[3] not in puzzle[:3] else []
        assert solved.get(puzzle, []) == ([] if puzzle in held_out else solutions)
    assert max(max(puzzle[:3]) for puzzle, _ in task.solved_puzzles(17)) == 17


def test_short_batches_open_a_response_and_teach_its_distribution() -> None:
    task = built_in_task("countdown-small")
    drawn = lessons_of(SMALL_WIDE, task, shuffled=1.0)
    widths = [distributions.shape[1] for _, distributions in drawn]
    assert set(widths) == {3, task.max_new_tokens}
    assert 0.55 < widths.count(3) / len(widths) < 0.95  # 0.75 ± 3.6 standard errors of 60 batches
    for text, distributions in drawn[:6]:
        assert text.shape[1] == 5 + distributions.shape[1]
        for row, distribution in zip(text[:8].tolist(), distributions, strict=False):
            response = [token for token in row[5:] if token != task.ids["<pad>"]]
            np.testing.assert_allclose(distribution[: len(response)], shares(task, row[:5], response), atol=1e-6)


@pytest.mark.parametrize("shuffled", [0.0, 0.5])
def test_numbers_of_so_many_prompts_are_shuffled(shuffled: float) -> None:
    """Orders of three different numbers are equally likely, so 1 in 6 of the shuffled prompts still ascends."""
    task = built_in_task("countdown-small")
    rows = torch.cat([text[:, :5] for text, _ in lessons_of(SMALL_WIDE, task, shuffled=shuffled)]).tolist()
    puzzles = [task.parse(row) for row in rows]
    different = [puzzle[:3] for puzzle in puzzles if len(set(puzzle[:3])) == 3]
    ascending = np.mean([list(given) == sorted(given) for given in different])
    assert ascending == pytest.approx(1 - shuffled * 5 / 6, abs=0.04)  # 4 standard errors of 2,500 prompts


def test_a_token_weighs_the_same_in_short_and_in_whole_batches() -> None:
    for width, tokens in ((3, 12), (11, 34)):
        text = torch.zeros(4, 5 + width)
        assert _denominator(WIDE, text, torch.tensor(tokens)) == 4 * 3
        assert _denominator(TARGETS, text, torch.tensor(tokens)) == tokens


def test_puzzles_with_more_solutions_come_more_often() -> None:
    task = built_in_task("countdown-small")
    counts = np.array([len(solutions) for _, solutions in task.solved_puzzles(8)])
    for power in (0.0, 1.0):
        text = torch.cat([text[:, :5] for text, _ in lessons_of(SMALL_WIDE, task, shuffled=0.0, power=power)])
        solved = np.mean([len(task.solutions(prompt)) for prompt in text.tolist()])
        weights = counts**power / (counts**power).sum()
        spread = np.sqrt(weights @ counts**2 - (weights @ counts) ** 2) / np.sqrt(len(text))
        assert abs(solved - weights @ counts) < 4 * spread


def test_wide_numbers_are_for_countdown() -> None:
    recipe = dataclasses.replace(SMALL_WIDE, task="path-small")
    with pytest.raises(ValueError, match="lessons: expected NearFirst for the task 'path-small', got WideNumbers"):
        next(batches(recipe, built_in_task("path-small"), seed=0))


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
    embed_by_value(model, task, TARGETS, SMALL.init_std)
    after = model.get_input_embeddings().weight.detach()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    seven, jump, end = (after[task.ids[word]] for word in ("7", "+3", "$"))
    scale = 3.0 * 2**0.5 * SMALL.init_std
    np.testing.assert_allclose(
        seven[:8], np.array(value_features(7, TARGETS.periods, ())) * scale, rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(jump[:8], after[task.ids["3"]][:8])
    torch.testing.assert_close(seven[8:-3], 0.2 * before[task.ids["7"]][8:-3])
    torch.testing.assert_close(end[:-3], before[task.ids["$"]][:-3])
    marks = [row[-3:].tolist() for row in (seven, jump, end)]
    assert marks == [pytest.approx(mark) for mark in ([0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5])]


def test_muon_has_the_matrices_of_the_layers_which_alone_decay() -> None:
    recipe = dataclasses.replace(SMALL_WIDE, weight_decay=0.3)
    model = build_model(recipe, built_in_task("countdown-small"), seed=0)
    adamw, muon = _optimizers(model, recipe, WIDE)
    names = {parameter: name for name, parameter in model.named_parameters()}
    (matrices,), (vectors, slow) = muon.param_groups, adamw.param_groups
    assert {names[p] for p in slow["params"]} == {"model.embed_tokens.weight"}
    assert all("norm" in names[p] for p in vectors["params"])
    assert all("proj" in names[p] for p in matrices["params"])
    assert sum(len(group["params"]) for group in (matrices, vectors, slow)) == len(names)
    assert [group["weight_decay"] for group in (matrices, vectors, slow)] == [0.3, 0.0, 0.0]
    assert [group["lr"] for group in (matrices, vectors, slow)] == pytest.approx([1e-2, 3e-3, 3e-4])


def test_too_many_features() -> None:
    model = build_model(SMALL, built_in_task("path-small"), seed=0)
    targets = dataclasses.replace(TARGETS, characters=tuple(range(1, 28)))
    with pytest.raises(ValueError, match=r"expected at most 30 together for hidden = 64, got 31"):
        embed_by_value(model, built_in_task("path-small"), targets, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [SMALL, SMALL_WIDE], ids=["near-first", "wide"])
def test_the_loss_falls_and_the_embedding_moves_least(recipe: BaseRecipe, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    losses = [loss for _, loss in pretrain_on_targets(recipe, 0, tmp_path)]
    assert losses[-1] < losses[0] / 2
    task = built_in_task(recipe.task)
    start = build_model(recipe, task, seed=0)
    embed_by_value(start, task, TARGETS, recipe.init_std)
    made = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    moved = {name: (weight - made.state_dict()[name]).abs().mean() for name, weight in start.state_dict().items()}
    others = [moved[name] for name in moved if name.endswith("proj.weight")]
    assert 0 < moved["model.embed_tokens.weight"] < 0.5 * min(others)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [TARGETS, WIDE], ids=["near-first", "wide"])
def test_such_a_base_is_made_once_and_its_code_changes_no_other(
    targets: ExactTargets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path))
    recipe = dataclasses.replace(SMALL if targets is TARGETS else SMALL_WIDE, steps=20)
    monkeypatch.setitem(BASES, "exact", recipe)
    reports: list[tuple[int, int]] = []
    folder = ensure_base("exact", progress=lambda step, steps, loss: reports.append((step, steps)))
    assert reports == [(10, 20), (20, 20)]
    card = json.loads((folder / "base.json").read_text())
    assert ExactTargets.from_json(card["recipe"]["exact"]) == targets
    names = ("tiny", "path-p75", "exact")
    before = {name: bases.base_folder(name, 0) for name in names}
    read, code = Path.read_text, "exact_targets.py" if targets is TARGETS else "muon.py"
    monkeypatch.setattr(
        Path, "read_text", lambda path, **options: read(path, **options) + "\n0\n" * (path.name == code)
    )
    assert {name for name in names if bases.base_folder(name, 0) != before[name]} == {"exact"}


def test_exact_targets_stand_alone() -> None:
    with pytest.raises(ValueError, match="exact: expected no corpus and no refinement beside it, got a corpus"):
        dataclasses.replace(BASES["path-p75"], exact=TARGETS)
