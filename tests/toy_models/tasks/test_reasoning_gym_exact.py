"""Success probabilities on reasoning-gym, exact: against every response that a small policy can give."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.toy_models.random_models import random_model
from toy_models import EncodedTask
from toy_models.tasks.reasoning_gym_task import GymTask

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")

# Digits, pairs of digits and spaces as tokens of their own, so that a text has several encodings; <pad> is special.
WORDS = ["<pad>", "<end>", "1", "2", "3", "4", "5", "6", "11", "12", " ", "+", "-", "*", "1 ", " +", " + "]


def tokenizer() -> Any:
    """One that decodes by joining what its tokens stand for, as byte-level BPE does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = [word.replace(" ", "Ġ") for word in WORDS[2:]]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<end>", *spelled])}
    vocabulary |= {letter: len(vocabulary) + i for i, letter in enumerate(x for x in letters if x not in vocabulary)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<pad>", special=True), AddedToken("<end>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")


def task_of(source: GymTask, longest: int) -> EncodedTask:
    return EncodedTask(tokenizer(), source, longest)


def probability(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        log_probs = model(ids).logits[0].double().log_softmax(-1)
    places = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
    return float(log_probs[places, torch.tensor(response)].sum().exp())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "options", "longest"),
    [
        ("gcd", {"max_numbers": 2, "min_value": 11, "max_value": 60}, {}, 3),
        (
            "countdown",
            {"min_numbers": 2, "max_numbers": 2, "max_value": 6, "max_target": 9, "operators": ["+"]},
            {"normal_form": True},
            4,
        ),
    ],
)
def test_exact_is_the_sum_over_every_response(
    name: str, config: dict[str, Any], options: dict[str, Any], longest: int
) -> None:
    """Every sequence of up to `longest` tokens of the words above, judged by the task itself, summed in float64."""
    config = config | ({"min_target": 2} if name == "countdown" else {})
    source = GymTask(name, config, {"train": 4, "validation": 1, "test": 1}, **options)
    task = task_of(source, longest)
    prompt = task.prompts("test")[0].ids[-4:]  # a short context is enough for the policy
    question = task.prompts("test")[0].ids
    words = range(2, len(WORDS))
    model = random_model("gpt2", torch.float64, vocab=len(task.tokenizer))
    listed = task.solutions(question)
    assert listed is not None
    assert all(all(i < len(WORDS) for i in response) for response in listed)
    responses = [
        (*body, 1) for length in range(longest) for body in itertools.product((0, *words), repeat=length)
    ] + list(itertools.product((0, *words), repeat=longest))
    verdicts = task.verify_many([question] * len(responses), responses)
    correct = [response for response, verdict in zip(responses, verdicts, strict=True) if verdict.correct]
    assert set(correct) == set(listed)
    exact = sum(probability(model, prompt, response) for response in listed)
    brute = sum(probability(model, prompt, response) for response in correct)
    assert exact == pytest.approx(brute, rel=1e-12)  # the same terms in another order
    assert 0 < exact < 1
    source.close()
