"""Streamed logits against dense ones: updates in every setting, kinds of output head, records, autocast, memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from analysis import UsageError
from analysis.recipes.fields import RecordFields
from analysis.training import token_logits
from analysis.training.record_rows import UpdateIndex, pass_statistics, token_rows
from analysis.training.step_targets import StepTargets
from analysis.training.token_logits import DenseLogits, StreamedLogits, own_log_prob
from analysis.training.update import UpdateResult
from tests.training.naive_update import VOCAB, make_config, make_updater, random_batch, random_policy
from tests.training.test_shared_prompts import CASES, compare, updated
from toy_models import Policy, response_logits, teacher_batch

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.4,
}


@pytest.fixture(autouse=True)
def three_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_logits, "AT_ONCE", 3 * VOCAB)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", [name for name in CASES if name != "critic"])
def test_streamed_logits_make_the_update_of_dense_ones(name: str, shared: bool) -> None:
    streamed = updated(CASES[name], logits="streamed", shared_prompts=shared)
    assert all("logits" not in values for values in streamed["rollouts"].values())
    compare(streamed, updated(CASES[name], logits="dense"))


def test_auto_streams_where_dense_logits_would_be_many() -> None:
    for rows, kind in ((1, DenseLogits), (8, StreamedLogits)):
        updater = make_updater(make_config())
        batch = random_batch(updater.objective)
        short = dataclasses.replace(batch, responses=[[2, 3]] * 16, lengths=torch.full((16,), 2))
        passes = updater.apply(short, StepTargets.on_policy(short), torch.arange(rows), None, "update 0").passes
        assert all(isinstance(one.token_logits, kind) for one in passes if len(one.rows) in (1, 8)), rows
    critical = make_updater(make_config(update={"logits": "auto"}))
    critical.runner._keeps_hidden = True  # a critic reads what the head reads: the head must read all of it
    passes = critical.apply(batch, StepTargets.on_policy(batch), torch.arange(16), None, "update 0").passes
    assert all(isinstance(one.token_logits, DenseLogits) for one in passes)


def tied() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))


def untied() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))


def capped() -> Any:
    return Gemma2ForCausalLM(
        Gemma2Config(**SIZES, head_dim=8, query_pre_attn_scalar=8, sliding_window=64, final_logit_softcapping=2.0)
    )


def multiplied() -> Any:
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.3))


def divided() -> Any:
    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=3.0))


def biased() -> Any:
    model = PhiForCausalLM(PhiConfig(**SIZES))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def adapted(targets: list[str]) -> Callable[[], Any]:
    def model() -> Any:
        peft = pytest.importorskip("peft", reason="peft is not installed")
        made = peft.get_peft_model(untied(), peft.LoraConfig(r=2, lora_alpha=8, target_modules=targets))
        for name, parameter in made.named_parameters():
            if "lora_B" in name:  # zero at first
                torch.nn.init.normal_(parameter, std=0.3)
        return made

    return model


HEADS: dict[str, Callable[[], Any]] = {
    "tied": tied,
    "untied": untied,
    "soft cap": capped,
    "multiplied": multiplied,
    "divided": divided,
    "bias": biased,
    "LoRA in the layers": adapted(["q_proj", "v_proj"]),
    "LoRA on the head": adapted(["q_proj", "lm_head"]),
}


@pytest.mark.parametrize("kind", HEADS)
def test_every_kind_of_head_has_the_values_and_gradients_of_its_logits(kind: str) -> None:
    """The backbone runs once, so that norms which round to float32 cannot tell the two apart; all else is float64."""
    torch.manual_seed(0)
    policy = random_policy()
    policy.model = HEADS[kind]().double().eval()
    updater = make_updater(make_config(rollout={"temperature": 0.7}, update={"logits": "streamed"}), policy)
    batch = random_batch(updater.objective)
    teacher = teacher_batch([p.ids[:3] for p in batch.prompts for _ in range(4)], batch.responses, pad_id=0)
    streamed = updater.runner._token_logits(policy.model, teacher)
    assert isinstance(streamed, StreamedLogits)
    dense = response_logits(policy.model, teacher) / 0.7
    assert dense.std() > 0.1
    weights = torch.randn(teacher.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for function, others in ((own_log_prob, (teacher.tokens,)), (token_logits_entropy, ())):
        got, expected = streamed.per_token(function, *others), function(dense, *others)
        # The pass of the backbone rounds its norms to float32, alike in both but for the layout of rows.
        torch.testing.assert_close(got[teacher.mask], expected[teacher.mask], rtol=1e-5, atol=1e-5)
        exact = function(torch.cat(list(streamed.parts(teacher.mask))), *(other[teacher.mask] for other in others))
        torch.testing.assert_close(got[teacher.mask], exact, rtol=1e-12, atol=1e-12)
        assert (got[~teacher.mask] == 0).all()
        for a, b in zip(
            torch.autograd.grad((got * weights).sum(), updater.parameters, retain_graph=True, allow_unused=True),
            torch.autograd.grad(
                (expected * weights)[teacher.mask].sum(), updater.parameters, retain_graph=True, allow_unused=True
            ),
            strict=True,
        ):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                scale = max(1.0, b.abs().max().item())
                torch.testing.assert_close(a / scale, b / scale, rtol=1e-5, atol=1e-5)


def token_logits_entropy(logits: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Categorical(logits=logits).entropy()


@pytest.mark.parametrize("kind", ["tied", "soft cap", "LoRA on the head"])
def test_gradients_of_the_head_are_exact(kind: str) -> None:
    """From the same hidden states, in float64: of them and of every parameter of the head."""
    torch.manual_seed(0)
    policy = random_policy()
    policy.model = HEADS[kind]().double().eval()
    updater = make_updater(make_config(update={"logits": "streamed"}), policy)
    batch = random_batch(updater.objective)
    teacher = teacher_batch([p.ids[:3] for p in batch.prompts for _ in range(4)], batch.responses, pad_id=0)
    streamed = updater.runner._token_logits(policy.model, teacher)
    assert isinstance(streamed, StreamedLogits)
    hidden = streamed.hidden.detach().requires_grad_()
    streamed = dataclasses.replace(streamed, hidden=hidden)
    at = [hidden, *(p for p in streamed.head.module.parameters() if p.requires_grad)]
    weights = torch.randn(int(teacher.mask.sum()), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = streamed.per_token(own_log_prob, teacher.tokens)[teacher.mask]
    expected = own_log_prob(streamed.head.differentiable(hidden), teacher.tokens[teacher.mask])
    for a, b in zip(*(torch.autograd.grad((values * weights).sum(), at) for values in (got, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def looked(
    updater: Any, fields: RecordFields, *, by_sign: bool = True
) -> tuple[UpdateResult, list[Any], dict[tuple[int, int], dict[str, Any]]]:
    """An update, the statistics of its passes and the rows of `tokens` by rollout and position."""
    batch = random_batch(updater.objective)
    statistics: list[Any] = []
    rows: dict[tuple[int, int], dict[str, Any]] = {}

    def look(result: UpdateResult) -> None:
        groups = torch.tensor([False, True, False, True])
        for one in result.passes:
            statistics.append(pass_statistics(one, fields))
            columns = token_rows(UpdateIndex(0, 0, 0, 0), one, batch, groups, fields, statistics[-1])
            assert columns is not None
            lists = {name: np.asarray(getattr(c, "values", c)) for name, c in columns.items() if c is not None}
            n = len(lists["position"])
            for i in range(n):
                row = {name: c.reshape(n, -1)[i] for name, c in lists.items() if c.ndim and len(c) % n == 0}
                rows[int(lists["rollout"][i]), int(lists["position"][i])] = row

    targets = StepTargets.on_policy(batch)
    result = updater.apply(batch, targets, torch.arange(16), None, "update 0", by_sign=by_sign, before_step=look)
    return result, statistics, rows


@pytest.mark.parametrize("by_sign", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_records_are_those_of_dense_logits(dtype: torch.dtype, by_sign: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.training import record_rows

    monkeypatch.setattr(record_rows, "_SORTED_AT_ONCE", 2 * VOCAB)
    fields = RecordFields(tokens=0.5, columns="full", top_k=4)
    tables = []
    for logits in ("dense", "streamed"):
        policy = random_policy()
        policy.model.to(dtype)
        updater = make_updater(make_config(rollout={"temperature": 0.7}, update={"logits": logits}), policy)
        tables.append(looked(updater, fields, by_sign=by_sign))
    (_, dense, dense_rows), (_, streamed, streamed_rows) = tables
    # float32 statistics are relatively accurate to 2e-5 from logits that differ by the rounding of a product
    bound = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
    for a, b in zip(streamed, dense, strict=True):
        for name in ("log_prob", "one_minus_prob", "entropy", "collision", "direction_norm"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), **bound, msg=name)
    assert streamed_rows.keys() == dense_rows.keys()
    names = dense_rows[next(iter(dense_rows))].keys()
    assert {"bucket_mass", "top_ids", "top_probs", "token_rank", "weight"} <= names
    for key, row in dense_rows.items():
        for name in names:
            if row[name].dtype.kind in "if":
                loose = {"rtol": 1e-4, "atol": 1e-6}  # records are float32
                np.testing.assert_allclose(streamed_rows[key][name], row[name], **loose, err_msg=name)


def test_statistics_are_those_of_the_parameters_before_the_step() -> None:
    for lr in (0.0, 0.5):
        config = make_config(update={"logits": "streamed"}, optimizer={"lr": lr})
        result, statistics, _ = looked(make_updater(config), RecordFields(tokens=0.5))
        for one, stats in zip(result.passes, statistics, strict=True):
            torch.testing.assert_close(stats.log_prob, one.log_probs[one.mask], rtol=1e-10, atol=1e-12)


def test_under_autocast_streamed_logits_are_rounded_as_dense_ones() -> None:
    values = []
    for logits in ("dense", "streamed"):
        policy = random_policy()
        policy.model.float()
        updater = make_updater(make_config(update={"logits": logits, "autocast": "bfloat16"}), policy)
        batch = random_batch(updater.objective)
        values.append(updater.runner.log_probs(policy.model, batch, range(16)))
    # Logits of up to 10 in bfloat16 are 2^-5 apart; most are the same, since they are products of the same numbers.
    assert (values[0] - values[1]).abs().max() < 0.1
    assert (values[0] == values[1]).float().mean() > 0.5


def test_a_head_of_an_unknown_kind_is_asked_for_its_logits() -> None:
    policy = random_policy()
    policy.model.config.logits_warp = 2.0  # a field that may change the logits, for all anyone knows
    with pytest.raises(UsageError, match=r"configured with logits_warp = 2\.0"):
        make_updater(make_config(update={"logits": "streamed"}), policy)
    updater = make_updater(make_config(), policy)
    batch = random_batch(updater.objective)
    passes = updater.apply(batch, StepTargets.on_policy(batch), torch.arange(16), None, "update 0").passes
    assert all(isinstance(one.token_logits, DenseLogits) for one in passes)


def test_a_model_that_changes_its_logits_itself_is_found_out() -> None:
    class Warped(GPT2LMHeadModel):
        def forward(self, *args: Any, **named: Any) -> Any:
            output = super().forward(*args, **named)
            output.logits = output.logits * 1.5
            return output

    policy: Policy = random_policy()
    policy.model.__class__ = Warped
    updater = make_updater(make_config(update={"logits": "streamed"}), policy)
    batch = random_batch(updater.objective)
    with pytest.raises(UsageError, match="expected the logits of Warped"):
        updater.apply(batch, StepTargets.on_policy(batch), torch.arange(16), None, "update 0")


class Largest(TorchDispatchMode):
    """The numbers of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_the_logits_of_all_tokens_never_exist() -> None:
    largest = {}
    for logits in ("dense", "streamed"):
        policy = random_policy()
        policy.model = GPT2LMHeadModel(
            GPT2Config(vocab_size=512, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1)
        ).eval()
        updater = make_updater(make_config(update={"logits": logits}), policy)
        batch = random_batch(updater.objective, groups=8, group_size=8)
        with Largest() as seen:
            updater.apply(batch, StepTargets.on_policy(batch), torch.arange(64), None, "update 0", by_sign=False)
        largest[logits] = seen.numbers
    tokens = int(batch.lengths.sum())
    assert largest["dense"] >= tokens * 512
    assert largest["streamed"] < tokens * 512 / 2
