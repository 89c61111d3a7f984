from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_models.random_models import random_model
from toy_models import Policy, response_logits, teacher_batch

ids = st.lists(st.integers(2, 28), min_size=1, max_size=6)


def naive_logits(model: torch.nn.Module, prompt: list[int], response: list[int]) -> torch.Tensor:
    """One row, no padding, no cache: the definition."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]


# Float64 leaves float32 inside: the RMS norms of transformers compute in float32 whatever the input.
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_response_logits_are_those_of_single_rows(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model = random_model(kind, dtype)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.tuples(ids, ids), min_size=1, max_size=5))
    def check(pairs: list[tuple[list[int], list[int]]]) -> None:
        prompts, responses = [p for p, _ in pairs], [r for _, r in pairs]
        batch = teacher_batch(prompts, responses, 0)
        with torch.no_grad():
            logits = response_logits(model, batch)
        assert logits.shape == (*batch.tokens.shape, 29)
        assert batch.mask.sum(1).tolist() == [len(r) for r in responses]
        for b, (prompt, response) in enumerate(pairs):
            assert batch.tokens[b, : len(response)].tolist() == response
            expected = naive_logits(model, prompt, response)
            assert (logits[b, : len(response)] - expected).abs().max() <= tolerance

    check()


def test_no_mask_where_no_prompt_needs_one() -> None:
    batch = teacher_batch([[5, 6], [7, 8]], [[9], [3, 4, 1]], 0)
    assert batch.attention_mask is None
    assert batch.position_ids is None
    assert batch.input_ids.tolist() == [[5, 6, 9, 0, 0], [7, 8, 3, 4, 1]]
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]


def test_left_padding_counts_positions_from_the_first_token() -> None:
    batch = teacher_batch([[6], [7, 8]], [[9], [3, 1]], 0)
    assert batch.input_ids.tolist() == [[0, 6, 9, 0], [7, 8, 3, 1]]
    assert batch.attention_mask is not None
    assert batch.position_ids is not None
    assert batch.attention_mask.tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 0, 1, 1], [0, 1, 2, 3]]


def test_log_probs_have_gradients_of_unpadded_rows() -> None:
    model = random_model("qwen3", torch.float64)
    policy = Policy(model, tokenizer=_Tokenizer())  # type: ignore[arg-type]
    prompts, responses = [[5], [6, 7, 8]], [[9, 10, 1], [11]]
    log_probs, mask = policy.log_probs(prompts, responses)
    assert log_probs[~mask].tolist() == [0.0, 0.0]
    batched = torch.autograd.grad(log_probs.sum(), model.get_input_embeddings().weight)[0]
    total = torch.zeros(())
    for prompt, response in zip(prompts, responses, strict=True):
        row = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        total = total + row[range(len(response)), response].sum()
    alone = torch.autograd.grad(total, model.get_input_embeddings().weight)[0]
    assert (batched - alone).abs().max() <= 1e-9 * alone.abs().max()


class _Tokenizer:
    pad_token_id, eos_token_id = 0, 1


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        ([], [], "responses: expected one for each of the prompts"),
        ([[1]], [[1], [2]], "got 2 for 1 prompts"),
        ([[1], []], [[1], [2]], "prompts: expected at least one token in each, got none in row 1"),
        ([[1]], [[]], "responses: expected at least one token in each, got none in row 0"),
    ],
)
def test_bad_input_is_refused(prompts: list[list[int]], responses: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teacher_batch(prompts, responses, 0)
