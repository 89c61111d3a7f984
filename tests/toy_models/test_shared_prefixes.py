"""Shared beginnings against the plain batch and against one row at a time, over architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from toy_models.batching import response_logits, teacher_batch
from toy_models.shared_prefixes import chosen_logits, shared_batch, shared_logits, sharing_fails

VOCAB = 19
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def gpt2(**more: Any) -> Any:
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.4, **ends, **more
        )
    )


def llama(**more: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1, initializer_range=0.4, **more))


def qwen3(**more: Any) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, initializer_range=0.4, **more))


def neox(**more: Any) -> Any:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, initializer_range=0.4, **more))


def eager(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda: make(attn_implementation="eager")


def gemma2() -> Any:
    """Soft caps, and layers with a window that no row of these tests outgrows."""
    config = Gemma2Config(
        **SIZES, num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=64, initializer_range=0.4
    )
    return Gemma2ForCausalLM(config)


WORK = {
    "gpt2": gpt2,
    "gpt2-eager": eager(gpt2),
    "llama-grouped": llama,
    "qwen3": qwen3,
    "qwen3-eager": eager(qwen3),
    "neox": neox,
    "gemma2": gemma2,
}


def made(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make().double().eval()


def rows(seed: int = 0, ragged: bool = True) -> tuple[list[list[int]], list[list[int]]]:
    """24 responses to 5 prompts, `ragged` ones of two lengths, in mixed order, from few tokens so that they share; some
    are equal, and one is the beginning of another."""
    g = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(2, VOCAB, (3 + i % 2 * ragged,), generator=g).tolist() for i in range(4)]
    prompts.append([*prompts[0][:2], 2 + (prompts[0][2] + 1) % (VOCAB - 2)])  # shares tokens, but is another prompt
    owners = torch.randint(0, 5, (24,), generator=g).tolist()
    responses = [
        torch.randint(2, 5, (int(torch.randint(1, 7, (1,), generator=g)),), generator=g).tolist() for _ in owners
    ]
    owners[:4] = [0, 0, 0, 0]
    responses[:4] = [[2, 3, 4, 2], [2, 3], [2, 3, 4, 2], [2]]
    return [prompts[i] for i in owners], responses


def alike(ragged: bool = True) -> tuple[list[list[int]], list[list[int]]]:
    """The rows of `rows` under prompts that all begin with the same ten tokens."""
    prompts, responses = rows(ragged=ragged)
    opening = torch.randint(2, VOCAB, (10,), generator=torch.Generator().manual_seed(7)).tolist()
    return [opening + prompt for prompt in prompts], responses


def gradients(model: Any, logits: torch.Tensor, batch: Any) -> list[torch.Tensor]:
    """Of Σ w·log π_y with a fixed weight for each token."""
    weights = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen = logits.log_softmax(-1).gather(-1, batch.tokens[..., None])[..., 0]
    return list(torch.autograd.grad((weights * chosen)[batch.mask].sum(), list(model.parameters())))


def in_float64(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """The norm of the Llama family, which its own forward rounds to float32."""
    out: torch.Tensor = norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return out


@pytest.mark.parametrize("drawn", [rows, alike])
@pytest.mark.parametrize("name", WORK)
def test_logits_and_gradients_are_those_of_the_plain_pass(
    name: str, drawn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaRMSNorm, "forward", in_float64)
    monkeypatch.setattr(Qwen3RMSNorm, "forward", in_float64)
    model = made(WORK[name])
    # Under left padding the plain pass of these is NaN in float64: their softmax is in float32, their mask is not.
    batch = teacher_batch(*drawn(ragged=name not in ("qwen3-eager", "gemma2")), pad_id=0)
    plain, shared = response_logits(model, batch), shared_logits(model, shared_batch(batch))
    assert shared.shape == plain.shape
    # The softmax of eager attention, and Gemma's norms, are in float32.
    exact = not name.endswith("eager") and name != "gemma2"
    bound = {"rtol": 1e-12, "atol": 1e-12} if exact else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(shared[batch.mask], plain[batch.mask], **bound)
    for got, expected in zip(gradients(model, shared, batch), gradients(model, plain, batch), strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(got / scale, expected / scale, **bound)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", WORK)
def test_chosen_logits_are_those_of_the_whole_responses(
    name: str, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaRMSNorm, "forward", in_float64)
    monkeypatch.setattr(Qwen3RMSNorm, "forward", in_float64)
    model = made(WORK[name])
    batch = teacher_batch(*rows(ragged=name not in ("qwen3-eager", "gemma2")), pad_id=0)
    places = batch.mask.nonzero()
    chosen = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(2))[:11]]
    read: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, args, __: read.append(args[0].shape[:-1].numel()))
    got = chosen_logits(model, batch, *chosen.T, share=share)()
    assert read == [11]  # the head reads these and no others
    expected = response_logits(model, batch)[tuple(chosen.T)]
    exact = not name.endswith("eager") and name != "gemma2"
    bound = {"rtol": 1e-12, "atol": 1e-12} if exact else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(got, expected, **bound)


def test_each_distinct_beginning_is_forwarded_once() -> None:
    prompts, responses = rows()
    batch = teacher_batch(prompts, responses, pad_id=0)
    shared = shared_batch(batch)
    beginnings = {
        (tuple(prompt), tuple(response[:n]))
        for prompt, response in zip(prompts, responses, strict=True)
        for n in range(len(response))
    }
    tokens = sum(map(len, set(map(tuple, prompts)))) + sum(bool(opening) for _, opening in beginnings)
    seen = ~shared.mask[:, 0].isneginf()
    # Padding of the packed rows sees itself alone; a token sees its ancestors, itself included: its position plus one.
    assert (seen.sum(-1) == shared.position_ids + 1).all()
    used = torch.zeros(shared.input_ids.numel(), dtype=torch.bool)
    used[shared.places[batch.mask]] = True
    row, column = used.view_as(shared.input_ids).nonzero(as_tuple=True)
    ancestors = torch.zeros_like(shared.input_ids, dtype=torch.bool)
    for i, j in zip(row.tolist(), column.tolist(), strict=True):
        ancestors[i] |= seen[i, j]
    assert int(ancestors.sum()) == tokens
    # What each place sees is the prompt and the response so far, by position.
    places = shared.places
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        for t in range(len(response)):
            at, where = divmod(int(places[i, t]), shared.input_ids.shape[1])
            visible = seen[at, where].nonzero()[:, 0]
            order = visible[shared.position_ids[at, visible].argsort()]
            assert shared.input_ids[at, order].tolist() == [*prompt, *response[:t]]


def test_prompts_that_begin_alike_share_their_beginning() -> None:
    prompts, responses = alike()
    shared = shared_batch(teacher_batch(prompts, responses, pad_id=0))
    pairs = zip(prompts, responses, strict=True)
    beginnings = {tuple((p + r)[:n]) for p, r in pairs for n in range(1, len(p) + len(r))}
    assert (shared.input_ids != 0).sum() == len(beginnings)
    assert len(shared.input_ids) == 1  # one tree


@pytest.mark.parametrize(("common", "own", "trees"), [(7, 5, 2), (8, 5, 1), (20, 200, 2), (100, 300, 1), (100, 600, 2)])
def test_a_tree_grows_as_long_as_that_saves_more_than_its_attention_costs(common: int, own: int, trees: int) -> None:
    """Two prompts of `common` equal tokens and `own` further ones, with one response token that is never forwarded; by
    hand: joined they save `common` tokens, worth 2048 pairs each, and cost (c + 2w)² − 2(c + w)² pairs of attention."""
    opening = list(range(3, 3 + common))
    prompts = [opening + [2000 + i] * own for i in range(2)]
    shared = shared_batch(teacher_batch(prompts, [[1], [1]], pad_id=0))
    assert int((shared.position_ids == 0).logical_and(shared.input_ids == 3).sum()) == trees
    worth, cost = 2048 * common, (common + 2 * own) ** 2 - 2 * (common + own) ** 2
    assert (trees == 1) == (common >= 8 and cost < worth)


@pytest.mark.parametrize(("longer", "trees"), [(20, 1), (1200, 4)])
def test_long_responses_to_a_short_prompt_have_trees_of_their_own(longer: int, trees: int) -> None:
    """By hand: a second response of r tokens saves the 4 of the prompt, and costs about 2r² pairs of attention."""
    responses = [[5 + i] * longer for i in range(4)]
    shared = shared_batch(teacher_batch([[3, 4, 3, 4]] * 4, responses, pad_id=0))
    assert int((shared.position_ids == 0).logical_and(shared.input_ids == 3).sum()) == trees
    assert (2 * longer**2 < 2048 * 4) == (trees == 1)


def test_hooks_of_the_head_see_the_layout_of_a_plain_pass() -> None:
    model = made(gpt2)
    batch = teacher_batch(*rows(), pad_id=0)
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    response_logits(model, batch)
    shared_logits(model, shared_batch(batch))
    handle.remove()
    assert not model.get_output_embeddings()._forward_pre_hooks
    plain, shared = seen[0][:, -batch.tokens.shape[1] :], seen[1]
    torch.testing.assert_close(shared[batch.mask], plain[batch.mask], rtol=1e-12, atol=1e-12)


def windowed() -> Any:
    return MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4, initializer_range=0.4))


def bloom() -> Any:
    return BloomForCausalLM(
        BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=2, pad_token_id=0, initializer_range=0.4)
    )


def mamba() -> Any:
    return MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (windowed, "differ by up to"),
        (bloom, "refuses a mask of its own for each token"),
        (mamba, "refuses a mask of its own for each token|differ by up to"),
        *((make, None) for make in WORK.values()),
    ],
)
def test_models_that_cannot_share_are_refused_in_words(make: Callable[[], Any], reason: str | None) -> None:
    failure = sharing_fails(made(make).float(), [5, 6, 7, 8], [3, 4, 2, 9, 10, 3, 4, 1], pad_id=0)
    assert failure is None if reason is None else failure is not None
    if reason is not None and failure is not None:
        assert any(part in failure for part in reason.split("|")), failure


def test_a_head_that_is_called_twice_is_refused() -> None:
    model = made(gpt2)
    head, forward = model.get_output_embeddings(), model.transformer.forward

    def twice(*args: Any, **named: Any) -> Any:
        out = forward(*args, **named)
        head(out[0])
        return out

    model.transformer.forward = twice
    batch = teacher_batch(*rows(), pad_id=0)
    with pytest.raises(ValueError, match=r"expected one call of its output head .* got 2"):
        shared_logits(model, shared_batch(batch))
