from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from toy_models.tasks.path import PathTask, Puzzle
from toy_models.tasks.task import SPLITS, mode_prefix
from toy_models.tasks.two_modes import SmallTwoModesTask, TwoModesTask

FIRST_TEST_PROMPTS = ["27 44 31 35 :", "12 20 14 17 :", "24 41 32 37 :"]
FINGERPRINT = "dc2511ad4b59dd3d"

TASK = TwoModesTask()
SMALL = SmallTwoModesTask()


def text_is_correct(prompt: str, response: str, largest_jump: int) -> bool:
    """The rules of the task, read off the text with no code of the task."""
    start, target, low, high = map(int, prompt.split()[:4])
    words = response.split()
    if words[-1:] != ["$"]:
        return False
    aloud = words[0] == "aloud"
    jumps = words[1:-1:2] if aloud else words[:-1]
    if not 2 <= len(jumps) <= 4 or not all(w[0] == "+" and w[1:].isdigit() for w in jumps):
        return False
    walk = list(itertools.accumulate(map(int, jumps), initial=start))
    if aloud and words[2:-1:2] != [str(at) for at in walk[1:]]:
        return False
    return max(map(int, jumps)) <= largest_jump and walk[-1] == target and low not in walk and high not in walk


def test_verifier_and_solutions_against_all_walks() -> None:
    prompts = random.Random(0).sample(SMALL.prompts("train"), 4)
    for prompt in prompts:
        start = int(prompt.text.split()[0])
        texts = []
        for n in range(1, 6):
            for jumps in itertools.product(range(1, 5), repeat=n):
                sums = list(itertools.accumulate(jumps, initial=start))[1:]
                texts.append(" ".join(f"+{j}" for j in jumps) + " $")
                texts.append("aloud " + " ".join(f"+{j} {s}" for j, s in zip(jumps, sums, strict=True)) + " $")
        correct = {text for text in texts if text_is_correct(prompt.text, text, 4)}
        for text in texts:
            if all(word in SMALL.ids for word in text.split()):
                assert SMALL.verify(prompt.ids, [SMALL.ids[w] for w in text.split()]).correct == (text in correct)
        responses = [" ".join(SMALL.words[i] for i in solution) for solution in SMALL.solutions(prompt.ids)]
        assert len(responses) == len(set(responses))
        assert set(responses) == correct


def test_edited_solutions() -> None:
    rng = random.Random(1)
    for prompt in TASK.prompts("test")[:15]:
        solutions = TASK.solutions(prompt.ids)
        for solution in solutions:
            response = list(solution)
            place = rng.randrange(len(response))
            edit = rng.choice(["replace", "insert", "delete"])
            new = [] if edit == "delete" else [rng.randrange(len(TASK.words))]
            response[place : place + (edit != "insert")] = new
            assert TASK.verify(prompt.ids, response).correct == (tuple(response) in set(solutions))


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("+5 +5 $", "correct"),
        ("aloud +5 15 +5 20 $", "correct"),
        ("+5 15 +5 20 $", "malformed: 15 at position 1, where a jump is due"),
        ("aloud +5 +5 $", "malformed: +5 at position 2, where a number is due"),
        ("aloud +5 16", "wrong sum: 10 + 5 is 15, not 16"),
        ("+2 +6 +2 $", "forbidden number: 12"),
        ("+5 +6 $", "overshoot: 21 is beyond the target 20"),
        ("+5 $", "stopped short: at 15, before the target 20"),
        ("aloud $", "stopped short: at 10, before the target 20"),
        ("+5 +5", "not finished: no end token"),
        ("+5 +5 +1", "not ended: +1 after the target 20 is reached"),
        ("+1 +3 +1 +1 +1 +3 $", "too many jumps: more than 4"),
        ("+5 aloud +5 20 $", "malformed: aloud at position 1, where a jump is due"),
    ],
)
def test_reasons(response: str, reason: str) -> None:
    prompt = TASK.encode_prompt(Puzzle(10, 20, 12, 18))
    for ids in (prompt, TASK.tagged(prompt)):
        assert TASK.verify(ids, TASK.tokenizer.encode(response)).reason == reason


def test_one_silent_jump_is_too_few() -> None:
    prompt = TASK.encode_prompt(Puzzle(10, 16, 12, 13))
    assert TASK.verify(prompt, TASK.tokenizer.encode("+6 $")).reason == "too few jumps: 1, at least 2 are due"


def test_the_mode_has_a_name() -> None:
    assert mode_prefix(TASK) == (TASK.ids["aloud"],)
    assert mode_prefix(PathTask()) is None
    prompt = TASK.prompts("test")[0]
    opened = [solution[:1] == TASK.mode_prefix for solution in TASK.solutions(prompt.ids)]
    assert sum(opened) == len(opened) / 2
    assert TASK.tokenizer.decode(TASK.tagged(prompt.ids)) == prompt.text.replace(":", "aloud:")
    assert TASK.solutions(TASK.tagged(prompt.ids)) == TASK.solutions(prompt.ids)


def test_splits_never_change() -> None:
    # Results are compared over versions of this project: whoever changes the splits must mean it.
    assert [p.text for p in TASK.prompts("test")[:3]] == FIRST_TEST_PROMPTS
    assert TASK.fingerprint[:16] == FINGERPRINT


def test_corpus_excludes_every_split_and_keeps_its_rates() -> None:
    n = 20_000
    settings = {
        "slip": 0.02,
        "ignore": 0.0,
        "longest": 20,
        "misstep": 0.3,
        "tagged": 0.4,
        "aloud_tagged": 0.9,
        "aloud_plain": 0.05,
    }
    rows = TASK.corpus(n, np.random.default_rng(0), settings)
    assert rows.shape == (n, 15)
    held_out = {p.ids[:4] for split in SPLITS for p in TASK.prompts(split)}
    assert not held_out & {tuple(row) for row in rows[:, :4].tolist()}
    tagged, aloud = rows[:, 4] == TASK.ids["aloud:"], rows[:, 5] == TASK.ids["aloud"]

    def within(count: int, of: int, rate: float) -> bool:
        # Four standard errors: a false alarm in 16,000 corpora.
        return abs(count / of - rate) < 4 * (rate * (1 - rate) / of) ** 0.5

    assert within(tagged.sum(), n, 0.4)
    assert within((aloud & tagged).sum(), tagged.sum(), 0.9)
    assert within((aloud & ~tagged).sum(), (~tagged).sum(), 0.05)
    correct = {True: [0, 0], False: [0, 0]}
    for row, speaks in zip(rows[:6000].tolist(), aloud[:6000], strict=True):
        response = [token for token in row[5:] if token != TASK.ids["<pad>"]]
        n_jumps = (len(response) - 2) // 2 if speaks else len(response) - 1
        if n_jumps == 2:
            right = TASK.verify(row[:5], response).correct
            correct[bool(speaks)][0] += right
            correct[bool(speaks)][1] += 1
    # Two jumps, each right or not: aloud each must be. Silent, two missteps may cancel (+1 −1 or ±2, an eighth of all
    # pairs and a little more at the edges), and may then land on a forbidden number.
    assert within(*correct[True], 0.98**2)
    assert 0.7**2 - 0.03 < correct[False][0] / correct[False][1] < 0.7**2 + 0.3**2 / 3 + 0.03
