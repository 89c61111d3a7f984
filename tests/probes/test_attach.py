"""`attach`: what it records of a user's training loop against one unpadded sequence at a time and dense autograd."""

from __future__ import annotations

import math
import warnings

import pandas as pd
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import analysis
from analysis import RecordSpec, UsageError
from analysis.probes.weight_accuracy import HALF_RESIDUAL
from analysis.records.schema import TABLES
from tests.probes.causal_lms import FAMILIES, VOCAB, small_lm
from tests.probes.loops import ADVANTAGES, batch, clipped, sequences, token_log_probs
from tests.reference.attached_slow import expected_rows

EVERY = RecordSpec(tokens=1, rank=True, top_k=3)


def check_tokens(tokens: pd.DataFrame, expected: dict, *, rtol: float = 1e-4, atol: float = 2e-6) -> None:
    """The rows of one update against the slow reference, none missing, none twice."""
    assert list(zip(tokens["rollout"], tokens["position"], strict=True)) == sorted(expected)
    for name in next(iter(expected.values())):
        want = torch.tensor([expected[key][name] for key in sorted(expected)], dtype=torch.float64)
        got = torch.tensor(tokens[name].to_numpy(dtype=float), dtype=torch.float64)
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_against_dense_autograd(family, side):
    # the mask of Gemma 2's own attention overflows in float64, and its padding turns into NaN
    model = small_lm(family, dtype=torch.float32 if family == "gemma2" else torch.float64)
    prompts, responses = sequences()
    inputs = batch(prompts, responses, side)
    labels = inputs.pop("labels")
    with analysis.attach(model, labels=labels, record=EVERY, temperature=0.8) as trace:
        logits = model(**inputs).logits
        clipped(token_log_probs(logits, labels, 0.8)).backward()
        trace.step(rewards=[1, 0, 1, 0], advantages=ADVANTAGES)
    records = trace.records()
    check_tokens(records["tokens"], expected_rows(model, prompts, responses, clipped, 0.8))
    assert (records["tokens"]["residual"].dropna() < (1e-5 if family == "gemma2" else 1e-7)).all()
    assert records["tokens"]["residual"].isna().equals(records["tokens"]["weight"] == 0)
    for name, table in records.items():
        assert list(table.columns) == [*TABLES[name].names, *(["token_text"] if name == "tokens" else [])]
    rollouts = records["rollouts"]
    assert [list(r) for r in rollouts["response_ids"]] == responses
    assert rollouts["reward"].tolist() == [1, 0, 1, 0]
    assert rollouts["group"].tolist() == [0, 0, 1, 2]
    assert [list(p) for p in records["prompts"]["token_ids"]] == [prompts[0], *prompts[2:]]


@pytest.mark.parametrize(
    "how",
    ["labels", "mask", "short mask", "function", "batch", "loss", "keep", "keep some", "tuple", "shifted", "position"],
)
def test_ways_to_say_which_tokens_count(how):
    model = small_lm("qwen3", dtype=torch.float64)
    prompts = [[5, 6, 7], [8]]
    responses = [[9, 10, 11, 12], [13, 14, 15, 16]]
    inputs = batch(prompts, responses, "left")
    labels = inputs.pop("labels")
    given = {}
    call = dict(inputs)
    args: tuple = ()
    if how in ("labels", "keep", "keep some", "tuple", "position"):
        given["labels"] = labels
    if how == "mask":
        given["completion_mask"] = labels != -100
    if how == "short mask":
        given["completion_mask"] = torch.ones(2, 4, dtype=torch.long)
    if how == "function":
        given["completion_mask"] = lambda arguments: arguments["attention_mask"] & (labels != -100)
    if how in ("loss", "batch"):
        call["labels"] = labels
    if how == "shifted":
        call |= {"labels": labels, "shift_labels": torch.cat([labels[:, 1:], torch.full((2, 1), -100)], 1)}
    if how == "keep":
        call["logits_to_keep"] = 5
    if how == "keep some":
        call["logits_to_keep"] = torch.tensor([2, 3, 4, 5])
    if how == "tuple":
        call["return_dict"] = False
    if how == "position":
        args = (call.pop("input_ids"), call.pop("attention_mask"))

    def mean_loss(log_probs, rows):
        return -sum(x.sum() for x in log_probs) / 8

    with analysis.attach(model, record=EVERY, **given) as trace:
        if how == "batch":
            trace.batch(labels=labels)
        output = model(*args, **call)
        if how in ("loss", "shifted", "batch"):
            loss = output.loss
        else:
            logits = output[0] if how == "tuple" else output.logits
            start = {"keep": 2, "keep some": 2}.get(how, 0)
            whole = torch.zeros(2, 7, VOCAB, dtype=torch.float64)
            whole[:, start : start + logits.shape[1]] = logits
            loss = mean_loss(token_log_probs(whole, labels), None)
        loss.backward()
    tokens = trace.records()["tokens"]
    check_tokens(tokens, expected_rows(model, prompts, responses, mean_loss))


def test_without_labels_every_token_that_one_came_before_counts():
    model = small_lm("llama", dtype=torch.float64)
    prompts, responses = sequences()
    for side in ("left", "right"):
        inputs = batch(prompts, responses, side)
        labels = inputs.pop("labels")
        with analysis.attach(model, record=EVERY) as trace:
            clipped(token_log_probs(model(**inputs).logits, labels)).backward()
        whole = [p + r for p, r in zip(prompts, responses, strict=True)]
        tokens = trace.records()["tokens"]
        assert [list(rows["token"]) for _, rows in tokens.groupby("rollout")] == [w[1:] for w in whole]
        weights = [
            rows["weight"].to_numpy()[: len(p) - 1]
            for (_, rows), p in zip(tokens.groupby("rollout"), prompts, strict=True)
        ]
        assert all((w == 0).all() for w in weights)


def test_a_loss_that_is_not_of_scalar_form_has_a_residual():
    """With an entropy bonus G = −w·d/T − β·∂H/∂z: weight and residual by dense least squares."""
    model = small_lm("qwen2", dtype=torch.float64)
    prompts, responses = sequences(2)
    inputs = batch(prompts, responses)
    labels = inputs.pop("labels")
    with analysis.attach(model, labels=labels, record=EVERY) as trace:
        logits = model(**inputs).logits
        logits.retain_grad()
        log_pi = logits.log_softmax(-1)
        counts = torch.cat([labels[:, 1:] != -100, torch.zeros(2, 1, dtype=torch.bool)], 1)
        entropy = -(log_pi.exp() * log_pi).sum(-1)[counts].sum()
        (clipped(token_log_probs(logits, labels), advantages=[1.0, -1.0]) - 0.3 * entropy).backward()
    tokens = trace.records()["tokens"]
    rows = counts.nonzero()
    for (row, column), weight, residual in zip(rows, tokens["weight"], tokens["residual"], strict=True):
        gradient = logits.grad[row, column]
        direction = -log_pi[row, column].exp().detach()
        direction[labels[row, column + 1]] += 1
        w = -(gradient @ direction) / (direction @ direction)
        assert weight == pytest.approx(w.item(), rel=1e-5)
        assert residual == pytest.approx(((gradient + w * direction).norm() / gradient.norm()).item(), rel=1e-5)
    assert (tokens["residual"] > 0.01).any()


@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head", "q_proj"]])
def test_lora(targets):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(
        small_lm("qwen3", dtype=torch.float64),
        peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False),
    )
    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    before = hooks_of(model)
    with analysis.attach(model, record=EVERY) as trace:
        clipped(token_log_probs(model(**inputs).logits, inputs["labels"])).backward()
        with model.disable_adapter(), torch.no_grad():
            model(**inputs)  # the reference policy
        trace.step()
    assert hooks_of(model) == before
    check_tokens(trace.records()["tokens"], expected_rows(model, prompts, responses, clipped))


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2", "compile"])
def test_wrapped_models(wrapper, tmp_path):
    """One gloo rank; the wrapper is what is attached to and called."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    expected = expected_rows(small_lm("qwen3"), prompts, responses, clipped)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = small_lm("qwen3")
        wrap = {
            "ddp": DistributedDataParallel,
            "fsdp2": fully_shard,
            "compile": lambda m: torch.compile(m, backend="eager"),
        }[wrapper]
        wrapped = wrap(model)
        with analysis.attach(wrapped, record=EVERY) as trace:
            clipped(token_log_probs(wrapped(**inputs).logits, inputs["labels"])).backward()
            trace.step()
        check_tokens(trace.records()["tokens"], expected, atol=1e-5)
    finally:
        dist.destroy_process_group()


def test_gradient_accumulation():
    model = small_lm("qwen3", dtype=torch.float64)
    prompts, responses = sequences()
    with analysis.attach(model, record=EVERY) as trace:
        for update in range(2):
            for rows in (slice(0, 1), slice(1, 4)):
                inputs = batch(prompts[rows], responses[rows])
                logits = model(**inputs).logits
                part = clipped(token_log_probs(logits, inputs["labels"]), advantages=ADVANTAGES[rows])
                (part * len(prompts[rows]) / 4).backward()
            trace.step(rewards=torch.tensor([1.0, 0, 1, 0]))
            assert len(trace.records()["rollouts"]) == 4 * (update + 1)

    def loss(log_probs, rows):
        first = clipped(log_probs[:1], advantages=ADVANTAGES[:1]) / 4
        return first + clipped(log_probs[1:], advantages=ADVANTAGES[1:]) * 3 / 4

    tokens = trace.records()["tokens"]
    assert set(tokens["update"]) == {0, 1}
    for _, rows in tokens.groupby("update"):
        check_tokens(rows, expected_rows(model, prompts, responses, loss))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_gradient_checkpointing(reentrant, whole):
    model = small_lm("qwen3", dtype=torch.float64).train()
    prompts, responses = sequences()
    inputs = batch(prompts, responses)
    labels = inputs.pop("labels")
    if not whole:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    before = hooks_of(model)
    with analysis.attach(model, labels=labels, record=EVERY) as trace:
        if whole:
            embedded = model.get_input_embeddings()(inputs.pop("input_ids"))
            logits = torch.utils.checkpoint.checkpoint(
                lambda x: model(inputs_embeds=x, **inputs, use_cache=False).logits, embedded, use_reentrant=reentrant
            )
        else:
            logits = model(**inputs, use_cache=False).logits
        clipped(token_log_probs(logits, labels)).backward()
        trace.step()
    assert hooks_of(model) == before
    model.gradient_checkpointing_disable()
    tokens = trace.records()["tokens"]
    check_tokens(tokens, expected_rows(model.eval(), prompts, responses, clipped))


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_backward_hooks")
    return [
        (name, *(list(getattr(module, kind)) for kind in kinds), sorted(module.__dict__))
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("how", ["exit", "error", "interrupt", "error in step"])
def test_the_model_is_restored(how):
    model = small_lm("qwen3")
    inputs = batch(*sequences())
    forward, before = model.forward, hooks_of(model)
    try:
        with analysis.attach(model, record=EVERY) as trace:
            assert hooks_of(model) != before
            model(**inputs).loss.backward()
            if how == "error":
                raise RuntimeError("mine")
            if how == "interrupt":
                raise KeyboardInterrupt
            trace.step(rewards=[1.0] if how == "error in step" else [1.0] * 4)
    except (RuntimeError, KeyboardInterrupt, UsageError):
        assert how != "exit"
    assert hooks_of(model) == before
    assert model.forward == forward
    with analysis.attach(model, record=EVERY) as trace:
        model(**inputs).loss.backward()
    assert len(trace.records()["tokens"]) == (inputs["labels"] != -100).sum()


def test_watching_changes_no_gradient():
    """To the last bit, with dropout active as well."""
    inputs = batch(*sequences())
    gradients = []
    for watched in (False, True):
        model = small_lm("gpt2", resid_pdrop=0.3).train()
        torch.manual_seed(1)
        if watched:
            with analysis.attach(model, record=EVERY):
                model(**inputs).loss.backward()
        else:
            model(**inputs).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_logits_are_let_go_after_the_backward_pass():
    """No cycle through the graph either: nothing waits for the garbage collector."""
    import gc

    from torch.multiprocessing.reductions import StorageWeakRef

    model = small_lm("qwen3")
    inputs = batch(*sequences())
    gc.collect()
    gc.disable()
    try:
        with analysis.attach(model, record=EVERY) as trace:
            output = model(**inputs)
            storage = StorageWeakRef(output.logits.untyped_storage())
            output.loss.backward()
            del output
            assert storage.expired()
            trace.step()
    finally:
        gc.enable()


def test_passes_without_a_gradient_are_no_records():
    model = small_lm("qwen3")
    inputs = batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        with torch.no_grad():
            model(**inputs)
        model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=2, do_sample=False
        )
        model(**inputs)  # a pass that nothing is done with
        model(**inputs).loss.backward()
        trace.step()
    assert len(trace.records()["rollouts"]) == 4


def test_a_second_attach_is_refused():
    model = small_lm("qwen3")
    with analysis.attach(model) as trace:
        with pytest.raises(UsageError, match="that another attach watches already"), analysis.attach(model):
            pass
        model(**batch(*sequences())).loss.backward()
        trace.step()
    with pytest.raises(UsageError, match="expected to be entered once"), trace:
        pass
    with pytest.raises(UsageError, match=r"expected a call within `with attach"):
        trace.step()


def test_a_copy_of_the_model_is_not_watched():
    import copy

    model = small_lm("qwen3")
    inputs = batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        other = copy.deepcopy(model)
        other(**inputs).loss.backward()
        model(**inputs).loss.backward()
        trace.step()
    assert len(trace.records()["rollouts"]) == 4


def test_step_without_a_backward_pass():
    model = small_lm("qwen3")
    with analysis.attach(model) as trace:
        with pytest.raises(UsageError, match="step: expected a backward pass since the last step, got none"):
            trace.step()
        model(**batch(*sequences()))
        with pytest.raises(UsageError, match="step: expected a backward pass since the last step, got none"):
            trace.step()


def test_a_gradient_that_goes_past_the_logits_is_refused():
    """A loss from the hidden states, as a user's fused loss would take it."""
    model = small_lm("qwen3")
    inputs = batch(*sequences())

    def train():
        with analysis.attach(model):
            hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]
            (hidden @ model.lm_head.weight.T).log_softmax(-1)[..., 0].sum().backward()

    with pytest.raises(
        UsageError, match="expected a gradient through the model's logits, got a backward pass without one"
    ):
        train()
    assert not model._forward_hooks


def test_a_gradient_that_goes_past_the_model_is_refused():
    model = small_lm("qwen3")
    ids = batch(*sequences())["input_ids"]

    def train():
        with analysis.attach(model):
            model.lm_head(model.model(input_ids=ids).last_hidden_state).log_softmax(-1)[..., 0].sum().backward()

    with pytest.raises(
        UsageError, match="expected a gradient through the model's output, got a backward pass without one"
    ):
        train()


class _Overwrite(torch.autograd.Function):
    """The identity, whose backward pass writes the gradient over its input without a trace, as a fused kernel does."""

    @staticmethod
    def forward(context, logits):
        context.logits = logits.detach()
        return logits.clone()

    @staticmethod
    def backward(context, gradient):
        context.logits.data.copy_(gradient)
        return gradient


@pytest.mark.parametrize("how", ["divided in place", "overwritten by the backward pass"])
def test_logits_that_are_lost_before_the_backward_pass(how):
    """Statistics come from the forward pass, the weight from the own entry of the gradient."""
    temperature = 0.7 if how == "divided in place" else 1.0

    def records(lossy):
        model = small_lm("qwen3")
        inputs = batch(*sequences())
        with analysis.attach(model, record=EVERY, temperature=temperature) as trace:
            logits = model(**inputs).logits
            if not lossy:
                logits = logits / temperature
            elif how == "divided in place":
                logits /= temperature
            else:
                logits = _Overwrite.apply(logits)
            clipped(token_log_probs(logits, inputs["labels"])).backward()
            trace.step()
        return trace.records()["tokens"]

    tokens, expected = records(True), records(False)
    for name in ("log_prob", "entropy", "collision", "weight"):
        assert tokens[name].to_numpy() == pytest.approx(expected[name].to_numpy(), rel=1e-4, abs=2e-6), name
    assert tokens["residual"].isna().all()
    assert expected.loc[expected["weight"] != 0, "residual"].notna().all()


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, values):
        return values.sum()

    @staticmethod
    def backward(context, gradient):
        return None


def test_a_backward_pass_without_a_gradient_is_an_update_of_weight_zero():
    """A microbatch whose loss does not depend on it: its rollouts stay in the update, in their order."""
    model = small_lm("qwen3")
    inputs = batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace:
        model(**inputs).loss.backward()
        _NoGradient.apply(model(**inputs).logits).backward()
        trace.step(rewards=list(range(8)), groups=[0, 0, 1, 2, 3, 3, 4, 5])
        _NoGradient.apply(model(**inputs).logits).backward()
        trace.step()
    records = trace.records()
    tokens = records["tokens"]
    assert (tokens.loc[(tokens["update"] == 0) & (tokens["rollout"] < 4), "weight"] != 0).all()
    assert (tokens.loc[(tokens["update"] == 1) | (tokens["rollout"] >= 4), "weight"] == 0).all()
    assert records["rollouts"].groupby("step")["rollout"].apply(list).tolist() == [list(range(8)), list(range(4))]
    assert records["rollouts"]["reward"].tolist()[:8] == list(range(8))


def test_none_for_logits_whose_loss_went_another_way_is_refused():
    """DDP gives None to outputs that the loss did not use; the update is then not one of weight 0."""
    model = small_lm("qwen3")
    with analysis.attach(model) as trace:
        output = model(**batch(*sequences()), output_hidden_states=True)
        (_NoGradient.apply(output.logits) + output.hidden_states[-1].square().mean()).backward()
        with pytest.raises(UsageError, match="expected a gradient through the model's logits"):
            trace.step()


def test_nothing_is_computed_in_passes_without_a_graph(monkeypatch):
    """Generation and evaluation under torch.no_grad cost a hook that returns."""
    from analysis.probes import attachment, capture

    def refuse(*args, **kwargs):
        raise AssertionError("statistics of a pass without a graph")

    model = small_lm("qwen3")
    inputs = batch(*sequences())
    monkeypatch.setattr(capture, "token_statistics", refuse)
    monkeypatch.setattr(attachment, "line_up", refuse)
    with analysis.attach(model):
        with torch.no_grad():
            model(**inputs)
        model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=2, do_sample=False)


def test_a_prompt_that_was_drawn_twice_is_warned_of():
    model = small_lm("qwen3")
    prompts, responses = sequences(6)
    prompts = [prompts[0], prompts[0], prompts[2], prompts[2], prompts[0], prompts[0]]
    with analysis.attach(model, record=EVERY) as trace:
        model(**batch(prompts, responses)).loss.backward()
        with pytest.warns(UserWarning, match=r"got 4 in a group of prompt .* drawn 2 times counts as one group"):
            trace.step()
        model(**batch(prompts, responses)).loss.backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trace.step(groups=[0, 0, 1, 1, 2, 2])
    rollouts = trace.records()["rollouts"]
    assert rollouts["group"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 2, 2]


def test_two_updates_without_a_step_are_refused():
    model = small_lm("qwen3")
    inputs = batch(*sequences())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        with analysis.attach(model):
            for _ in range(2):
                model(**inputs).loss.backward()
                optimizer.step()

    with pytest.raises(UsageError, match=r"expected a call of trace.step\(\) after each optimiser step"):
        train()


def test_a_forward_pass_between_the_update_and_its_step_is_no_update():
    """Log-probs that are logged after the optimiser's step have other parameters, and no backward pass."""
    model = small_lm("qwen3")
    inputs = batch(*sequences())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with analysis.attach(model, record=EVERY) as trace:
        for _ in range(2):
            model(**inputs).loss.backward()
            optimizer.step()
            model(**inputs)
            trace.step()
    assert trace.records()["rollouts"].groupby("step").size().tolist() == [4, 4]


def test_a_refused_step_can_be_repeated():
    model = small_lm("qwen3")
    with analysis.attach(model, record=EVERY) as trace:
        model(**batch(*sequences())).loss.backward()
        with pytest.raises(UsageError, match="rewards: expected 4 numbers"):
            trace.step(rewards=[1.0])
        with pytest.raises(UsageError, match=r"old_log_probs\[0\]: expected"):
            trace.step(rewards=[1.0] * 4, old_log_probs=[[0.0] * 40] * 4)
        trace.step(rewards=[1.0, 0.0, 1.0, 0.0])
    records = trace.records()
    assert records["rollouts"]["reward"].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert not records["prompts"]["prompt_id"].duplicated().any()


def test_rows_put_shuffled_numbers_in_order():
    model = small_lm("qwen3")
    with analysis.attach(model, record=EVERY) as trace:
        model(**batch(*sequences())).loss.backward()
        with pytest.raises(UsageError, match="rows: expected each of 0 … 3 once"):
            trace.step(rewards=[0.0, 1.0, 2.0, 3.0], rows=[0, 1, 1, 3])
        trace.step(rewards=[0.0, 1.0, 2.0, 3.0], rows=[2, 0, 3, 1])
    assert trace.records()["rollouts"]["reward"].tolist() == [1.0, 3.0, 0.0, 2.0]


def test_old_log_probs_give_the_ratio():
    model = small_lm("qwen3")
    prompts, responses = sequences()
    old = [[-1.0 - 0.1 * i for i in range(len(response))] for response in responses]
    with analysis.attach(model, record=EVERY) as trace:
        model(**batch(prompts, responses)).loss.backward()
        trace.step(rewards=[1.0, 0.0, 1.0, 0.0], old_log_probs=old)
    tokens = trace.records()["tokens"]
    expected = [old[i][j] for i, j in zip(tokens["rollout"], tokens["position"], strict=True)]
    assert tokens["old_log_prob"].to_numpy() == pytest.approx(expected, rel=1e-6)
    ratio = [math.exp(new - before) for new, before in zip(tokens["log_prob"], expected, strict=True)]
    assert tokens["ratio"].to_numpy() == pytest.approx(ratio, rel=1e-5)


def test_two_backward_passes_through_one_forward_pass_are_refused():
    model = small_lm("qwen3")
    with analysis.attach(model) as trace:
        loss = model(**batch(*sequences())).loss
        loss.backward(retain_graph=True)
        with pytest.raises(UsageError, match="add the losses and call backward once"):
            loss.backward()
        trace.step()


def test_a_model_that_returns_nothing_of_use_is_refused():
    model = small_lm("qwen3")
    leaf = torch.zeros(4, 9, requires_grad=True)
    model.forward = lambda **inputs: {"loss": leaf.sum()}
    with (
        pytest.raises(UsageError, match="expected a forward pass that returns logits or log_probs"),
        analysis.attach(model),
    ):
        model(**batch(*sequences()))
    assert leaf.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected a positive"),
        ({"record": 0.5}, "record: expected a RecordSpec, got float"),
        ({"labels": torch.zeros(4, 2, dtype=torch.long)}, r"labels: expected token ids of shape \(4, \d+\)"),
        ({"labels": torch.zeros(4, 9)}, r"labels: expected token ids of shape \(4, 9\), .*, got torch.float32"),
        ({"completion_mask": torch.ones(3, 2)}, r"completion_mask: expected bool or 0 and 1 of shape"),
        ({"completion_mask": torch.ones(4, 99, dtype=torch.bool)}, r"completion_mask: expected bool or 0 and 1"),
        ({"labels": lambda inputs: inputs["input_ids"] + VOCAB}, rf"labels: expected token ids from 0 to {VOCAB - 1}"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    model = small_lm("qwen3")
    with pytest.raises(UsageError, match=message), analysis.attach(model, **arguments):
        model(**batch(*sequences()))
    assert not model._forward_hooks


def test_what_is_no_causal_lm():
    with pytest.raises(UsageError, match="expected a causal LM of transformers, got Linear"):
        analysis.attach(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("field", ["contexts", "grad_cos_every"])
def test_what_only_watch_records_is_refused(field):
    with pytest.raises(UsageError, match=f"record: expected neither held-out contexts .*{field}=2"):
        analysis.attach(small_lm("qwen3"), record=RecordSpec(**{field: 2}))


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0, 2.0], r"rewards: expected 4 numbers, one for each sequence in the order .*, got shape \(2,\)"),
        (torch.zeros(2, 2, 1), r"rewards: expected 4 numbers"),
        ([1.0, math.nan, 0.0, 0.0], "rewards: expected finite numbers, got nan at index 1"),
        (["good"] * 4, "rewards: expected 4 numbers, one for each sequence, got"),
    ],
)
def test_rewards_that_do_not_fit(rewards, message):
    model = small_lm("qwen3")
    with analysis.attach(model) as trace:
        model(**batch(*sequences())).loss.backward()
        with pytest.raises(UsageError, match=message):
            trace.step(rewards=rewards)
        trace.step(rewards=[1, 0, 1, 0])  # nothing was lost
    assert len(trace.records()["rollouts"]) > 0


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision(autocast):
    """Statistics and weight are those of logits and gradient as they came, in bf16; the residual is its rounding."""
    model = small_lm("qwen3", dtype=torch.float32 if autocast else torch.bfloat16)
    inputs = batch(*sequences())
    with analysis.attach(model, record=EVERY) as trace, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(**inputs).logits
        logits.retain_grad()
        clipped(token_log_probs(logits.float(), inputs["labels"])).backward()
    assert logits.dtype == torch.bfloat16
    tokens = trace.records()["tokens"]
    counts = inputs["labels"][:, 1:] != -100
    z, g, y = (x[:, :-1][counts].double() for x in (logits, logits.grad, inputs["labels"].roll(-1, 1)))
    d = torch.nn.functional.one_hot(y.long(), VOCAB) - z.softmax(-1)
    assert tokens["weight"].to_numpy() == pytest.approx((-(g * d).sum(-1) / (d * d).sum(-1)).detach().numpy(), rel=1e-4)
    log_pi = z.log_softmax(-1)
    assert tokens["entropy"].to_numpy() == pytest.approx(-(log_pi.exp() * log_pi).sum(-1).detach().numpy(), rel=1e-5)
    assert (tokens["residual"].dropna() < HALF_RESIDUAL).all()


def test_loss_scale_is_undone():
    model = small_lm("qwen3", dtype=torch.float64)
    inputs = batch(*sequences())
    weights = []
    for scale in (1.0, lambda: 1024.0):
        with analysis.attach(model, record=EVERY, loss_scale=scale) as trace:
            (model(**inputs).loss * (scale() if callable(scale) else scale)).backward()
        weights.append(trace.records()["tokens"]["weight"])
    pd.testing.assert_series_equal(*weights)
    assert weights[0].to_numpy() == pytest.approx(1 / len(weights[0]))


def test_confident_tokens_of_a_trained_policy_have_their_weight():
    """Loss Σ −log π(y): every weight is 1, also where 1 − π_y is far below the rounding of float32."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(150)  # confident
        ids = torch.randint(model.config.vocab_size, (4, 1))
        for _ in range(15):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    with analysis.attach(model, record=analysis.RecordSpec(tokens=1)) as trace:
        log_probs = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
        (-log_probs.sum()).backward()
        trace.step()
        tokens = trace.records()["tokens"]
    assert tokens["one_minus_prob"].min() < 1e-12
    assert tokens["weight"].to_numpy() == pytest.approx(1, rel=2e-3)
    assert tokens["residual"].max() < 2e-3
