"""Kinds of causal language models that people train: each is sampled, differentiated, trained and recorded the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.common.batching import check_batching
from analysis.records import load_trace
from tests.offline.byte_models import byte_tokenizer, small_model
from tests.training.test_model_sources import file_recipe, train_run
from toy_models import Policy, Prompt, load_policy, sample

WINDOW = 4  # shorter than any prompt with its response below

# What the library passes off as one class differs in what a policy depends on: positions (rotary, learned), the window
# of attention, caps on logits, tied heads, parallel layers.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral, window": ("MistralConfig", {"sliding_window": WINDOW}),
    "gemma2, windows and caps": (
        "Gemma2Config",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
        },
    ),
    "gpt2": ("GPT2Config", {"resid_pdrop": 0.1}),
    "gpt-neox": ("GPTNeoXConfig", {}),
    "phi": ("PhiConfig", {}),
}


# Attention of the kind eager, which caps need, computes in float32 by itself and does not stand padding in float64.
SINGLE = {"gemma2, windows and caps"}


def dtype_of(kind: str) -> str:
    """The precision in which a kind is tested."""
    return "float32" if kind in SINGLE else "float64"


def policy_of(kind: str, dtype: str | None = None) -> Policy:
    """A random policy of the kind with one token a byte; a few rows more than tokens, as in released models."""
    import transformers as hf

    name, fields = KINDS[kind]
    tokenizer = byte_tokenizer()
    model = small_model(len(tokenizer) + 3, getattr(hf, name), **fields)
    return Policy(model.to(getattr(torch, dtype or dtype_of(kind))), tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sampled_is_what_is_differentiated(kind: str) -> None:
    """Log-probs of the sampler, with its cache and padding, against one pass over each response alone."""
    policy = policy_of(kind)
    rounding = 1e-10 if policy.model.dtype == torch.float64 else 2e-5  # of sums in another order
    prompts, group, length = [[70, 71, 72], [80, 81, 82, 83, 84, 85, 86]], 3, 9
    uniforms = torch.rand(6, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        samples = sample(
            policy.model,
            prompts,
            group_size=group,
            max_new_tokens=length,
            eos_id=policy.end_ids,
            pad_id=policy.pad_id,
            uniforms=uniforms,
        )
        repeated = [prompt for prompt in prompts for _ in range(group)]
        responses = [row[:n].tolist() for row, n in zip(samples.response_ids, samples.lengths.tolist(), strict=True)]
        together, mask = policy.log_probs(repeated, responses)
        for row, (prompt, response) in enumerate(zip(repeated, responses, strict=True)):
            logits = policy.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
            alone = logits.log_softmax(-1)[range(len(response)), response]
            assert torch.allclose(samples.log_probs[row, : len(response)], alone, rtol=0, atol=rounding), kind
            assert torch.allclose(together[row][mask[row]], alone, rtol=0, atol=rounding), kind
    assert max(map(len, responses)) > WINDOW


def test_a_window_is_a_window() -> None:
    """The check above would be empty for windows if the model looked further back."""
    for kind in ("mistral, window", "gemma2, windows and caps"):
        model = policy_of(kind).model
        ids = torch.tensor([[70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81]])
        wide = policy_of(kind).model
        wide.config.sliding_window = 64
        for layer in wide.model.layers:
            if getattr(layer.self_attn, "sliding_window", None) is not None:
                layer.self_attn.sliding_window = 64
        with torch.no_grad():
            difference = (model(ids).logits - wide(ids).logits).abs().amax(-1)[0]
        assert difference[:WINDOW].max() < 1e-5
        assert difference[-1] > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_of_the_loop(kind: str, tmp_path: Path) -> None:
    policy = policy_of(kind)
    policy.save(tmp_path / "base")
    recipe = file_recipe(
        tmp_path,
        tmp_path / "base",
        policy__dtype=dtype_of(kind),
        optimizer__lr=1e-4,
        record__contexts_every=1,
        task__false_positive=0.5,
    )
    assert train_run(recipe, tmp_path / "run") == "complete"
    trace = load_trace(tmp_path / "run")
    tokens, flows = trace.table("tokens"), trace.table("flows")
    assert tokens["log_prob"].notna().all()
    assert trace.table("updates")["param_step_norm"].gt(0).all()
    realised, predicted = flows["log_prob_after"] - flows["log_prob_before"], flows["jvp_dlog_prob"]
    assert realised.abs().max() > 1e-6
    assert 1 - (realised - predicted).pow(2).sum() / realised.pow(2).sum() > 0.99, kind


def test_padding_that_overflows_is_refused() -> None:
    policy = policy_of("gemma2, windows and caps", "float64")
    prompts = [Prompt("", (70,) * n, "", "train", None) for n in (3, 7)]
    with pytest.raises(
        UsageError, match=r"base: expected finite log-probs .* Gemma2ForCausalLM: .*policy.dtype = .float32"
    ):
        check_batching(policy, prompts, 4, "policy.base")
    check_batching(policy, prompts[:1], 4)
    check_batching(policy_of("gemma2, windows and caps"), prompts, 4)


@pytest.mark.slow
def test_several_end_tokens_no_padding_token_and_more_rows_than_tokens(tmp_path: Path) -> None:
    """Every end token ends, padding is masked, and a token beyond the tokenizer is a wrong answer like any other."""
    tokenizer = byte_tokenizer()
    known = len(tokenizer)
    model = small_model(known + 27)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end>")]
    model.generation_config.eos_token_id = ends
    tokenizer.pad_token = None
    with torch.no_grad():  # hidden states of one sign, so that a few tokens are common: ends, "1", rows of no token
        for name, parameter in model.named_parameters():
            if "embed" in name:
                parameter.abs_()
            elif "layers" in name and parameter.ndim > 1:
                parameter.mul_(0.01)
        model.lm_head.weight.fill_(-1.0)
        model.lm_head.weight[[*ends, *tokenizer.encode("1"), known, known + 26]] = 0.0
    Policy(model, tokenizer).save(tmp_path / "base")
    policy = load_policy(tmp_path / "base")
    assert policy.end_ids == tuple(ends)
    assert policy.pad_id == tokenizer.eos_token_id
    recipe = file_recipe(tmp_path, tmp_path / "base", rollout__group_size=64)
    (tmp_path / "train.jsonl").write_text("".join(f'{{"prompt": "{i}=", "answer": "1"}}\n' for i in range(40)))
    assert train_run(recipe, tmp_path / "run") == "complete"
    rollouts = load_trace(tmp_path / "run").table("rollouts")
    beyond = rollouts["response_ids"].map(lambda ids: bool((ids >= known).any()))
    assert beyond.any()
    assert rollouts.loc[beyond, "reward"].eq(0).all()
    as_text = rollouts["response_text"].str.replace(r"<eos>|<end>", "", regex=True)
    assert (beyond & (as_text == "1")).any()  # right as a text
    assert rollouts.loc[~beyond & rollouts["finished"] & (as_text == "1"), "reward"].eq(1).all()
    assert rollouts["response_text"].map(type).eq(str).all()
    last = rollouts["response_ids"].map(lambda ids: ids[-1])
    assert set(last[rollouts["finished"]]) == set(ends)
    assert rollouts["response_ids"].map(lambda ids: not set(ids[:-1]) & set(ends)).all()
