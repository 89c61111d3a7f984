"""Episodes of verifiers and prime-rl, `traces.jsonl`: graphs of messages, each branch of which is a rollout.

A line is an episode with the traces of its agents, or a single trace. A trace holds each message once, as a node with
its parent; a path from a root to a leaf is a branch. A node has the token ids that it adds, a mask of those that the
model sampled, and for these, in order, the sampler's log-probs and the advantages. Hence along a branch

    token_ids = concatenation of the nodes' token_ids,

exactly those that the model saw. As in prime-rl, tokens that several branches share are the policy's in the first of
them and context in the others, and traces that failed or whose agent is not trained are not read, nor are attempts to
compact a context that the agent did not go on from. Old log-probs are the trainer's, where it has written them, else
the sampler's. Traces of an evaluation have no token ids; their messages are read, with the turns that the model wrote
as the policy's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .layout import Rows
from .unpacking import PART, Columns, split_sequence

__all__ = ["facts_of_episodes", "of_episode"]

Nodes = Sequence[Mapping[str, Any]]


def of_episode(row: Mapping[str, Any]) -> list[Columns]:
    """The rollouts of an episode, or of a trace that stands alone: one for each branch with tokens of the policy."""
    rollouts: list[Columns] = []
    traces = row.get("traces", [row])
    for number, trace in enumerate(traces, start=1):
        if _failed(trace) or not _trained(trace):
            continue
        branches = list(_branches(trace["nodes"]))
        for index, (nodes, seen) in enumerate(branches, start=1):
            several = ([f"trace {number}"] if len(traces) > 1 else []) + ([f"branch {index}"] if index > 1 else [])
            part: Columns = {PART: ", ".join(several)} if several else {}
            try:
                read = _branch(nodes, seen)
            except ValueError as error:
                at = f"trace {trace.get('id', number)}" + (f", branch {index}" if len(branches) > 1 else "")
                raise ValueError(f"{at}: {error}") from error
            if read is not None:
                rollouts.append(part | _of_trace(trace) | read | _of_run(row, read))
    return rollouts


def facts_of_episodes(rows: Rows) -> list[str]:
    """How many traces were left out, and how many branches were read of those with several."""
    traces = failed = frozen = several = 0
    for row in rows:
        for trace in row.get("traces", [row]):
            traces += 1
            failed += _failed(trace)
            frozen += not _failed(trace) and not _trained(trace)
            read = not _failed(trace) and _trained(trace)
            several += read and sum(1 for _ in _branches(trace["nodes"])) > 1
    facts = []
    if failed:
        facts.append(f"{failed:,} of {traces:,} traces failed (ok is false) and are left out.")
    if frozen:
        facts.append(f"{frozen:,} traces of agents that are not trained (trainable is false) are left out.")
    if several:
        facts.append(
            f"{several:,} traces have several branches; each is a rollout with the reward of its trace, and tokens "
            "that branches share are the policy's in the first of them."
        )
    return facts


def _failed(trace: Mapping[str, Any]) -> bool:
    return trace.get("ok") is False


def _trained(trace: Mapping[str, Any]) -> bool:
    return (trace.get("agent") or {}).get("trainable") is not False


def _branches(nodes: Nodes) -> Iterator[tuple[list[Mapping[str, Any]], list[bool]]]:
    """The nodes of each path from a root to a leaf, and whether an earlier path has each of them."""
    parents = [node.get("parent") for node in nodes]
    links = [link for node in nodes for link in node.get("semantic_parents") or []]
    resumed = {link["node"] for link in links if link["type"] == "compaction"}
    if bad := next((p for i, p in enumerate(parents) if p is not None and not 0 <= p < i), None):
        raise ValueError(f"expected the parent of a node among the nodes before it, got {bad}")
    inner, seen = set(parents), set[int]()
    for leaf in (place for place in range(len(nodes)) if place not in inner):
        attempt = any(link["type"] == "compaction_attempt" for link in nodes[leaf].get("semantic_parents") or [])
        if attempt and leaf not in resumed:
            continue
        path: list[int] = []
        place: int | None = leaf
        while place is not None:
            path.append(place)
            place = parents[place]
        path.reverse()
        yield [nodes[place] for place in path], [place in seen for place in path]
        seen |= set(path)


def _branch(nodes: Nodes, seen: Sequence[bool]) -> Columns | None:
    """The columns of a branch; None where the policy wrote nothing of it that an earlier one has not."""
    own = [
        bool(node.get("sampled") or any(node.get("mask") or [])) and not before
        for node, before in zip(nodes, seen, strict=True)
    ]
    first = own.index(True) if any(own) else None
    if first is None:
        return None
    tools = nodes[0].get("tools") or []
    messages: Columns = {"tools": _schemas(tools)} if tools else {}
    messages |= {
        "prompt": [_message(node) for node in nodes[:first]] or None,
        "response": [_message(node) for node in nodes[first:]],
    }
    if not any(node.get("token_ids") for node in nodes):
        turns = [{**turn, "weight": int(wrote)} for turn, wrote in zip(messages["response"], own[first:], strict=True)]
        return messages | {"response": turns if len(turns) > 1 else messages["response"]}
    ids = [token for node in nodes for token in node.get("token_ids") or []]
    mask = [
        bool(sampled) and wrote for node, wrote in zip(nodes, own, strict=True) for sampled in node.get("mask") or []
    ]
    if not any(mask):
        return None
    sampling, trainer = (_spread(nodes, own, name, needed=True) for name in ("logprobs", "trainer_logprobs"))
    advantages = _spread(nodes, own, "advantages", needed=False)
    return messages | split_sequence(
        ids, mask, advantage=advantages, old_log_probs=trainer or sampling, sampling_log_probs=sampling
    )


def _spread(nodes: Nodes, own: Sequence[bool], name: str, *, needed: bool) -> list[float] | None:
    """Values of the sampled tokens, at their places among all tokens, 0 elsewhere.

    None where no node has any, and, where each token needs one, where some node of the policy has none.
    """
    values: list[float] = []
    there: list[bool] = []
    for node, wrote in zip(nodes, own, strict=True):
        mask, given = node.get("mask") or [], node.get(name)
        if len(mask) != len(node.get("token_ids") or []):
            raise ValueError(
                f"expected a mask of {len(node['token_ids'])} entries, one for each token, got {len(mask)}"
            )
        if wrote and any(mask):
            there.append(bool(given))
        if given and len(given) != sum(mask):
            raise ValueError(f"expected {sum(mask)} {name}, one for each sampled token of a message, got {len(given)}")
        entries = iter(given or [0.0] * sum(mask))
        values += [next(entries) if sampled else 0.0 for sampled in mask]
    return values if (all(there) if needed else any(there)) else None


def _message(node: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its calls of tools in the form of chat templates."""
    message = dict(node["message"])
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [
            call
            if "function" in call
            else {
                **{"id": call.get("id"), "type": "function"},
                "function": {"name": call.get("name"), "arguments": _arguments(call.get("arguments"))},
            }
            for call in calls
        ]
    return message


def _arguments(text: Any) -> Any:
    """The arguments of a call, which are JSON as the model wrote it; other text stays as it is."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _schemas(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools in the form of chat templates."""
    return [{"type": "function", "function": dict(tool)} for tool in tools]


def _of_trace(trace: Mapping[str, Any]) -> Columns:
    """Reward, answer, tools and id."""
    scored = [reward for reward in (trace.get("rewards") or {}).values() if reward is not None]
    columns: Columns = {"reward": sum(r["score"] * r.get("weight", 1.0) for r in scored)} if scored else {}
    answer = ((trace.get("task") or {}).get("data") or {}).get("answer")
    tools = _schemas(trace.get("tools") or []) or None
    named = {"answer": answer or None, "tools": tools, "id": trace.get("id")}
    return columns | {name: value for name, value in named.items() if value is not None}


def _of_run(row: Mapping[str, Any], read: Columns) -> Columns:
    """Step and group; branches and agents of one group that saw different prompts are compared apart."""
    work, group = (row.get("run") or {}).get("work") or {}, (row.get("group") or {}).get("id")
    columns: Columns = {"step": work["step"]} if work.get("step") is not None else {}
    if group is not None:
        seen = json.dumps(read.get("prompt_ids") or read["prompt"], sort_keys=True)
        columns["group"] = f"{group} {hashlib.sha256(seen.encode()).hexdigest()[:12]}"
    return columns
