"""Output heads: what is read from a model against the logits that the model gives, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    Qwen2Config,
    T5Config,
    T5ForConditionalGeneration,
)

from analysis import UsageError
from analysis.probes.output_heads import find_head, last_hidden_state, unwrap
from tests.probes.causal_lms import FAMILIES, MORE, REFUSED, VOCAB, small_lm

IDS = torch.randint(3, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))


def hidden_and_logits(model, head):
    seen = []
    handle = head.backbone.register_forward_hook(lambda module, args, output: seen.append(last_hidden_state(output)))
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    handle.remove()
    return seen[-1].flatten(0, 1), logits.flatten(0, 1)


@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
def test_logits_follow_from_the_head(family):
    model = small_lm(family, dtype=torch.float64)
    head = find_head(model)
    hidden, logits = hidden_and_logits(model, head)
    torch.testing.assert_close(head.logits(hidden).double(), logits.double(), rtol=1e-6, atol=1e-6)
    head.verify(hidden, logits)
    assert head.vocabulary == VOCAB
    assert head.weight().shape == (VOCAB, head.hidden_size)
    assert head.tied is bool(model.config.get_text_config().tie_word_embeddings)
    assert head.softcap == (0.7 if "gemma" in family else None)


def test_description_says_what_was_found():
    assert find_head(small_lm("gemma2")).description == (
        "Gemma2ForCausalLM.lm_head, Linear 16 → 37, tied, capped at 0.7"
    )
    assert find_head(small_lm("phi (bias)")).description == (
        "PhiForCausalLM.lm_head, Linear 16 → 37, not tied, with bias"
    )
    assert find_head(small_lm("granite")).description.endswith("times 0.25")


@pytest.mark.parametrize("plant", ["scale", "softcap", "bias"])
def test_verify_can_fail(plant):
    from dataclasses import replace

    model = small_lm("phi (bias)" if plant == "bias" else "gemma2")
    head = find_head(model)
    hidden, logits = hidden_and_logits(model, head)
    if plant == "bias":
        model.lm_head.bias.data.add_(0.01)
    else:
        head = replace(head, **{"scale": {"logit_scale": 1.01}, "softcap": {"softcap": 0.71}}[plant])
    with pytest.raises(UsageError, match=r"expected the logits of .* got some that differ by up to"):
        head.verify(hidden, logits)
    with pytest.raises(UsageError, match=r"expected logits of shape \(14, 37\)"):
        head.verify(hidden, logits[:, 1:])


def test_the_weight_is_read_anew():
    model = small_lm("qwen3")
    head = find_head(model)
    model.lm_head.weight.data.add_(1)
    assert torch.equal(head.weight(), model.lm_head.weight)
    assert head.weight().data_ptr() == model.lm_head.weight.data_ptr()
    assert not head.weight().requires_grad


def test_wrappers_are_looked_through():
    model = small_lm("qwen3")
    assert unwrap(torch.compile(model)) is model

    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = model

    assert unwrap(Parallel()) is model
    assert find_head(Parallel()).model is model


@pytest.mark.parametrize("family", REFUSED)
def test_heads_of_several_layers_are_refused(family):
    with pytest.raises(UsageError, match="supported is a decoder-only causal LM"):
        find_head(small_lm(family))


def test_what_is_no_causal_lm_is_refused():
    config = Qwen2Config(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    with pytest.raises(UsageError, match="model: expected a causal LM of transformers, got Linear"):
        find_head(nn.Linear(2, 2))
    for kind in (AutoModel, AutoModelForSequenceClassification):
        with pytest.raises(UsageError, match="expected a causal language model with an output head, got"):
            find_head(kind.from_config(config))
    t5 = T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(
        UsageError, match="expected a causal language model with an output head, got T5ForConditionalGeneration"
    ):
        find_head(T5ForConditionalGeneration(t5))


def test_unknown_factors_and_packed_weights_are_refused():
    model = small_lm("llama")
    model.config.final_logit_multiplier = 2.0
    with pytest.raises(UsageError, match=r"configured with final_logit_multiplier = 2.0, which may change"):
        find_head(model)
    model = small_lm("cohere")
    model.config.logit_scale = 0.0
    with pytest.raises(UsageError, match=r"expected a number other than 0 for logit_scale of Cohere"):
        find_head(model)
    model = small_lm("llama")
    model.lm_head.weight = nn.Parameter(torch.zeros(VOCAB * 8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UsageError, match=r"packed or quantised"):
        find_head(model)
    model = small_lm("llama")
    model.score = nn.Linear(16, 1)
    with pytest.raises(UsageError, match=r"expected a backbone and an output head, got .* with score besides"):
        find_head(model)


def test_a_sharded_weight():
    model = small_lm("llama")
    model.lm_head.weight = nn.Parameter(torch.empty(0))
    head = find_head(model)
    with pytest.raises(
        UsageError,
        match="expected the weight of its head on this rank, got an empty one, as DeepSpeed ZeRO-3 leaves it",
    ):
        head.weight()


def peft_model(**changes):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    fields = {"r": 2, "lora_alpha": 6, "target_modules": ["lm_head", "q_proj"], "init_lora_weights": False}
    return peft.get_peft_model(small_lm("qwen3", dtype=torch.float64), peft.LoraConfig(**(fields | changes)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_bias": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"]},
    ],
)
def test_lora(changes):
    model = peft_model(**changes).eval()
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    head = find_head(model)
    plain = small_lm("qwen3", dtype=torch.float64).lm_head.weight
    if changes.get("modules_to_save"):
        with torch.no_grad():
            model.base_model.model.lm_head.modules_to_save["default"].weight.add_(0.5)
    assert torch.equal(head.weight(), plain) is (changes == {"target_modules": ["q_proj"]})
    head.verify(*hidden_and_logits(model, head))
    with model.disable_adapter():
        assert torch.equal(head.weight(), plain)
        head.verify(*hidden_and_logits(model, head))
    if not changes:
        model.merge_adapter()
        head.verify(*hidden_and_logits(model, head))
        assert not torch.equal(head.weight(), plain)


def test_adapters_that_are_no_single_law_are_refused():
    model = peft_model(lora_dropout=0.5).train()
    with pytest.raises(UsageError, match=r"drops out at random \(p = 0.5\)"):
        find_head(model).weight()
    find_head(model.eval()).weight()
    with pytest.raises(UsageError, match="got a variant of LoRA in the adapter"):
        find_head(peft_model(use_dora=True)).weight()
    peft = pytest.importorskip("peft", reason="peft is not installed")
    ia3 = peft.IA3Config(target_modules=["lm_head"], feedforward_modules=[])
    with pytest.raises(UsageError, match="expected plain LoRA on its head, got an adapter of the kind Linear"):
        find_head(peft.get_peft_model(small_lm("qwen3"), ia3)).weight()
    tokens = peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [1, 2]})
    with pytest.raises(UsageError, match="supported is"):
        find_head(peft.get_peft_model(small_lm("qwen3"), tokens)).weight()


def test_fsdp2(tmp_path):
    """One gloo rank: the parameters are DTensors, the weight a plain tensor."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = small_lm("qwen3")
        plain = model.lm_head.weight.detach().clone()
        fully_shard(model)
        head = find_head(model)
        assert type(head.weight()) is torch.Tensor
        assert torch.equal(head.weight(), plain)
    finally:
        dist.destroy_process_group()
