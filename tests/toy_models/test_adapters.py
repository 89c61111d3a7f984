from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy_models.random_models import random_model
from toy_models import LoraSettings, Policy, load_policy
from toy_models.adapters import TrainedWeights, add_lora, start_copy
from toy_models.model_sources.adapter_folder import adapter_base, is_adapter
from toy_models.tasks.tokenizer import word_tokenizer

WORDS = ["<pad>", "$", *(f"w{i}" for i in range(27))]
IDS = torch.tensor([[4, 5, 6, 7, 8]])
SETTINGS = LoraSettings(2, 6.0, ("q_proj", "v_proj"))
# Two ways to the same numbers in float64, W x + s B A x and (W + s B A) x: rounding alone.
ROUNDING = {"rtol": 0.0, "atol": 1e-10}


def saved(folder: Path, kind: str = "llama", **options: Any) -> Path:
    """A small model with its tokenizer in a folder."""
    Policy(random_model(kind, **options), word_tokenizer(WORDS, pad="<pad>", eos="$")).save(folder)
    return folder


def trained(folder: Path, settings: LoraSettings = SETTINGS) -> Policy:
    """A policy with an adapter that is not zero any more."""
    policy = load_policy(folder, lora=settings, dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.3)
    return policy


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(IDS).logits
    return result


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_a_policy_with_a_new_adapter_is_its_base(kind: str, tmp_path: Path) -> None:
    base = load_policy(saved(tmp_path, kind), dtype=torch.float64).model
    policy = load_policy(tmp_path, lora=LoraSettings(2), dtype=torch.float64)
    assert torch.equal(logits(policy.model), logits(base))
    names = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float64}
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in names}
    kinds = {"gpt2": {"c_attn", "c_proj", "c_fc"}}
    usual = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert adapted == kinds.get(kind, usual)


def test_the_random_half_follows_the_seed_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path)

    def half(seed: int) -> torch.Tensor:
        model = load_policy(tmp_path, lora=SETTINGS, seed=seed).model
        weights: torch.Tensor = model.model.layers[0].self_attn.q_proj.lora_A["default"].weight.detach()
        return weights

    before = torch.random.get_rng_state()
    first = half(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(9)
    assert torch.equal(half(0), first)
    assert not torch.equal(half(1), first)


def test_the_adapter_is_added_with_its_scale(tmp_path: Path) -> None:
    base = load_policy(saved(tmp_path), dtype=torch.float64).model
    policy = trained(tmp_path)
    for ours, theirs in zip(base.model.layers, policy.model.model.layers, strict=True):
        for name in ("q_proj", "v_proj"):
            layer = theirs.self_attn.get_submodule(name)
            update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            ours.self_attn.get_submodule(name).weight.data += 6.0 / 2 * update
    assert torch.allclose(logits(policy.model), logits(base), **ROUNDING)


def test_the_start_is_the_base_and_shares_its_weights(tmp_path: Path) -> None:
    base = load_policy(saved(tmp_path), dtype=torch.float64).model
    policy = trained(tmp_path)
    changed = logits(policy.model)
    start = start_copy(policy.model)
    assert torch.equal(logits(start), logits(base))
    assert not any(parameter.requires_grad for parameter in start.parameters())
    assert start.model.embed_tokens.weight is policy.model.model.embed_tokens.weight
    assert torch.equal(logits(policy.model), changed)
    assert any(parameter.requires_grad for parameter in policy.model.parameters())
    whole = start_copy(base)  # without an adapter it is an independent copy
    base.model.embed_tokens.weight.data += 1.0
    assert not torch.equal(whole.model.embed_tokens.weight, base.model.embed_tokens.weight)


def test_the_state_of_an_adapter_is_the_adapter(tmp_path: Path) -> None:
    policy = trained(saved(tmp_path))
    state = copy.deepcopy(TrainedWeights(policy.model).state_dict())
    assert len(state) == 8
    other = load_policy(tmp_path, lora=SETTINGS, dtype=torch.float64).model
    TrainedWeights(other).load_state_dict(state)
    assert torch.equal(logits(other), logits(policy.model))
    whole = load_policy(tmp_path).model
    assert TrainedWeights(whole).state_dict().keys() == whole.state_dict().keys()


def test_an_adapter_is_saved_in_the_format_of_peft_and_loaded_again(tmp_path: Path) -> None:
    from peft import PeftModel

    saved(tmp_path / "base")
    policy = trained(tmp_path / "base")
    policy.save(tmp_path / "adapter")
    assert is_adapter(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    expected = logits(policy.model)
    again = load_policy(tmp_path / "adapter", dtype=torch.float64)
    assert torch.allclose(logits(again.model), expected, **ROUNDING)
    assert again.adapter_base is None  # its weights are those of an ordinary model
    assert all(parameter.requires_grad for parameter in again.model.parameters())
    again.save(tmp_path / "merged")
    assert torch.allclose(logits(load_policy(tmp_path / "merged", dtype=torch.float64).model), expected, **ROUNDING)
    base = load_policy(tmp_path / "base", dtype=torch.float64).model
    peft = PeftModel.from_pretrained(base, tmp_path / "adapter", autocast_adapter_dtype=False)
    assert torch.allclose(logits(peft), expected, **ROUNDING)
    stated = adapter_base(tmp_path / "adapter")
    assert (stated.base, stated.seed) == (str(tmp_path / "base"), 0)
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 6.0)


def test_an_adapter_that_peft_saved_is_loaded(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    saved(tmp_path / "base")
    model = get_peft_model(load_policy(tmp_path / "base").model, LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(tmp_path / "adapter")
    again = load_policy(tmp_path / "adapter")
    assert torch.allclose(logits(again.model), logits(model), atol=1e-5)
    assert again.eos_id == 1


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    policy = trained(saved(tmp_path / "base"))
    policy.save(tmp_path / "adapter")
    saved(tmp_path / "base", seed=5)
    with pytest.raises(ValueError, match=r"base: expected the base that the adapter in .* got others there .*restore"):
        load_policy(tmp_path / "adapter")
    (tmp_path / "adapter/base_model.json").unlink()
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())

    def write(base: Any) -> None:
        (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))

    model = random_model("llama").model
    wider = type(random_model("llama"))(
        copy.deepcopy(model.config).__class__(**(model.config.to_dict() | {"head_dim": 4}))
    )
    Policy(wider, word_tokenizer(WORDS, pad="<pad>", eos="$")).save(tmp_path / "wider")
    write(str(tmp_path / "wider"))
    with pytest.raises(
        ValueError, match=r"cannot put the adapter in .* on LlamaForCausalLM, .*fits only the model that"
    ):
        load_policy(tmp_path / "adapter")
    write(str(saved(tmp_path / "gpt2", "gpt2")))
    with pytest.raises(
        ValueError, match=r"cannot put the adapter in .* on GPT2LMHeadModel, .*fits only the model that"
    ):
        load_policy(tmp_path / "adapter")
    write(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"expected the base model of the adapter in .*nowhere', which is not there"):
        load_policy(tmp_path / "adapter")
    write(None)
    with pytest.raises(ValueError, match=r"expected the name of a base model in .*adapter_config.json, got none"):
        load_policy(tmp_path / "adapter")
    write(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="expected another folder as the base of the adapter"):
        load_policy(tmp_path / "adapter")


def test_an_adapter_with_fewer_weights_than_its_settings_say(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    policy = trained(saved(tmp_path / "base"))
    policy.save(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"the weights .*lora_A.* have no counterpart; an adapter fits only"):
        load_policy(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ("query",),
            r"lora targets: expected names of linear layers of LlamaForCausalLM, such as down_proj, .*got query",
        ),
        (("lm_head",), r"lora targets: expected linear layers inside LlamaForCausalLM, .*its embedding, its head or"),
        (
            ("embed_tokens", "q_proj"),
            r"got embed_tokens, q_proj, which has its embedding, .*\(Embedding\); leave them out",
        ),
    ],
)
def test_targets_that_are_no_linear_layers(targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(random_model("llama"), LoraSettings(2, targets=targets))


def test_peft_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = trained(saved(tmp_path / "base"))
    policy.save(tmp_path / "adapter")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for options in ({"base": tmp_path / "base", "lora": SETTINGS}, {"base": tmp_path / "adapter"}):
        with pytest.raises(ValueError, match=r"base: expected the package peft, .*pip install 'rlvr-dynamics\[peft\]'"):
            load_policy(**options)  # type: ignore[arg-type]
