"""A policy and a task so small that every response can be listed: expectations become sums, in float64."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from toy_models import Policy, Prompt, Verdict

PAD, END, VOCAB, LONGEST = 0, 1, 5, 3


def every_response() -> list[tuple[int, ...]]:
    """All responses that sampling can give: ended by the end token, or cut off at three tokens."""
    every = itertools.chain.from_iterable(itertools.product(range(VOCAB), repeat=n) for n in range(1, LONGEST + 1))
    return [ids for ids in every if END not in ids[:-1] and (ids[-1] == END or len(ids) == LONGEST)]


class SumTask:
    """Correct is a response whose tokens add up to a multiple of three with the prompt's."""

    name = "sums"
    max_new_tokens = LONGEST

    def __init__(self, listed: bool = True) -> None:
        self.listed = listed

    def prompts(self, split: str) -> list[Prompt]:
        ids = [(2, 3), (4, 4), (3, 2, 4)]
        return [Prompt(f"p{i}", x, "", split, None) for i, x in enumerate(ids)]

    def verify(self, prompt_ids, response_ids) -> Verdict:
        good = (sum(prompt_ids) + sum(response_ids)) % 3 == 0
        return Verdict(good, "correct" if good else "wrong")

    def solutions(self, prompt_ids):
        return [y for y in every_response() if self.verify(prompt_ids, y).correct] if self.listed else None


def random_policy(seed: int = 0) -> Policy:
    """GPT-2, since the norms of the Llama family round to float32 inside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB,
                n_embd=8,
                n_layer=1,
                n_head=2,
                n_positions=8,
                initializer_range=0.4,
                bos_token_id=END,
                eos_token_id=END,
                pad_token_id=PAD,
            )
        )
    return Policy(model.double().train(), SimpleNamespace(pad_token_id=PAD, eos_token_id=END))


def score(policy: Policy, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float):
    """(log π_T(y | x), ∇θ of it as one vector), by one unpadded forward pass and one backward pass."""
    was_training = policy.model.training
    policy.model.eval()
    log_probs = (policy.model(torch.tensor([[*prompt, *response]])).logits[0] / temperature).log_softmax(-1)
    policy.model.train(was_training)
    value = sum(log_probs[len(prompt) - 1 + t, token] for t, token in enumerate(response))
    parts = torch.autograd.grad(value, list(policy.model.parameters()))
    return value.item(), torch.cat([part.flatten() for part in parts])
