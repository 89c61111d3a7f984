"""`attach` where no logits exist: a fused head gives log-probs, TRL's own and a stand-in for it."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import analysis
from analysis import RecordSpec, UsageError
from tests.probes.causal_lms import FAMILIES, VOCAB, small_lm
from tests.probes.loops import ADVANTAGES, batch, clipped, sequences, token_log_probs
from tests.probes.test_attach import check_tokens
from tests.reference.attached_slow import expected_rows

EVERY = RecordSpec(tokens=1, rank=True)


@dataclass
class FusedOutput:
    log_probs: Tensor
    entropy: Tensor | None = None
    logits: Tensor | None = None


@dataclass
class FusedLoss:
    loss: Tensor
    logits: Tensor | None = None


def add_stand_in(model: Any, temperature: float = 1.0, scale: float = 1.0) -> None:
    """A forward pass that returns log-probs (B, T − 1) from the backbone's hidden states, as TRL 1.15 and later do."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)

    def forward(self, *args, labels, **kwargs):
        hidden = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        z = scale * (hidden @ self.lm_head.weight.T)
        z = z if cap is None else cap * torch.tanh(z / cap)
        log_pi = (z / temperature).log_softmax(-1)
        y = labels[:, 1:]
        log_probs = log_pi.gather(-1, y.clamp(min=0)[..., None]).squeeze(-1).masked_fill(y == -100, 0)
        return FusedOutput(log_probs, -(log_pi.exp() * log_pi).sum(-1))

    model.forward = types.MethodType(forward, model)


def rows_of(log_probs: Tensor, labels: Tensor) -> list[Tensor]:
    return [row[label[1:] != -100] for row, label in zip(log_probs, labels, strict=True)]


def check_fused(model: Any, fused: dict[str, Any], temperature: float) -> None:
    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    with analysis.attach(model, record=EVERY, temperature=temperature) as trace:
        output = model(**inputs, **fused)
        loss = clipped(rows_of(output.log_probs, inputs["labels"]))
        if output.entropy is not None:
            loss = loss - 0.2 * sum(x.sum() for x in rows_of(output.entropy, inputs["labels"]))
        loss.backward()
        trace.step(advantages=ADVANTAGES)
    tokens = trace.records()["tokens"]
    forward = model.__dict__.pop("forward")
    check_tokens(tokens, expected_rows(model, prompts, responses, clipped, temperature), rtol=2e-4, atol=1e-5)
    model.forward = forward
    assert tokens["residual"].isna().all()
    if output.entropy is not None:
        assert tokens["entropy_weight"].to_numpy() == pytest.approx(0.2)


@pytest.mark.parametrize(("family", "scale"), [("qwen3", 1.0), ("qwen3 tied", 1.0), ("gemma2", 1.0), ("cohere", 0.25)])
def test_a_fused_head(family, scale):
    model = small_lm(family)
    add_stand_in(model, 0.7, scale)
    check_fused(model, {}, 0.7)


def test_several_backward_passes_add_up():
    model = small_lm("qwen3")
    add_stand_in(model)
    inputs = batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        total = model(**inputs).log_probs.sum()
        total.backward(retain_graph=True)
        (2 * total).backward()
    assert trace.records()["tokens"]["weight"].to_numpy() == pytest.approx(-3.0)


def test_the_wrong_temperature_is_refused():
    model = small_lm("qwen3")
    add_stand_in(model, 0.7)
    message = "expected the temperature of the model's fused head, got 1: its log-probs differ"
    with pytest.raises(UsageError, match=message), analysis.attach(model, record=EVERY):
        model(**batch(*sequences()))


def test_a_fused_head_in_half_precision_is_not_taken_for_another_law():
    """Under autocast its product is in bf16, which neither hidden states nor log-probs show."""
    model = small_lm("qwen3")
    add_stand_in(model)
    plain = model.forward

    def forward(**inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return plain(**inputs)

    model.forward = forward
    inputs = batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        output = model(**inputs)
        output.log_probs.sum().backward()
    given = torch.cat(rows_of(output.log_probs, inputs["labels"])).detach().float().numpy()
    assert trace.records()["tokens"]["log_prob"].to_numpy() == pytest.approx(given, abs=0.1)
    assert trace.records()["tokens"]["log_prob"].to_numpy() != pytest.approx(given, abs=1e-4)


def test_a_refused_step_can_be_repeated():
    """What a fused head caught is read once, and kept for the second call."""
    model = small_lm("qwen3")
    add_stand_in(model)
    inputs = batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        clipped(rows_of(model(**inputs).log_probs, inputs["labels"])).backward()
        with pytest.raises(UsageError, match="rewards: expected 4 numbers"):
            trace.step(rewards=[1.0])
        trace.step(rewards=[1.0, 0.0, 1.0, 0.0])
    assert trace.records()["tokens"]["weight"].abs().sum() > 0


def test_log_probs_of_another_shape_are_refused():
    model = small_lm("qwen3")
    add_stand_in(model)
    fused = model.forward
    model.forward = lambda **inputs: FusedOutput(fused(**inputs).log_probs[:, 2:])
    message = r"expected log_probs of shape \(4, 8\) or \(4, 9\), got \(4, 6\)"
    with pytest.raises(UsageError, match=message), analysis.attach(model, record=EVERY):
        model(**batch(*sequences()))


def test_hidden_states_that_are_not_seen_are_refused():
    model = small_lm("qwen3")
    leaf = torch.zeros(4, 8, requires_grad=True)
    model.forward = lambda **inputs: FusedOutput(leaf * 1)
    with (
        pytest.raises(UsageError, match="expected a fused head whose backbone is called as a module"),
        analysis.attach(model),
    ):
        model(**batch(*sequences()))


def test_a_gradient_that_goes_past_the_log_probs_is_refused():
    model = small_lm("qwen3")
    add_stand_in(model)

    def train():
        with analysis.attach(model):
            model(**batch(*sequences())).entropy.sum().backward()

    with pytest.raises(UsageError, match="expected a gradient through the model's log_probs"):
        train()


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "cohere", "phi (bias)"])
def test_a_fused_loss(family):
    """Neither logits nor log-probs: the loss is worked out inside, as Liger's kernels do."""
    model = small_lm(family, dtype=torch.float32 if family == "gemma2" else torch.float64)
    config, plain = model.config, model.forward

    def forward(self, *args, labels, **kwargs):
        z = self.lm_head(self.base_model(*args, **kwargs).last_hidden_state)
        z = z * getattr(config, "logit_scale", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        z = z if cap is None else cap * torch.tanh(z / cap)
        return FusedLoss(clipped(token_log_probs(z, labels, 0.8)))

    prompts, responses = sequences()
    model.forward = types.MethodType(forward, model)
    with analysis.attach(model, record=EVERY, temperature=0.8) as trace:
        output = model(**batch(prompts, responses))
        (output.loss / 3).backward(retain_graph=True)
        (output.loss * 2 / 3).backward()
        with torch.no_grad():
            model.lm_head.weight.add_(1.0)  # as an optimiser does before `step` is called
        trace.step()
        with torch.no_grad():
            model.lm_head.weight.sub_(1.0)
    model.forward = plain
    tokens = trace.records()["tokens"]
    check_tokens(tokens, expected_rows(model, prompts, responses, clipped, 0.8), rtol=2e-4, atol=1e-5)
    assert (tokens["residual"].dropna() < 1e-4).all()
    assert tokens["residual"].notna().any()


def test_a_fused_loss_at_another_temperature_leaves_a_residual():
    model = small_lm("qwen3")

    def forward(self, *args, labels, **kwargs):
        z = self.lm_head(self.base_model(*args, **kwargs).last_hidden_state)
        return FusedLoss(clipped(token_log_probs(z, labels, 0.5)))

    model.forward = types.MethodType(forward, model)
    with analysis.attach(model, record=EVERY) as trace:
        model(**batch(*sequences())).loss.backward()
    assert (trace.records()["tokens"]["residual"].dropna() > 0.01).mean() > 0.5


def trl_head(model: Any, **changes: Any) -> Any:
    utils = pytest.importorskip("trl.trainer.utils", reason="trl is not installed")
    utils.add_fused_lm_head(model, **changes)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_trl_fused_head(family):
    model = trl_head(small_lm(family), temperature=0.7, outputs=("log_probs", "entropy"))
    check_fused(model, {"fused_lm_head": True}, 0.7)


def test_trl_fused_head_under_fsdp2(tmp_path):
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    expected = expected_rows(small_lm("qwen3"), prompts, responses, clipped)
    model = trl_head(small_lm("qwen3"))
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        fully_shard(model)
        with analysis.attach(model, record=EVERY) as trace:
            output = model(**inputs, fused_lm_head=True)
            clipped(rows_of(output.log_probs, inputs["labels"])).backward()
            trace.step()
        check_tokens(trace.records()["tokens"], expected, atol=1e-5)
    finally:
        dist.destroy_process_group()


def test_trl_shift_labels():
    model = trl_head(small_lm("qwen3"))
    inputs = batch(*sequences())
    frames = []
    for shifted in (False, True):
        call = dict(inputs)
        if shifted:
            labels = call.pop("labels")
            call["shift_labels"] = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)
        with analysis.attach(model, record=EVERY) as trace:
            model(**call, fused_lm_head=True).log_probs.sum().backward()
        frames.append(trace.records()["tokens"])
    assert frames[0].equals(frames[1])


def test_trl_leaves_out_adapters_on_the_head():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = trl_head(small_lm("qwen3"))
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    model.get_input_embeddings().weight.requires_grad_()
    message = "the fused head does not see all of the head"
    with pytest.raises(UsageError, match=message), analysis.attach(model, record=EVERY):
        model(**batch(*sequences()), fused_lm_head=True)


@pytest.mark.slow
def test_grpo_trainer(tmp_path):
    """On-policy GRPO without a KL: each token's weight is its rollout's advantage over one normaliser per update."""
    trl = pytest.importorskip("trl", reason="trl is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    transformers = pytest.importorskip("transformers")
    trl_head(small_lm("qwen3"))
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w3"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")
    model = small_lm("qwen3", scale=1.0)

    def reward(completions, **_):
        return [float(len(text) % 3) for text in completions]

    class Mark(transformers.TrainerCallback):
        def on_optimizer_step(self, *args, **kwargs):
            trace.step()

    config = trl.GRPOConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=6,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=1e-3,
        beta=0.0,
        temperature=0.9,
        report_to=[],
        use_cpu=True,
        gradient_checkpointing=True,
        save_strategy="no",
        disable_tqdm=True,
        bf16=False,
    )
    data = datasets.Dataset.from_dict({"prompt": ["w4 w5", "w6 w7 w8", "w9", "w10 w11"]})
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Mark()],
    )
    seen = []
    inner = trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        seen.append({name: inputs[name].clone() for name in ("completion_ids", "completion_mask", "advantages")})
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    with analysis.attach(model, out=tmp_path / "mine", record=EVERY, temperature=0.9) as trace:
        trainer.train()
    tokens = analysis.load_trace(tmp_path / "mine").table("tokens")
    assert sorted(set(tokens["update"])) == [0, 1]
    for update, rows in tokens.groupby("update"):
        parts = seen[2 * update : 2 * update + 2]
        ids = torch.cat([p["completion_ids"][p["completion_mask"].bool()] for p in parts])
        advantages = torch.cat(
            [p["advantages"][:, None].expand_as(p["completion_mask"])[p["completion_mask"].bool()] for p in parts]
        )
        assert rows["token"].tolist() == ids.tolist()
        quotient = torch.tensor(rows["weight"].to_numpy())[advantages != 0] / advantages[advantages != 0]
        assert quotient.numpy() == pytest.approx(1 / len(ids), rel=1e-4)  # DAPO: the tokens of the whole update
