"""What `attach` is handed is checked on the first pass: temperature, scale, heads, wrappers, dtypes."""

from __future__ import annotations

import math
import types
import warnings

import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError
from tests.probes.causal_lms import small_lm
from tests.probes.loops import batch, clipped, sequences, token_log_probs
from tests.probes.test_attach import check_tokens
from tests.probes.test_attach_fused import FusedLoss
from tests.reference.attached_slow import expected_rows

EVERY = RecordSpec(tokens=1, rank=True)


def train(model, loss_temperature: float, *, bonus: float = 0.0, updates: int = 1, **given):
    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    with analysis.attach(model, record=EVERY, **given) as trace:
        for _ in range(updates):
            logits = model(**inputs).logits
            log_pi = logits.log_softmax(-1)
            entropy = -(log_pi.exp() * log_pi).sum(-1)[:, :-1][inputs["labels"][:, 1:] != -100].sum()
            (clipped(token_log_probs(logits, inputs["labels"], loss_temperature)) - bonus * entropy).backward()
            trace.step()
    return trace.records()["tokens"]


@pytest.mark.parametrize(("loss", "given"), [(0.6, 1.0), (1.0, 1.6)])
def test_another_temperature_than_that_of_the_loss_is_told_once(loss, given):
    message = rf"of the form w·\(e_y − π\)/T at T = {given:g}, got one that differs from it by \d+%"
    model = small_lm("qwen3", scale=20.0)
    with pytest.warns(UserWarning, match=message) as caught:
        train(model, loss, temperature=given, updates=2)
    assert len([w for w in caught if "attach" in str(w.message)]) == 1


@pytest.mark.parametrize("bonus", [0.0, 0.001])
def test_losses_of_that_form_are_not(bonus):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(small_lm("qwen3"), 0.8, temperature=0.8, bonus=bonus)


def test_a_cap_that_the_configuration_does_not_show_is_told_where_only_hidden_states_are_seen():
    model = small_lm("qwen3", scale=20.0)

    def forward(self, *args, labels, **kwargs):
        z = self.lm_head(self.base_model(*args, **kwargs).last_hidden_state)
        return FusedLoss(clipped(token_log_probs(torch.tanh(z), labels)))

    model.forward = types.MethodType(forward, model)
    with analysis.attach(model, record=EVERY) as trace:
        model(**batch(*sequences())).loss.backward()
        with pytest.warns(UserWarning, match="got one that differs from it by"):
            trace.step()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, None, "1024", True, lambda: 0.0, lambda: None])
def test_loss_scales_that_are_none(scale):
    model = small_lm("qwen3")
    message = "loss_scale: expected a positive number, or a function that gives one, got"
    inputs = batch(*sequences())
    with pytest.raises(UsageError, match=message), analysis.attach(model, loss_scale=scale):
        model(**inputs)


def test_a_loss_scale_as_a_tensor():
    tokens = train(small_lm("qwen3"), 1.0, loss_scale=lambda: torch.tensor(2.0))
    plain = train(small_lm("qwen3"), 1.0)
    assert tokens["weight"].to_numpy() * 2 == pytest.approx(plain["weight"].to_numpy())


def test_data_parallel_on_several_devices_is_refused():
    wrapped = torch.nn.DataParallel(small_lm("qwen3"))
    wrapped.device_ids = [0, 1]
    with pytest.raises(UsageError, match="got DataParallel on 2 devices, which calls copies of the model"):
        analysis.attach(wrapped)


@pytest.mark.parametrize("positional", [False, True])
def test_a_forward_pass_that_a_wrapper_replaced(positional):
    """As accelerate does: the instance's forward has a signature that names no argument."""
    model = small_lm("qwen3", dtype=torch.float64)
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    with analysis.attach(model, record=EVERY, labels=inputs["labels"]) as trace:
        if positional:
            output = model(inputs["input_ids"], inputs["attention_mask"])
        else:
            output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        clipped(token_log_probs(output.logits, inputs["labels"])).backward()
        trace.step()
    model.forward = inner
    check_tokens(trace.records()["tokens"], expected_rows(model, prompts, responses, clipped))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    model = accelerator.prepare(small_lm("qwen3"))
    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    with analysis.attach(model, record=EVERY) as trace:
        logits = model(**inputs).logits
        accelerator.backward(clipped(token_log_probs(logits, inputs["labels"])))
        trace.step()
    expected = expected_rows(small_lm("qwen3"), prompts, responses, clipped)
    tokens = trace.records()["tokens"]
    if precision == "no":
        check_tokens(tokens, expected, atol=1e-5)
    else:
        want = [expected[key]["weight"] for key in sorted(expected)]
        known = tokens["weight"].notna().to_numpy()
        assert known.mean() > 0.5
        assert tokens["weight"].to_numpy()[known] == pytest.approx(
            [w for w, k in zip(want, known, strict=True) if k], rel=0.1
        )
