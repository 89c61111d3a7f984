from __future__ import annotations

import itertools
import operator
import random

import numpy as np
import pytest

from toy_models.tasks.countdown import Countdown, CountdownTask, SmallCountdownTask
from toy_models.tasks.registry import built_in_task
from toy_models.tasks.task import SPLITS

FIRST_TEST_PROMPTS = ["1 4 15 64 :", "2 5 8 21 :", "3 8 13 47 :"]
FINGERPRINT = "6fc38fca7db44d75"

TASK = CountdownTask()
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class TinyTask(SmallCountdownTask):
    """So few words that every short text can be tried."""

    n_numbers = 7


TINY = TinyTask()


def text_is_correct(prompt: str, response: str) -> bool:
    """The rules of the task, read off the text with no code of the task."""
    *there, target = map(int, prompt.split()[:4])
    words = response.split()
    if words[-1:] != ["$"] or len(words) not in (6, 11):
        return False
    results = []
    for i in range(0, len(words) - 1, 5):
        x, sign, y, equals, result = words[i : i + 5]
        if not (x.isdigit() and y.isdigit() and result.isdigit() and sign in OPERATORS and equals == "="):
            return False
        for operand in (int(x), int(y)):
            if operand not in there:
                return False
            there.remove(operand)
        if OPERATORS[sign](int(x), int(y)) != int(result) or int(result) == 0:
            return False
        there.append(int(result))
        results.append(int(result))
    return results[-1] == target and target not in results[:-1]


def well_formed_steps() -> list[str]:
    numbers = range(TINY.n_numbers)
    return [f"{x} {o} {y} = {r}" for x, o, y, r in itertools.product(numbers, "+-*", numbers, numbers)]


@pytest.mark.parametrize("puzzle", [(1, 2, 3, 6), (2, 2, 3, 3), (1, 2, 3, 5)])
def test_verifier_and_solutions_against_all_short_texts(puzzle: tuple[int, int, int, int]) -> None:
    prompt = TINY.encode_prompt(Countdown(*puzzle))
    text = TINY.tokenizer.decode(prompt)
    steps = well_formed_steps()
    # First steps that are wrong in themselves cannot be corrected by a second one: only the others are continued.
    sums = [s for s in steps if OPERATORS[s.split()[1]](int(s.split()[0]), int(s.split()[2])) == int(s.split()[4])]
    candidates = [*steps, *(f"{first} {second}" for first in sums for second in sums)]
    candidates += [f"{first} {second}" for first in random.Random(0).sample(steps, 10) for second in steps]
    correct = set()
    for candidate in candidates:
        for response in (candidate, candidate + " $"):
            expected = text_is_correct(text, response)
            assert TINY.verify(prompt, [TINY.ids[word] for word in response.split()]).correct == expected
            if expected:
                correct.add(response)
    words = [word for word in TINY.words if word != "<pad>"]
    for length in range(1, 4):
        for sequence in itertools.product(words, repeat=length):
            assert not TINY.verify(prompt, [TINY.ids[word] for word in sequence]).correct
    responses = [TINY.tokenizer.decode(solution) for solution in TINY.solutions(prompt)]
    assert len(responses) == len(set(responses))
    assert set(responses) == correct


@pytest.mark.parametrize("edit", ["replace", "insert", "delete"])
def test_edited_solutions(edit: str) -> None:
    rng = random.Random(1)
    kept = 0
    for prompt in TASK.prompts("test")[:15]:
        solutions = TASK.solutions(prompt.ids)
        for solution in solutions:
            assert TASK.verify(prompt.ids, solution).correct
            response = list(solution)
            place = rng.randrange(len(response))
            if edit == "delete":
                del response[place]
            else:
                token = rng.randrange(len(TASK.words))
                response[place : place + (edit == "replace")] = [token]
            verdict = TASK.verify(prompt.ids, response)
            assert verdict.correct == text_is_correct(prompt.text, " ".join(TASK.words[i] for i in response))
            assert verdict.correct == (tuple(response) in set(solutions))
            assert verdict.correct == (verdict.reason == "correct")
            kept += verdict.correct
    assert kept < 10


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("2 + 3 = 5 5 * 4 = 20 $", "correct"),
        ("4 * 5 = 20 $", "not there: 5 is none of 2, 3"),
        ("2 + 3 = 6 6 * 4 = 24 $", "wrong result: 2 + 3 is 5, not 6"),
        ("2 - 3 = 1", "wrong result: 2 - 3 is -1, not 1"),
        ("2 + 3 = 5 3 * 4 = 12 $", "not there: 3 is none of 4, 5"),
        ("2 + 3 = 5 4 + 5 = 9 $", "missed: 9 is left, not the target 20"),
        ("2 + 3 = 5 5 * 4 = 20", "not finished: no end token"),
        ("2 + 3 = 5 5 * 4 = 20 20", "not ended: 20 after the target 20 is reached"),
        ("2 + 3 = 5 $", "stopped short: 4, 5 are left, the target 20 is not reached"),
        ("$", "stopped short: 2, 3, 4 are left, the target 20 is not reached"),
        ("", "not finished: no end token"),
        ("2 3", "malformed: 3 at position 1, where an operation is due"),
        ("2 + 3 5", "malformed: 5 at position 3, where = is due"),
        ("2 + + 5", "malformed: + at position 2, where a number is due"),
        ("2 + 3 = $", "malformed: $ at position 4, where a step is under way"),
        ("2 + 3 = 5 5 - $", "malformed: $ at position 7, where a step is under way"),
    ],
)
def test_reasons(response: str, reason: str) -> None:
    prompt = TASK.encode_prompt(Countdown(2, 3, 4, 20))
    assert TASK.verify(prompt, TASK.tokenizer.encode(response)).reason == reason


def test_zero_is_no_result() -> None:
    prompt = TASK.encode_prompt(Countdown(2, 2, 4, 6))
    assert TASK.verify(prompt, TASK.tokenizer.encode("2 - 2 = 0")).reason == "not positive: 2 - 2 is 0"


def test_prompt_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt_ids: expected four numbers and a colon, 'a b c T :', got '1 2'"):
        TASK.solutions(TASK.tokenizer.encode("1 2"))


def test_splits_never_change() -> None:
    # Results are compared over versions of this project: whoever changes the splits must mean it.
    assert [p.text for p in TASK.prompts("test")[:3]] == FIRST_TEST_PROMPTS
    assert TASK.fingerprint[:16] == FINGERPRINT


def test_solutions_are_several_and_of_both_lengths() -> None:
    lengths = [[len(s) for s in TASK.solutions(p.ids)] for p in TASK.prompts("test")]
    assert min(map(len, lengths)) == 4
    assert 5 <= np.mean([len(row) for row in lengths]) <= 7
    assert {n for row in lengths for n in row} == {6, 11}
    assert any(len(set(row)) == 2 for row in lengths)
    assert all(p.target not in p[:3] and p.a <= p.b <= p.c for split in TASK.splits.values() for p in split)


def test_corpus_excludes_every_split_and_errs_at_its_rates() -> None:
    n, slip, reuse = 20_000, 0.1, 0.2
    rows = TASK.corpus(n, np.random.default_rng(0), {"slip": slip, "reuse": reuse, "largest": 60})
    assert rows.shape == (n, 16)
    held_out = {p.ids for split in SPLITS for p in TASK.prompts(split)}
    assert not held_out & {tuple(row) for row in rows[:, :5].tolist()}

    steps = slips = seconds = reused = 0
    for row in rows.tolist():
        words = [TASK.words[i] for i in row[5:] if i != TASK.ids["<pad>"]]
        assert words[-1] == "$"
        assert len(words) in (6, 11)
        *there, target = (int(TASK.words[i]) for i in row[:4])
        assert words[-2] == str(target)
        assert target <= 60
        for i in range(0, len(words) - 1, 5):
            x, result, y = int(words[i]), int(words[i + 4]), int(words[i + 2])
            off = abs(OPERATORS[words[i + 1]](x, y) - result)
            assert off <= 2
            steps += 1
            slips += off > 0
            seconds += i == 5
            if i == 5 and x in there and y in there:
                there.remove(x)
                reused += y not in there
                there.append(x)
            elif i == 5:
                reused += 1
            else:
                there.remove(x)
                there.remove(y)
                there.append(result)
    # Four standard errors: a false alarm in 16,000 corpora. Plays that miss 1 … 60 are drawn again, which shifts the
    # rates by at most a few hundredths; a used number that is there twice is not an error, nor is one that a slip made.
    assert abs(slips / steps - slip) < 4 * (slip * (1 - slip) / steps) ** 0.5 + 0.02
    assert abs(reused / seconds - reuse) < 4 * (reuse * (1 - reuse) / seconds) ** 0.5 + 0.03


def test_corpus_without_errors_is_correct_and_its_generator_alone() -> None:
    task, settings = built_in_task("countdown-small"), {"slip": 0.0, "reuse": 0.0, "largest": 24}
    first, same, other = (task.corpus(500, np.random.default_rng(seed), settings) for seed in (3, 3, 4))
    assert (first == same).all()
    assert (first != other).any()
    for row in first.tolist():
        assert task.verify(row[:5], [token for token in row[5:] if token != task.ids["<pad>"]]).correct
