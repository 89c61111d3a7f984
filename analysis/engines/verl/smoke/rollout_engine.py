"""The rollout engine `sample` of verl: a transformers model that samples on a CPU, one server a replica.

It stands where vLLM and SGLang stand and is asked the same way: verl's agent loops call `generate` on a Ray actor and
get token ids with the log-probabilities of the distribution that they were drawn from (after temperature, top-k and
top-p, verl's `logprobs_mode=processed_logprobs`); after each step the actor sends its weights to the server.

Tokens are drawn by inverting the cumulative distribution in float64, p(token < k) ≤ u < p(token ≤ k), with one
uniform number u per token. The numbers of a request come from a generator seeded with `rollout.seed`, the step of the
weights, the number of the server, the prompt and how many times it was asked for this prompt at this step. With one
server a run repeats, whatever the order in which requests arrive; between several, verl's load balancer chooses.

Settings under `rollout.engine_kwargs.sample`:

- `dump`: a folder; each server appends every sample to `samples-<replica>.jsonl` in it: step, prompt, response,
  log-probs, temperature.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from verl.utils import normalize_token_ids
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from ....errors import UsageError

WAIT_SECONDS = 0.01
"""How long a batch waits for more requests; agent loops send the requests of a step at once."""


@dataclass(frozen=True)
class Request:
    """One response that is asked for.

    Attributes:
        prompt_ids: The prompt's tokens.
        max_tokens: The most tokens of the response.
        temperature: Divides the logits; 0 takes the most probable token.
        top_k: Tokens kept, the most probable first; -1 keeps all.
        top_p: Probability that the kept tokens reach together, the most probable first; 1 keeps all.
        seed: Of the uniform numbers.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Requests with the same key can be sampled together, without padding."""
        return len(self.prompt_ids), self.max_tokens, self.temperature, self.top_k, self.top_p


def sampled_log_probs(logits: torch.Tensor, temperature: float, top_k: int = -1, top_p: float = 1.0) -> torch.Tensor:
    """Return the log-probabilities that tokens are drawn from.

    Args:
        logits: (batch, vocab), raw.
        temperature: Divides the logits; 0 puts all probability on the largest logit.
        top_k: Tokens kept, the most probable first; -1 keeps all.
        top_p: Keep the most probable tokens until their probability reaches this; 1 keeps all.

    Returns:
        (batch, vocab) in float64, -inf for tokens that cannot be drawn.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0, 2.0]])
        >>> sampled_log_probs(logits, 1.0, top_k=2).exp().round(decimals=3)
        tensor([[0.0000, 0.2690, 0.7310]], dtype=torch.float64)
    """
    logits = logits.double()
    if temperature == 0:
        top_k, temperature = 1, 1.0
    logits = logits / temperature
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ranked = logits.gather(-1, order)
    dropped = torch.zeros_like(ranked, dtype=torch.bool)
    if top_k > 0:
        dropped[:, top_k:] = True
    if top_p < 1:
        probs = ranked.masked_fill(dropped, -torch.inf).softmax(-1)
        dropped |= probs.cumsum(-1) - probs >= top_p
    ranked = ranked.masked_fill(dropped, -torch.inf).log_softmax(-1)
    return torch.full_like(ranked, -torch.inf).scatter(-1, order, ranked)


@torch.no_grad()
def sample(model: torch.nn.Module, requests: Sequence[Request], eos: frozenset[int]) -> list[TokenOutput]:
    """Draw one response for each request; all requests have the same `batch_key`.

    Args:
        model: A causal language model of transformers.
        requests: What is asked for, of one prompt length and one set of sampling parameters.
        eos: Tokens that end a response; the response holds the one that ended it.

    Returns:
        Ids and log-probs, in the order of the requests.
    """
    first = requests[0]
    uniforms = torch.stack([_uniforms(request) for request in requests])
    inputs = torch.tensor([request.prompt_ids for request in requests])
    ended = torch.zeros(len(requests), dtype=torch.bool)
    tokens: list[list[int]] = [[] for _ in requests]
    log_probs: list[list[float]] = [[] for _ in requests]
    cache = None
    for position in range(first.max_tokens):
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        rows = sampled_log_probs(output.logits[:, -1], first.temperature, first.top_k, first.top_p)
        drawn = _draw(rows, uniforms[:, position])
        for row in (~ended).nonzero().flatten().tolist():
            tokens[row].append(int(drawn[row]))
            log_probs[row].append(float(rows[row, drawn[row]]))
            ended[row] = tokens[row][-1] in eos
        if bool(ended.all()):
            break
        inputs = drawn[:, None]
    return [
        TokenOutput(token_ids=ids, log_probs=values, stop_reason="completed")
        for ids, values in zip(tokens, log_probs, strict=True)
    ]


def _uniforms(request: Request) -> torch.Tensor:
    generator = torch.Generator().manual_seed(request.seed)
    return torch.rand(request.max_tokens, dtype=torch.float64, generator=generator)


def _draw(log_probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    cumulative = log_probs.exp().cumsum(-1)
    # The last sum may fall short of 1 by rounding: scale u by it, so that no draw falls behind the last token.
    index = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return index.clamp(max=log_probs.shape[-1] - 1)


class SampleServer:
    """A model that samples, as a Ray actor; the methods are those that verl calls on a rollout server.

    Args:
        config: verl's rollout configuration.
        model_path: Folder of the model; its weights are not read, since the actor sends its own before the first
            request.
        replica_rank: Number of this server.
    """

    def __init__(self, config: Any, model_path: str, replica_rank: int) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.set_num_threads(1)
        self.config = config
        self.replica_rank = replica_rank
        model_config = AutoConfig.from_pretrained(model_path)
        self.model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32).eval()
        self.eos = _eos(model_path, model_config)
        self.global_steps: int | None = None
        self.asked: Counter[tuple[int, ...]] = Counter()
        self.pending: list[tuple[Request, asyncio.Future[TokenOutput]]] = []
        self.drain: asyncio.Task[None] | None = None
        dump = (config.engine_kwargs or {}).get("sample", {}).get("dump")
        self.dump = Path(dump, f"samples-{replica_rank}.jsonl") if dump else None

    async def generate(
        self, prompt_ids: Any, sampling_params: dict[str, Any], request_id: str, **ignored: Any
    ) -> TokenOutput:
        """Draw one response. `ignored` holds the images and videos of other models, which are None here."""
        if self.global_steps is None:
            raise RuntimeError(
                "the rollout engine 'sample' was asked before the actor sent its weights; "
                "expected verl's checkpoint engine 'naive', which sends them first"
            )
        prompt = tuple(normalize_token_ids(prompt_ids))
        request = self._request(prompt, sampling_params)
        answer: asyncio.Future[TokenOutput] = asyncio.get_running_loop().create_future()
        self.pending.append((request, answer))
        if self.drain is None or self.drain.done():
            self.drain = asyncio.create_task(self._answer_pending())
        output = await answer
        output.extra_fields["global_steps"] = self.global_steps
        return output

    def _request(self, prompt: tuple[int, ...], params: dict[str, Any]) -> Request:
        number = self.asked[prompt]
        self.asked[prompt] += 1
        text = json.dumps([self.config.seed, self.replica_rank, self.global_steps, prompt, number])
        return Request(
            prompt_ids=prompt,
            max_tokens=int(params.get("max_tokens", self.config.response_length)),
            temperature=float(params["temperature"]),
            top_k=int(params["top_k"]),
            top_p=float(params["top_p"]),
            seed=int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1,
        )

    async def _answer_pending(self) -> None:
        await asyncio.sleep(WAIT_SECONDS)
        while self.pending:
            key = self.pending[0][0].batch_key
            batch = [item for item in self.pending if item[0].batch_key == key][: self.config.max_num_seqs]
            taken = {id(item) for item in batch}
            self.pending = [item for item in self.pending if id(item) not in taken]
            requests = [request for request, _ in batch]
            try:
                outputs = await asyncio.to_thread(sample, self.model, requests, self.eos)
                self._write(requests, outputs)
            except Exception as error:
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for (_, answer), output in zip(batch, outputs, strict=True):
                answer.set_result(output)

    def _write(self, requests: Sequence[Request], outputs: Sequence[TokenOutput]) -> None:
        if self.dump is None:
            return
        self.dump.parent.mkdir(parents=True, exist_ok=True)
        with self.dump.open("a", encoding="utf-8") as file:
            for request, output in zip(requests, outputs, strict=True):
                row = {
                    "step": self.global_steps,
                    "temperature": request.temperature,
                    "prompt_ids": request.prompt_ids,
                    "response_ids": output.token_ids,
                    "log_probs": output.log_probs,
                }
                file.write(json.dumps(row) + "\n")

    async def update_weights(self, weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
        """Take the actor's weights; the names must be the model's own, all of them."""
        self.model.load_state_dict(weights)
        self.global_steps = global_steps or 0
        self.asked.clear()

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Do nothing: weights and caches stay in memory between steps."""

    async def sleep(self) -> None:
        """Do nothing: a CPU shares no device memory with the trainer."""

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Do nothing: the synchronous trainer waits for every response before it sends weights."""

    async def resume_generation(self) -> None:
        """Do nothing: nothing was aborted."""

    async def clear_kv_cache(self) -> None:
        """Do nothing: caches live for one batch."""

    async def start_profile(self, **settings: Any) -> None:
        """Do nothing: there is no device profiler."""

    async def stop_profile(self) -> None:
        """Do nothing: there is no device profiler."""


def _eos(model_path: str, model_config: Any) -> frozenset[int]:
    from transformers import GenerationConfig

    if Path(model_path, "generation_config.json").is_file():
        ids = GenerationConfig.from_pretrained(model_path).eos_token_id
    else:
        ids = model_config.eos_token_id
    return frozenset([ids] if isinstance(ids, int) else ids or ())


def server_name(replica_rank: int) -> str:
    """The name under which the server of a replica is found in Ray."""
    return f"sample_server_{replica_rank}"


class SampleReplica(RolloutReplica):
    """One server for one rank of the trainer."""

    async def launch_servers(self) -> None:
        """Start the server as a Ray actor."""
        if self.world_size != 1:
            raise UsageError(
                f"expected one process for each server of the rollout engine 'sample', got {self.world_size}; "
                "set actor_rollout_ref.rollout.tensor_model_parallel_size=1 (and data and pipeline parallel size 1)"
            )
        name = server_name(self.replica_rank)
        actor = ray.remote(SampleServer).options(name=name, num_cpus=0, max_concurrency=self.max_concurrency)
        server = actor.remote(self.config, self.model_config.path, self.replica_rank)
        self.servers = [server]
        self._server_handle, self._server_address = server, name


class SampleAdapter(BaseRollout):
    """The rollout engine as the trainer's worker sees it: it sends the weights to the server of its replica."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.server: Any = None

    async def resume(self, tags: list[str]) -> None:
        """Do nothing: weights and caches stay in memory between steps."""

    async def release(self) -> None:
        """Do nothing: a CPU shares no device memory with the trainer."""

    async def update_weights(
        self,
        weights: Iterator[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **settings: Any,
    ) -> None:
        """Send every weight to the server. Gathering them is a collective, so every rank goes through all of them."""
        if wire_format != "named_tensors":
            raise UsageError(
                f"expected whole weights (named_tensors) for the rollout engine 'sample', got {wire_format}; "
                "set actor_rollout_ref.rollout.checkpoint_engine.backend=naive"
            )
        state = {name: weight.detach().cpu() for name, weight in weights}
        if self.server is None:
            self.server = ray.get_actor(server_name(torch.distributed.get_rank()))
        await self.server.update_weights.remote(state, global_steps)
