"""Files as other libraries write them, made here after their public schemas, with numbers that can be found again.

Each function names the file that defines the schema; all were read on 29 November 2026 (verifiers in its wheel 0.4.0
and at a60a606, prime-rl at 559b447, slime at 624b824, OpenRLHF at 3c3be62, vLLM at 003d3ee and 002032e).
"""

from __future__ import annotations

from typing import Any

import torch

USER = {"role": "user", "content": "1 + 1"}
ANSWER = {"role": "assistant", "content": "2"}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "3"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "name": "add", "arguments": '{"a": 1}'}]}


def node(
    message: dict[str, Any], ids: list[int], own: int = 0, parent: int | None = None, **more: Any
) -> dict[str, Any]:
    """A MessageNode: its last `own` tokens are sampled (PrimeIntellect-ai/verifiers: verifiers/v1/graph.py)."""
    mask = [False] * (len(ids) - own) + [True] * own
    base = {"message": message, "sampled": own > 0, "timestamp": 1.0, "token_ids": ids, "mask": mask, "logprobs": []}
    return base | ({} if parent is None else {"parent": parent}) | more


def trace(
    nodes: list[dict[str, Any]], *, trace_id: str = "t1", reward: float | None = 1.0, **more: Any
) -> dict[str, Any]:
    """A Trace (PrimeIntellect-ai/verifiers: verifiers/v1/trace.py)."""
    rewards = {"solved": {"score": reward, "weight": 1.0}} if reward is not None else {"solved": None}
    task = {"type": "Task", "data": {"idx": 3, "prompt": "1 + 1", "answer": "2"}}
    base = {"version": 1, "id": trace_id, "task": task, "agent": {"config": {}, "name": "agent", "trainable": True}}
    return base | {"nodes": nodes, "calls": [], "rewards": rewards, "metrics": {}, "ok": True, "errors": []} | more


def episode(traces: list[dict[str, Any]], *, group: str | None = "g1", step: int | None = 7) -> dict[str, Any]:
    """A line of traces.jsonl (verifiers/v1/episode.py; PrimeIntellect-ai/prime-rl: src/prime_rl/monitors/file.py)."""
    base: dict[str, Any] = {
        "id": "e1",
        "env": {"id": "gsm8k"},
        "task": {"type": "Task", "data": {"idx": 3}},
        "ok": True,
    }
    if group is not None:
        base["group"] = {"id": group}
    if step is not None:
        base["run"] = {"type": "train", "id": "r", "work": {"type": "train", "step": step}}
    return base | {"errors": [], "traces": traces}


def single_turn(**more: Any) -> dict[str, Any]:
    """A trace of one turn: two tokens of the template before the two that were sampled."""
    reply = node(ANSWER, [7, 8, 9, 1], own=2, parent=0, logprobs=[-0.25, -0.5], advantages=[0.5, 0.5])
    return trace([node(USER, [5, 6]), reply], **more)


def request_output(**more: Any) -> dict[str, Any]:
    """A RequestOutput, `vars` of it and of its outputs (vllm-project/vllm: vllm/outputs.py, vllm/logprobs.py)."""

    def log_probs(*sampled: tuple[int, float]) -> list[dict[str, Any]]:
        other = {"99": {"logprob": -9.0, "rank": 2, "decoded_token": "x"}}
        return [{str(i): {"logprob": value, "rank": 1, "decoded_token": "y"}} | other for i, value in sampled]

    outputs = [
        {
            "index": 0,
            "text": "2",
            "token_ids": [9, 1],
            "logprobs": log_probs((9, -0.25), (1, -0.5)),
            "finish_reason": "stop",
        },
        {"index": 1, "text": "3", "token_ids": [10], "logprobs": log_probs((10, -1.5)), "finish_reason": "length"},
    ]
    base = {"request_id": "q1", "prompt": "1 + 1", "prompt_token_ids": [5, 6], "prompt_logprobs": None}
    return base | {"outputs": outputs, "finished": True, "num_cached_tokens": 0} | more


def chat_completion(*, ids: str = "token_ids") -> dict[str, Any]:
    """A chat completion with log-probs (vllm-project/vllm: vllm/entrypoints/openai/chat_completion/protocol.py).

    `ids`: "token_ids" as with return_token_ids, "tokens" as with return_tokens_as_token_ids, or "none".
    """
    names = ["token_id:9", "token_id:1"] if ids == "tokens" else ["2", "</s>"]
    content = [
        {"token": name, "logprob": value, "bytes": None, "top_logprobs": []}
        for name, value in zip(names, (-0.25, -0.5), strict=True)
    ]
    choice = {"index": 0, "message": ANSWER, "logprobs": {"content": content}, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "usage": {}}
    if ids == "token_ids":
        return body | {"choices": [choice | {"token_ids": [9, 1]}], "prompt_token_ids": [5, 6]}
    return body | {"choices": [choice]}


def batch_request(custom_id: str = "a", **more: Any) -> dict[str, Any]:
    """A line of a batch's input (vllm-project/vllm: vllm/entrypoints/openai/run_batch.py, BatchRequestInput)."""
    body = {"model": "m", "messages": [USER], "logprobs": True}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body | more}


def batch_response(custom_id: str = "a", **more: Any) -> dict[str, Any]:
    """A line of a batch's output (the same file, BatchRequestOutput)."""
    response = {"status_code": 200, "request_id": "r", "body": chat_completion(ids="none")}
    return {"id": "vllm-1", "custom_id": custom_id, "response": response, "error": None} | more


def slime_dump() -> dict[str, Any]:
    """What save_debug_rollout_data gives torch.save (THUDM/slime: slime/observability/rollout_data_utils.py)."""

    def sample(index: int, reward: float) -> dict[str, Any]:
        return {
            **{"group_index": 2, "index": index, "rollout_id": None, "prompt": "1 + 1", "tokens": [5, 6, 9, 3, 1]},
            **{"response": "2", "response_length": 3, "label": "2", "reward": reward, "loss_mask": [1, 0, 1]},
            **{"rollout_log_probs": torch.tensor([-0.25, 0.0, -0.5]), "remove_sample": False, "status": "completed"},
            "metadata": {},
        }

    return {"rollout_id": 4, "samples": [sample(0, 1.0), sample(1, 0.0)]}


def slime_training_dump() -> dict[str, Any]:
    """What save_debug_train_data gives torch.save (THUDM/slime: slime/observability/train_data_utils.py)."""
    sample = {
        **{"data_parallel_rank": 0, "sample_index": 9, "rollout_position": 1, "tokens": torch.tensor([5, 6, 9, 1])},
        **{"response_lengths": 2, "total_lengths": 4, "rewards": -0.5, "loss_masks": torch.tensor([1, 1])},
        **{"log_probs": torch.tensor([-0.375, -0.625]), "rollout_log_probs": torch.tensor([-0.25, -0.5])},
        "advantages": torch.tensor([-0.5, -0.5]),
    }
    return {
        "format_version": 2,
        "rollout_id": 4,
        "rank": 0,
        "samples": [sample],
        "dp_shards": [{"rank": 0}],
        "raw_reward": [1, 0],
    }


def experience() -> dict[str, Any]:
    """`vars` of an Experience (OpenRLHF/OpenRLHF: openrlhf/trainer/ppo_utils/experience.py, samples_generator.py).

    Two sequences of 5 and 3 tokens, filled up on the right; entry t of an action is about token t + 1.
    """
    return {
        "sequences": torch.tensor([[5, 6, 9, 3, 1], [5, 10, 1, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "action_mask": torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]]).bool(),
        "action_log_probs": torch.tensor([[0.0, -0.375, 0.0, -0.625], [-1.0, -2.0, 0.0, 0.0]]),
        "rollout_log_probs": torch.tensor([[0.0, -0.25, 0.0, -0.5], [-1.5, -2.5, 0.0, 0.0]]),
        "advantages": torch.tensor([[0.0, 0.5, 0.0, 0.5], [-0.5, -0.5, 0.0, 0.0]]),
        "base_action_log_probs": None,
        "rewards": torch.tensor([1.0, 0.0]),
        "index": None,
        "prompts": ["1 + 1", "1"],
        "labels": ["2", "3"],
        "images": [],
        "info": {"reward": torch.tensor([1.0, 0.0])},
    }
