"""Kernels that write over what they were given, and gradients that are None: what was seen before stays as it was.

flash-attn's cross-entropy writes the gradient over the logits without a version bump; Liger's kernels and TRL before
1.10 change logits and gradients in place.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError
from analysis.laws import dense_statistics
from analysis.probes.capture import Capture, FusedCapture, HiddenCapture, LogitCapture
from analysis.probes.logit_gradients import ChangedLogits, least_residual, scalar_part
from analysis.probes.output_heads import find_head
from analysis.probes.watched_pass import WatchedPass, note_gradient
from analysis.probes.weight_probe import WeightProbe
from tests.probes.causal_lms import small_lm
from tests.probes.loops import batch, clipped, sequences, token_log_probs

EVERY = RecordSpec(tokens=1)


def overwritten(how: str) -> Any:
    """The identity, whose backward pass writes over its input in some way."""

    class Overwrite(torch.autograd.Function):
        @staticmethod
        def forward(context, logits, tokens):
            context.logits, context.tokens = logits.detach(), tokens
            out = logits.clone()
            if how == "in the forward pass":
                logits.data.fill_(-3.0)
            return out

        @staticmethod
        def backward(context, gradient):
            z = context.logits
            if how == "the gradient":
                z.data.copy_(gradient)
            elif how == "other entries":  # z_y is as it was
                own = z.gather(-1, context.tokens)
                z.data.mul_(0.5)
                z.data.scatter_(-1, context.tokens, own)
            elif how == "through its storage":
                torch.frombuffer(z.numpy(), dtype=torch.float32)[:] = 7.0
            elif how == "one row":
                z.data[0] = 0.0
            return gradient, None

    return Overwrite


@pytest.mark.parametrize(
    "how", ["the gradient", "other entries", "through its storage", "one row", "in the forward pass"]
)
def test_statistics_and_weights_are_those_of_the_forward_pass(how):
    def records(lossy):
        model, inputs = small_lm("qwen3"), batch(*sequences())
        with analysis.attach(model, record=EVERY) as trace:
            logits = model(**inputs).logits
            ahead = torch.roll(inputs["input_ids"], -1, 1)[..., None]
            logits = overwritten(how).apply(logits, ahead) if lossy else logits
            clipped(token_log_probs(logits, inputs["labels"])).backward()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                trace.step()
        return trace.records()["tokens"]

    tokens, expected = records(True), records(False)
    for name in ("log_prob", "entropy", "collision", "weight"):
        assert tokens[name].to_numpy() == pytest.approx(expected[name].to_numpy(), rel=1e-4, abs=2e-6), name
    assert tokens["residual"].isna().all()


class _LossOverLogits(torch.autograd.Function):
    """The mean loss, whose forward pass leaves the gradient where the logits were, as Liger's cross-entropy does."""

    @staticmethod
    def forward(context, logits, labels):
        with torch.enable_grad():
            z = logits.detach().clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(z[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            logits.data.copy_(torch.autograd.grad(loss, z)[0])
        context.gradient = logits.detach()
        return loss.detach()

    @staticmethod
    def backward(context, gradient):
        return context.gradient * gradient, None


@pytest.mark.parametrize("family", ["qwen3", "qwen3 tied", "gemma2", "cohere"])
def test_a_loss_within_the_model_that_writes_over_its_logits_is_refused(family):
    """What the model returns as logits is their gradient then: log-probs would be off by nats."""
    model, inputs = small_lm(family), batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        model(**inputs).loss.backward()  # the model's own loss leaves them
        trace.step()
    expected = trace.records()["tokens"]
    model.loss_function = lambda logits, labels, vocab_size, **kwargs: _LossOverLogits.apply(logits, labels)
    with analysis.attach(model, record=EVERY):
        with pytest.raises(UsageError, match=r"expected the logits that its head gave, got others, .* wrote over them"):
            model(**inputs)
        with torch.no_grad():
            model(**inputs)  # not watched
    labels = inputs.pop("labels")
    with analysis.attach(model, record=EVERY, labels=labels) as trace:  # statistics are taken before the loss
        _LossOverLogits.apply(model(**inputs).logits, labels).backward()
        trace.step()
    tokens = trace.records()["tokens"]
    for name in ("log_prob", "entropy", "weight"):
        assert tokens[name].to_numpy() == pytest.approx(expected[name].to_numpy(), rel=1e-4, abs=2e-6), name


@pytest.mark.parametrize("how", ["divided in place", "filtered in place", "filtered without a version"])
def test_a_loss_of_other_logits_than_the_models_is_warned_of(how):
    """Divided by a temperature that attach is not told, or cut to the most probable tokens: no residual tells."""
    model, inputs = small_lm("qwen3"), batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        logits = model(**inputs).logits
        few = logits.detach() < logits.detach().topk(4).values[..., -1:]
        few.scatter_(-1, torch.roll(inputs["input_ids"], -1, 1)[..., None], False)
        if how == "divided in place":
            logits /= 0.2
        elif how == "filtered in place":
            logits.masked_fill_(few, -1e4)
        else:
            logits.data.masked_fill_(few, -1e4)
        clipped(token_log_probs(logits, inputs["labels"])).backward()
        with pytest.warns(
            UserWarning, match=r"differs from it by at least .*changed in place before the backward pass"
        ):
            trace.step()


def test_statistics_of_other_logits_are_refused():
    z, y = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 3])
    stats, gradient = dense_statistics(z, y), torch.ones(3, 7)
    with pytest.raises(ChangedLogits, match=r"expected those that the statistics are of, got others, .* in row 1"):
        scalar_part(
            torch.cat([z[:1], z[1:] + 1]).scatter(1, y[:, None], z.gather(1, y[:, None])),
            gradient,
            y,
            stats,
            torch.arange(3),
        )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_least_residual_is_below_the_residual(temperature):
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(64, 9, generator=generator, dtype=torch.float64)
    y, g = torch.randint(9, (64,), generator=generator), torch.randn(64, 9, generator=generator, dtype=torch.float64)
    stats, keep = dense_statistics(z, y, temperature=temperature), torch.arange(64)
    found = scalar_part(z, g, y, stats, keep, temperature=temperature)
    least = least_residual(g, found.weight, y, stats, keep, temperature=temperature)
    assert (least <= found.residual + 1e-12).all()
    assert (least > found.residual / 2).double().mean() > 0.5  # and not far below
    own = torch.nn.functional.one_hot(y, 9) - (z / temperature).softmax(-1)
    of_form = least_residual(2 * own / temperature, -2 * torch.ones(64), y, stats, keep, temperature=temperature)
    assert of_form.max() < 1e-7  # the root of a difference of squares
    assert least_residual(0 * g, found.weight, y, stats, keep, temperature=temperature).isnan().all()


class _InPlace(torch.autograd.Function):
    """A function whose backward pass multiplies the gradient that it was handed."""

    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient.mul_(100.0)


def test_a_gradient_that_is_overwritten_afterwards():
    log_probs = _InPlace.apply(torch.randn(2, 3, requires_grad=True))
    probe = WeightProbe(log_probs)
    (-3.0 * log_probs).sum().backward()
    assert (probe.take() == 3.0).all()


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, *values):
        return sum(value.sum() for value in values)

    @staticmethod
    def backward(context, gradient):
        return (None,) * len(context.needs_input_grad)


def captures(kind: str) -> tuple[Capture, list[torch.Tensor]]:
    """A capture of two tokens, and the tensors that it watches."""
    model = small_lm("qwen3")
    head = find_head(model)
    hidden = model.model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state
    tokens, keep = torch.tensor([6, 7]), torch.tensor([0, 1])
    if kind == "logits":
        logits = model.lm_head(hidden)
        return LogitCapture(logits, tokens, keep, EVERY, 1.0), [logits]
    if kind == "hidden":
        return HiddenCapture(hidden, head, tokens, keep, EVERY, 1.0), [hidden]
    log_pi = model.lm_head(hidden).log_softmax(-1)
    log_probs = log_pi[:, :2].gather(-1, tokens[None, :, None])[..., 0]
    entropy = -(log_pi.exp() * log_pi).sum(-1)[:, :2]
    output = type("Output", (), {"entropy": entropy})()
    return FusedCapture(output, log_probs, hidden[:, :2], head, tokens, keep, EVERY, 1.0), [log_probs, entropy]


@pytest.mark.parametrize("kind", ["logits", "hidden", "log_probs"])
def test_none_is_a_gradient_of_zero(kind):
    capture, watched = captures(kind)
    _NoGradient.apply(*watched).backward(retain_graph=True)
    assert not capture.caught  # the pass around it files weights of 0
    watched[0].sum().backward()
    assert capture.caught
    assert capture.take().weight.isfinite().all()


def test_none_for_the_entropy_alone_leaves_the_weight():
    """A fused head that gave an entropy which the loss does not use."""
    capture, (log_probs, entropy) = captures("log_probs")

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(context, values, unused):
            return values.sum()

        @staticmethod
        def backward(context, gradient):
            return -gradient * torch.ones(1, 2), None

    Half.apply(log_probs, entropy).backward()
    caught = capture.take()
    assert caught.weight.tolist() == [1.0, 1.0]
    assert caught.entropy_weight is None


def test_the_hooks_of_a_pass_take_none():
    reached: list[bool] = []
    note_gradient(reached)(None)
    assert reached == []
    watched = WatchedPass(None, None, torch.arange(2), captures("logits")[0], [reached], 1.0, "logits", ())
    values = torch.randn(2, requires_grad=True) * 1
    watched.watch(values, [watched])
    _NoGradient.apply(values).backward()
    assert watched.arrived
    assert not watched.lost


class TestWeightProbe:
    def test_none_is_reached_and_zero(self):
        values = torch.randn(2, 3, requires_grad=True) * 1
        probe = WeightProbe(values)
        assert not probe.reached
        _NoGradient.apply(values).backward()
        assert (probe.reached, probe.caught) == (True, False)
        assert probe.take().tolist() == [[0.0] * 3] * 2
        assert not probe.reached
        with pytest.raises(RuntimeError, match="the loss does not depend on them"):
            probe.take()

    def test_none_adds_nothing_to_a_gradient(self):
        values = torch.randn(2, 3, requires_grad=True) * 1
        probe = WeightProbe(values)
        (2 * values).sum().backward(retain_graph=True)
        _NoGradient.apply(values).backward()
        assert (probe.take() == -2.0).all()

    def test_of_nested_log_probs(self):
        """As verl has them: the hook is on a jagged tensor."""
        leaf = torch.randn(5, requires_grad=True)
        nested = torch.nested.nested_tensor_from_jagged(leaf * 1, torch.tensor([0, 2, 5]))
        probe = WeightProbe(nested)
        (-3.0 * nested.values()).sum().backward()
        assert probe.take().values().tolist() == [3.0] * 5
