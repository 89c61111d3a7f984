"""Arithmetic for pretrained models: what is asked, what is correct, and exact success against brute force."""

import itertools
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from analysis.evaluation import success_probability
from toy_models import Policy, get_task
from toy_models.end_tokens import add_end_tokens, policy_end_tokens
from toy_models.tasks.registry import TEXT_TASKS, text_task_lengths, text_task_sizes
from toy_models.tasks.task import SPLITS

CHARACTERS = ["<pad>", "<end>", "\n", " ", "+", "=", *"0123456789"]
END, LINE = 1, 2


def tokenizer() -> Any:
    """Every character is one token."""
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>")


def answers(task_name: str, text: str) -> set[str]:
    """The correct answers to a prompt by its text alone."""
    asked = text.splitlines()[-1].removesuffix(" =")
    if task_name == "addition":
        first, second = asked.split(" + ")
        return {f" {int(first) + int(second)}"}
    return {f" {a} + {b}" for a, b in itertools.product(range(1, 100), repeat=2) if a + b == int(asked)}


@pytest.mark.parametrize("name", TEXT_TASKS)
class TestTasks:
    def test_every_correct_response_is_listed_with_every_end(self, name: str) -> None:
        task = get_task(name, tokenizer(), [END, LINE])
        for split in SPLITS:
            for prompt in task.prompts(split):
                listed = task.solutions(prompt.ids)
                assert listed is not None
                assert {task.tokenizer.decode(y[:-1]) for y in listed} == answers(name, prompt.text)
                assert {y[-1] for y in listed} == {END, LINE}
                assert len(set(listed)) == len(listed) == 2 * len(answers(name, prompt.text))
                assert max(map(len, listed)) <= task.max_new_tokens

    def test_lengths_are_known_without_a_tokenizer(self, name: str) -> None:
        """Every character is a token here, so that the bounds are reached."""
        task = get_task(name, tokenizer(), [END, LINE])
        prompts = [prompt for split in SPLITS for prompt in task.prompts(split)]
        longest = max(len(solution) for prompt in prompts for solution in task.solutions(prompt.ids) or [])
        assert text_task_lengths(name) == (max(len(prompt.ids) for prompt in prompts), longest)

    def test_the_examples_are_true(self, name: str) -> None:
        for prompt in get_task(name, tokenizer()).prompts("train"):
            for line in prompt.text.splitlines()[:-1]:
                left, right = line.split(" = ")
                assert sum(map(int, left.split(" + "))) == sum(map(int, right.split(" + ")))

    def test_no_question_is_in_two_splits(self, name: str) -> None:
        task = get_task(name, tokenizer())
        asked = {split: {p.text.splitlines()[-1] for p in task.prompts(split)} for split in SPLITS}
        assert not asked["train"] & asked["test"]
        assert not asked["train"] & asked["validation"]
        assert not asked["validation"] & asked["test"]
        sizes = {split: len({p.ids for p in task.prompts(split)}) for split in SPLITS}
        assert sizes == text_task_sizes(name)

    def test_prompts_are_the_same_in_every_process(self, name: str) -> None:
        first, second = (get_task(name, tokenizer()).prompts("train") for _ in range(2))
        assert first == second

    def test_verdicts(self, name: str) -> None:
        task = get_task(name, tokenizer(), [END, LINE])
        prompt = task.prompts("test")[3]
        right = sorted(answers(name, prompt.text))[0]
        encode = task.tokenizer.encode
        for text, correct, reason in [
            (f"{right}\n", True, "correct"),
            (f"{right}<end>", True, "correct"),
            (right, False, "cut off"),
            (f"{right} \n", False, "wrong"),
            (right.replace(" ", "", 1) + "\n", False, "wrong"),
            (" 0 + 1\n", False, "wrong"),
            ("\n", False, "wrong"),
        ]:
            verdict = task.verify(prompt.ids, encode(text, add_special_tokens=False))
            assert (verdict.correct, verdict.reason) == (correct, reason), text

    def test_a_foreign_prompt(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"expected a prompt of the task {name}, got '1 ='"):
            get_task(name, tokenizer()).verify([7, 3, 5], [END])

    def test_no_tokenizer_or_no_end(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"task {name}: expected the tokenizer of a policy, got none"):
            get_task(name)
        with pytest.raises(ValueError, match=r"expected a token that ends a response.*policy.end_tokens"):
            get_task(name, tokenizer(), ())


def test_the_sum_of_all_correct_responses_is_the_success_probability() -> None:
    """float64 against every response of up to four tokens, judged one by one. 1e-12 is far above the rounding of a sum
    of 14³·16 terms below 1. The tokenizer has 16 tokens, two of which end a response, so that all can be judged."""
    task = get_task("addition", tokenizer(), [END, LINE])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(CHARACTERS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model: Any = LlamaForCausalLM(config).double().eval()
    prompt = task.prompts("test")[0]
    listed = task.solutions(prompt.ids)
    assert listed is not None
    exact = success_probability(model, [prompt.ids], [listed]).item()
    total = 0.0
    reached: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    with torch.no_grad():
        for _ in range(task.max_new_tokens):
            rows = torch.tensor([[*prompt.ids, *prefix] for prefix, _ in reached])
            probs = torch.cat([model(part).logits[:, -1].softmax(-1) for part in rows.split(4096)])
            longer = []
            for (prefix, mass), row in zip(reached, probs.tolist(), strict=True):
                for token, probability in enumerate(row):
                    response = (*prefix, token)
                    if token in (END, LINE):
                        total += mass * probability * task.verify(prompt.ids, response).correct
                    else:
                        longer.append((response, mass * probability))
            reached = longer
    assert exact == pytest.approx(total, abs=1e-12)
    assert exact > 0


class TestEndTokens:
    def policy(self) -> Policy:
        model: Any = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=END))
        return Policy(model, tokenizer())

    def test_added(self) -> None:
        policy = self.policy()
        add_end_tokens(policy, ["\n"])
        assert policy_end_tokens(policy) == (END, LINE)
        assert policy.model.generation_config.eos_token_id == [END, LINE]

    @pytest.mark.parametrize("text", ["12", ""])
    def test_not_one_token(self, text: str) -> None:
        with pytest.raises(
            ValueError, match=re.escape(f"policy.end_tokens: expected texts that are one token each, got {text!r}")
        ):
            add_end_tokens(self.policy(), ["\n", text])
