"""The rollout engine `sample` without Ray: what it draws from, what it draws, and when it stops."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from analysis.engines.verl.smoke.rollout_engine import Request, SampleServer, sample, sampled_log_probs

END = 1
PARAMS = {"temperature": 1.0, "top_k": -1, "top_p": 1.0, "repetition_penalty": 1.0, "logprobs": True}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        eos_token_id=END,
    )
    return Qwen3ForCausalLM(config).eval()


def _request(seed: int, prompt=(2, 3, 4), **changes) -> Request:
    fields = {"max_tokens": 6, "temperature": 0.7, "top_k": -1, "top_p": 1.0, **changes}
    return Request(prompt_ids=tuple(prompt), seed=seed, **fields)


def test_log_probs_are_those_of_the_whole_sequence_at_the_temperature(model):
    requests = [_request(seed) for seed in range(8)]
    for request, output in zip(requests, sample(model, requests, frozenset({END})), strict=True):
        ids = [*request.prompt_ids, *output.token_ids]
        rows = (model(input_ids=torch.tensor([ids])).logits[0, 2:-1].double() / 0.7).log_softmax(-1)
        expected = rows.gather(-1, torch.tensor(output.token_ids)[:, None])[:, 0]
        # The cache of a batch against one forward pass, both in float32.
        torch.testing.assert_close(torch.tensor(output.log_probs, dtype=torch.float64), expected, atol=1e-6, rtol=0)


def test_a_response_ends_with_its_end_token_or_at_the_limit(model):
    outputs = sample(model, [_request(seed) for seed in range(64)], frozenset({END}))
    lengths = {len(output.token_ids) for output in outputs}
    assert len(lengths) > 2
    for output in outputs:
        assert END not in output.token_ids[:-1]
        assert output.token_ids[-1] == END or len(output.token_ids) == 6
        assert len(output.log_probs) == len(output.token_ids)


def test_a_request_draws_the_same_alone_and_in_a_batch(model):
    requests = [_request(seed, prompt=(2, 3, 4 + seed % 3)) for seed in range(6)]
    together = sample(model, requests, frozenset({END}))
    alone = [sample(model, [request], frozenset({END}))[0] for request in requests]
    assert [output.token_ids for output in together] == [output.token_ids for output in alone]


def test_tokens_are_drawn_with_their_probability(model):
    # 4000 draws fixed beforehand; each share within 4.5 standard errors fails by chance in fewer than 1 of 10,000 runs.
    count = 4000
    outputs = sample(model, [_request(seed, max_tokens=1) for seed in range(count)], frozenset())
    with torch.no_grad():
        probs = (model(input_ids=torch.tensor([[2, 3, 4]])).logits[0, -1].double() / 0.7).softmax(-1)
    shares = torch.bincount(torch.tensor([output.token_ids[0] for output in outputs]), minlength=11) / count
    assert ((shares - probs).abs() <= 4.5 * (probs * (1 - probs) / count).sqrt()).all()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"temperature": 0.0}, [3]),
        ({"temperature": 1.0, "top_k": 2}, [1, 3]),
        ({"temperature": 1.0, "top_p": 0.5}, [3]),
        ({"temperature": 1.0, "top_p": 0.7}, [1, 3]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.999}, [1, 2, 3]),
    ],
)
def test_what_top_k_and_top_p_keep(settings, kept):
    logits = torch.tensor([[0.1, 0.2, 0.15, 0.55]]).log()
    rows = sampled_log_probs(logits, **settings)
    assert rows.isfinite()[0].nonzero().flatten().tolist() == kept
    torch.testing.assert_close(rows.exp().sum(-1), torch.ones(1, dtype=torch.float64))


def test_the_server_answers_in_batches_dumps_them_and_repeats_itself(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    config = SimpleNamespace(
        engine_kwargs={"sample": {"dump": str(tmp_path / "dump")}}, seed=5, response_length=4, max_num_seqs=3
    )

    async def ask():
        server = SampleServer(config, str(tmp_path / "model"), replica_rank=0)
        with pytest.raises(RuntimeError, match="asked before the actor sent its weights"):
            await server.generate([2, 3], PARAMS, "a")
        await server.update_weights(model.state_dict(), 7)
        return await asyncio.gather(*(server.generate([2, 3 + i % 2], PARAMS, str(i)) for i in range(8)))

    outputs = asyncio.run(ask())
    assert {output.extra_fields["global_steps"] for output in outputs} == {7}
    dumped = [json.loads(line) for line in (tmp_path / "dump" / "samples-0.jsonl").read_text().splitlines()]
    assert sorted(row["response_ids"] for row in dumped) == sorted(output.token_ids for output in outputs)
    assert {row["step"] for row in dumped} == {7}
    assert [output.token_ids for output in outputs] == [output.token_ids for output in asyncio.run(ask())]
    assert len({tuple(output.token_ids) for output in outputs}) > 1


def test_weights_of_another_model_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    config = SimpleNamespace(engine_kwargs=None, seed=5, response_length=4, max_num_seqs=3)
    server = SampleServer(config, str(tmp_path / "model"), replica_rank=0)
    weights = {name: value for name, value in model.state_dict().items() if "norm" not in name}
    with pytest.raises(RuntimeError, match="Missing key"):
        asyncio.run(server.update_weights(weights, 1))
