from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models import TASKS, PathTask, get_task
from toy_models.tasks.path import Puzzle, SmallPathTask
from toy_models.tasks.registry import built_in_task
from toy_models.tasks.task import SPLITS
from toy_models.tasks.tokenizer import word_tokenizer

FIRST_TEST_PROMPTS = ["60 89 67 73 :", "26 36 28 33 :", "54 82 67 76 :"]
FINGERPRINT = "d5f00e83de9e7f32"
SETTINGS = {"slip": 0.05, "ignore": 0.15, "longest": 29}

TASK = PathTask()
SMALL = SmallPathTask()


def text_is_correct(prompt: str, response: str, largest_jump: int) -> bool:
    """The rules of the task, read off the text with no code of the task."""
    start, target, low, high = map(int, prompt.split()[:4])
    words = response.split()
    if words[-1:] != ["$"] or len(words) not in (5, 7, 9):
        return False
    jumps, sums = words[:-1:2], words[1:-1:2]
    if not all(w[0] == "+" and 1 <= int(w[1:]) <= largest_jump for w in jumps):
        return False
    if not all(w.isdigit() for w in sums):
        return False
    walk = [start, *map(int, sums)]
    right = all(b - a == int(j) for a, b, j in zip(walk, walk[1:], jumps, strict=False))
    return right and walk[-1] == target and low not in walk and high not in walk


def test_vocabulary_is_108_words() -> None:
    assert len(TASK.tokenizer) == len(TASK.words) == 108
    assert TASK.tokenizer.eos_token == "$"
    assert TASK.tokenizer.pad_token == "<pad>"
    assert TASK.tokenizer.padding_side == "left"


def test_text_survives_the_tokenizer() -> None:
    for prompt in TASK.prompts("test")[:50]:
        assert TASK.tokenizer.decode(prompt.ids) == prompt.text
        assert tuple(TASK.tokenizer.encode(prompt.text)) == prompt.ids
        for solution in TASK.solutions(prompt.ids)[:3]:
            text = TASK.tokenizer.decode(solution)
            assert tuple(TASK.tokenizer.encode(text)) == solution
            assert TASK.tokenizer.encode(prompt.text + " " + text) == [*prompt.ids, *solution]


def test_every_word_survives_alone() -> None:
    for i, word in enumerate(TASK.words):
        assert TASK.tokenizer.encode(word) == [i]
        assert TASK.tokenizer.decode([i]) == word


def test_solutions_against_all_texts() -> None:
    rng = random.Random(0)
    jumps = range(1, len(SMALL.jumps) + 1)
    for prompt in rng.sample(SMALL.prompts("train"), 6):
        start = int(prompt.text.split()[0])
        expected = set()
        frontier: list[list[int]] = [[]]
        for _ in range(5):
            frontier = [[*seq, j] for seq in frontier for j in jumps]
            for seq in frontier:
                walk = [start + sum(seq[: i + 1]) for i in range(len(seq))]
                text = " ".join(f"+{j} {s}" for j, s in zip(seq, walk, strict=True)) + " $"
                if text_is_correct(prompt.text, text, len(SMALL.jumps)):
                    expected.add(text)
        responses = [SMALL.tokenizer.decode(s) for s in SMALL.solutions(prompt.ids)]
        assert set(responses) == expected
        assert len(responses) == len(expected)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_verifier_accepts_the_solutions_and_nothing_else(data: st.DataObject) -> None:
    prompt = data.draw(st.sampled_from(TASK.prompts("test")))
    solutions = TASK.solutions(prompt.ids)
    response = list(data.draw(st.sampled_from(solutions)))
    edits = st.tuples(st.sampled_from(["replace", "insert", "delete"]), st.integers(0, 9), st.integers(0, 107))
    for edit, place, token in data.draw(st.lists(edits, max_size=2)):
        place = min(place, len(response) - 1)
        if edit == "replace" and response:
            response[place] = token
        elif edit == "insert":
            response.insert(place, token)
        elif response:
            del response[place]
    verdict = TASK.verify(prompt.ids, response)
    assert verdict.correct == (tuple(response) in set(solutions))
    assert verdict.correct == text_is_correct(prompt.text, TASK.tokenizer.decode(response), 9)
    assert (verdict.reason == "correct") == verdict.correct


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("+5 15 +5 20 $", "correct"),
        ("+5 16 +4 20 $", "wrong sum: 10 + 5 is 15, not 16"),
        ("+2 12 +8 20 $", "forbidden number: 12"),
        ("+7 17 +3 20 $", "forbidden number: 17"),
        ("+5 15 +9 24 $", "overshoot: 24 is beyond the target 20"),
        ("+5 15 +5 20", "not finished: no end token"),
        ("+5 15 +4", "not finished: no end token"),
        ("", "not finished: no end token"),
        ("$", "stopped short: at 10, before the target 20"),
        ("+5 15 $", "stopped short: at 15, before the target 20"),
        ("+5 15 +5 20 +1", "not ended: +1 after the target 20 is reached"),
        ("15 +5 20 $", "malformed: 15 at position 0, where a jump is due"),
        ("+5 +5 20 $", "malformed: +5 at position 1, where a number is due"),
        ("+5 15 +5 $", "malformed: $ at position 3, where a number is due"),
        ("+1 11 $ +9 20 $", "malformed: $ at position 2, where a jump is due"),
        ("+1 11 +2 13 +1 14 +1 15 +5 20 $", "too many jumps: more than 4"),
    ],
)
def test_reasons(response: str, reason: str) -> None:
    prompt = TASK.encode_prompt(Puzzle(10, 20, 12, 17))
    assert TASK.verify(prompt, TASK.tokenizer.encode(response)).reason == reason


def test_one_jump_is_too_few() -> None:
    prompt = TASK.encode_prompt(Puzzle(10, 16, 12, 13))
    verdict = TASK.verify(prompt, TASK.tokenizer.encode("+6 16 $"))
    assert verdict.reason == "too few jumps: 1, at least 2 are due"
    assert not verdict.correct


def test_prompt_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt_ids: expected four numbers and a colon.*got '10 20 12 17 \+1'"):
        TASK.verify(TASK.tokenizer.encode("10 20 12 17 +1"), [1])
    with pytest.raises(ValueError, match="prompt_ids: expected four numbers"):
        TASK.solutions([5])


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split: expected one of train, .*got 'tset'; did you mean test"):
        TASK.prompts("tset")


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task: expected one of path, .*got 'pth'; did you mean path"):
        get_task("pth")


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_disjoint_and_solvable(name: str) -> None:
    task = built_in_task(name)
    seen: set[tuple[int, ...]] = set()
    for split in SPLITS:
        prompts = task.prompts(split)
        assert len(prompts) == task.split_sizes[split]
        assert [p.split for p in prompts] == [split] * len(prompts)
        ids = {p.ids for p in prompts}
        assert len(ids) == len(prompts)
        assert not ids & seen
        seen |= ids
        assert all(task.solutions(p.ids) for p in prompts)
    assert len({p.prompt_id for split in SPLITS for p in task.prompts(split)}) == len(seen)


def test_forbidden_numbers_lie_between_in_order() -> None:
    for task in (TASK, SMALL):
        assert all(p.start < p.low < p.high < p.target for split in task.splits.values() for p in split)


def test_splits_never_change() -> None:
    # Results are compared over versions of this project: whoever changes the splits must mean it.
    assert [p.text for p in TASK.prompts("test")[:3]] == FIRST_TEST_PROMPTS
    assert TASK.fingerprint[:16] == FINGERPRINT


def test_difficulty_has_a_tail() -> None:
    counts = np.array([len(TASK.solutions(p.ids)) for p in TASK.prompts("test")])
    assert 150 <= counts.mean() <= 250
    assert (counts <= 10).mean() >= 0.05


def test_corpus_excludes_every_split_and_errs_at_its_rates() -> None:
    rows = TASK.corpus(20_000, np.random.default_rng(0), SETTINGS)
    assert rows.shape == (20_000, 14)
    held_out = {p.ids for split in SPLITS for p in TASK.prompts(split)}
    assert not held_out & {tuple(row) for row in rows[:, :5].tolist()}

    sums = slips = forbidden = hits = 0
    lengths = set()
    for row in rows.tolist():
        response = [i for i in row[5:] if i != TASK.ids["<pad>"]]
        lengths.add(len(response))
        words = [TASK.words[i] for i in response[:-1]]
        start, target, low, high = (int(TASK.words[i]) for i in row[:4])
        walk = [start, *map(int, words[1::2])]
        errors = [abs(b - a - int(j)) for a, b, j in zip(walk, walk[1:], words[::2], strict=False)]
        assert response[-1] == TASK.ids["$"]
        assert walk[-1] == target
        assert set(errors) <= {0, 1, 2}
        sums += len(errors)
        slips += sum(e > 0 for e in errors)
        forbidden += bool({low, high} & set(walk))
        hits += 1
    assert lengths == {5, 7, 9}
    # Four standard errors: a false alarm in 16,000 corpora.
    assert abs(slips / sums - 0.05) < 4 * (0.05 * 0.95 / sums) ** 0.5
    # A path that ignores the two numbers lands on one of them in at most half of the rows.
    assert 0.02 < forbidden / hits < 0.15 / 2


def test_corpus_is_the_generator_alone() -> None:
    first, same, other = (TASK.corpus(300, np.random.default_rng(seed), SETTINGS) for seed in (3, 3, 4))
    assert (first == same).all()
    assert (first != other).any()


def test_corpus_without_errors_is_correct_and_ends_where_it_is_told() -> None:
    rows = SMALL.corpus(500, np.random.default_rng(0), {"slip": 0.0, "ignore": 0.0, "longest": 9})
    for row in rows.tolist():
        prompt, response = row[:5], [token for token in row[5:] if token != SMALL.ids["<pad>"]]
        assert SMALL.verify(prompt, response).correct
        puzzle = SMALL.parse(prompt)
        assert 5 <= puzzle.target - puzzle.start <= 9


def test_corpus_wants_its_own_settings() -> None:
    with pytest.raises(ValueError, match="settings: expected slip, ignore, longest for the corpus of 'path', got"):
        TASK.corpus(1, np.random.default_rng(0), {"slip": 0.1})


def test_another_tokenizer_that_matches() -> None:
    words = ["<s>", "$", "hello", *reversed(TASK.words[2:]), "<pad>"]
    other = get_task("path", word_tokenizer(words, pad="<pad>", eos="$"))
    for mine, theirs in zip(TASK.prompts("test")[:20], other.prompts("test"), strict=False):
        assert mine.text == theirs.text
        assert mine.ids != theirs.ids
        solutions = other.solutions(theirs.ids)
        assert solutions is not None
        assert [other.tokenizer.decode(s) for s in solutions] == [
            TASK.tokenizer.decode(s) for s in TASK.solutions(mine.ids)
        ]
        assert other.verify(theirs.ids, solutions[0]).correct
        assert other.verify(theirs.ids, [2, 3]).reason.startswith("malformed: <2> at position 0")


def test_another_tokenizer_that_does_not_match() -> None:
    lacking = [word for word in TASK.words if word != "+3"]
    with pytest.raises(ValueError, match=r"one token, but for the word '\+3'"):
        get_task("path", word_tokenizer(lacking, pad="<pad>", eos="$"))
    no_end = word_tokenizer(TASK.words, pad="<pad>", eos="$")
    no_end.eos_token = None
    with pytest.raises(ValueError, match="tokenizer: expected an end-of-sequence token"):
        get_task("path", no_end)


def test_names_load_no_torch() -> None:
    code = (
        "import sys, toy_models as t; t.BASES['path']; t.TASKS; t.base_is_cached('path');"
        "t.get_task('path').prompts('test'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
