"""Rows of nested layouts brought to flat columns: whole sequences split at the prompt's end, messages, several metrics.

Each function takes a row and returns the columns to add to it, under the names of the roles, or a list of such columns
where it holds several rollouts; ValueError says why a row cannot be brought to that form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .dialogues import WEIGHT, is_own
from .packed_rows import sequences_of_row

__all__ = [
    "PART",
    "facts_of_prime_export",
    "facts_of_samples",
    "of_dialogue",
    "of_episode_turns",
    "of_lighteval",
    "of_lm_eval",
    "of_messages",
    "of_nemo",
    "of_open_instruct",
    "of_pair",
    "of_prime_export",
    "of_sample",
    "of_sequence",
    "of_share_gpt",
    "of_skyrl",
    "split_sequence",
]

Columns = dict[str, Any]

PART = "\0part"  # the entry that says which part of a row another one was made from

_IGNORED = -100  # the label of a token that is not trained on
_SHARE_GPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def split_sequence(ids: Sequence[int], mask: Sequence[Any], **along: Sequence[Any] | None) -> Columns:
    """Prompt, response and mask of a whole sequence: the response goes from the policy's first token to its last."""
    if len(ids) != len(mask):
        raise ValueError(f"expected one entry of the mask for each of {len(ids)} tokens, got {len(mask)}")
    places = [i for i, own in enumerate(mask) if own]
    if not places:
        raise ValueError("no token is the policy's: its mask is 0 throughout")
    first, end = places[0], places[-1] + 1
    columns: Columns = {
        "prompt_ids": list(ids[:first]),
        "response_ids": list(ids[first:end]),
        "response_mask": [int(bool(own)) for own in mask[first:end]],
    }
    return columns | {name: list(values[first:end]) for name, values in along.items() if values is not None}


def of_nemo(row: Mapping[str, Any]) -> Columns:
    """NeMo-RL logs a batch of one: each value is a list with one entry."""
    one = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in row.items()}
    columns = split_sequence(
        one["token_ids"],
        one["token_loss_mask"],
        advantage=_list(one.get("advantages")),
        old_log_probs=_list(one.get("prev_logprobs")) or _list(one.get("generation_logprobs")),
        sampling_log_probs=_list(one.get("generation_logprobs")),
    )
    if not isinstance(one.get("advantages"), list):
        columns["advantage"] = one.get("advantages")
    if one.get("sample_loss_mask") == 0:
        columns["response_mask"] = [0] * len(columns["response_ids"])
    return columns | {"reward": one.get("rewards")}


def of_prime_export(row: Mapping[str, Any]) -> Columns | list[Columns]:
    """A token export of prime-rl, per token of a sequence; none of a copy that fills up a batch."""
    if not any(row["loss_mask"]):
        return []
    return split_sequence(
        row["token_ids"],
        row["loss_mask"],
        advantage=_list(row.get("advantages")),
        old_log_probs=_list(row.get("inference_logprobs")),
        sampling_log_probs=_list(row.get("inference_logprobs")),
    )


def of_sequence(row: Mapping[str, Any]) -> Columns | list[Columns]:
    """Whole sequences with labels or a mask; several where the row is packed (`packed_rows`)."""
    parts = sequences_of_row(row, len(row["input_ids"]))
    if len(parts) == 1:
        return _of_one_sequence(row)
    return [
        _of_one_sequence(part) | {PART: f"sequence {place + 1}"}
        for place, part in enumerate(parts)
        if len(set(part["input_ids"])) > 1 or any(_own_tokens(part))  # else it fills the row up
    ]


def _of_one_sequence(row: Mapping[str, Any]) -> Columns:
    columns = split_sequence(row["input_ids"], _own_tokens(row), old_log_probs=_list(row.get("logprobs")))
    reward = row.get("rewards", row.get("reward"))
    return columns | ({} if reward is None else {"reward": reward})


def _own_tokens(row: Mapping[str, Any]) -> list[Any]:
    labels = row.get("labels")
    return [label != _IGNORED for label in labels] if labels is not None else list(row["loss_mask"])


def of_sample(row: Mapping[str, Any]) -> Columns | list[Columns]:
    """A sample of slime or miles: tokens of prompt and response, of which the last response_length are the response.

    None of one whose generation was aborted before its first token.
    """
    if _is_aborted(row):
        return []
    length, tokens = row["response_length"], row["tokens"]
    if not isinstance(length, int) or not 0 < length < len(tokens):
        raise ValueError(f"expected a response_length below the number of tokens, got {length} of {len(tokens)}")
    mask = row.get("loss_mask") or [1] * length
    if row.get("remove_sample"):
        mask = [0] * length
    columns: Columns = {"prompt_ids": tokens[:-length], "response_ids": tokens[-length:], "response_mask": mask}
    step = (row.get("file") or {}).get("rollout_id")  # of a dump, which says it once
    more = {"group": row.get("group_index"), "step": step, "sampling_log_probs": row.get("rollout_log_probs")}
    return columns | {name: value for name, value in more.items() if value is not None}


def facts_of_prime_export(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a summary says of rows that no rollout is made of."""
    empty = sum(not any(row["loss_mask"]) for row in rows)
    return [
        f"{empty:,} of {len(rows):,} rows are left out: their loss_mask is 0 throughout. prime-rl fills up a batch "
        "with copies that are masked so, and nothing was trained on them."
    ] * bool(empty)


def facts_of_samples(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a summary says of samples that no rollout is made of."""
    aborted = sum(map(_is_aborted, rows))
    return [
        f"{aborted:,} of {len(rows):,} samples are left out: their generation was aborted before its first token."
    ] * bool(aborted)


def _is_aborted(row: Mapping[str, Any]) -> bool:
    return row["response_length"] == 0 and row.get("status") == "aborted"


def of_open_instruct(row: Mapping[str, Any]) -> Columns:
    """Its rows do not say which tokens a tool wrote, so a response that called one is refused."""
    if (row.get("request_info") or {}).get("tool_calleds"):
        raise ValueError(
            "the response has called a tool (request_info.tool_calleds), and the layout does not say which of its "
            "tokens the tool wrote; add a column response_mask"
        )
    return {}


def of_lm_eval(row: Mapping[str, Any]) -> Columns:
    """Responses to one document; the prompt is the first argument of the request."""
    arguments, responses = row["arguments"], row["resps"]
    first = arguments["gen_args_0"]["arg_0"] if isinstance(arguments, Mapping) else arguments[0][0]
    texts = responses[0] if len(responses) == 1 else None
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("expected generated text in 'resps', got log-likelihoods, which are not rollouts")
    return {"prompt": first, "response": texts} | _only_metric(
        {name: row.get(name) for name in row.get("metrics") or ()}, len(texts)
    )


def of_lighteval(row: Mapping[str, Any]) -> Columns:
    """Responses to one document, with token ids where they were kept."""
    doc, output = row["doc"], row["model_response"]
    texts = output.get("text") or []
    if not texts:
        raise ValueError("expected generated text in 'model_response.text', got none; log-likelihoods are no rollouts")
    gold = doc.get("gold_index")
    choices, indices = doc.get("choices") or [], gold if isinstance(gold, list) else [gold]
    columns: Columns = {"prompt": output.get("input") or doc.get("query"), "response": texts, "group": doc.get("id")}
    if answers := [choices[i] for i in indices if isinstance(i, int) and 0 <= i < len(choices)]:
        columns["answer"] = answers if len(answers) > 1 else answers[0]
    ids = output.get("output_tokens") or []
    if len(ids) == len(texts) and all(isinstance(item, list) and item for item in ids) and output.get("input_tokens"):
        columns |= {"prompt_ids": output["input_tokens"], "response_ids": ids}
    return columns | _only_metric(row.get("metric") or {}, len(texts))


def _only_metric(metrics: Mapping[str, Any], responses: int) -> Columns:
    """The reward, where there is one metric and one response that it is about."""
    numbers = [value for value in metrics.values() if isinstance(value, bool | int | float)]
    return {"reward": float(numbers[0])} if len(numbers) == 1 and responses == 1 else {}


def of_skyrl(row: Mapping[str, Any]) -> Columns:
    """The score may be a list, one for each token; their sum is that of the response."""
    score = row["score"]
    return {"score": sum(score) if isinstance(score, list) else score}


def of_dialogue(row: Mapping[str, Any]) -> Columns:
    """A conversation of which every message of the assistant is the policy's."""
    return of_messages(row, every_turn=True)


def of_messages(row: Mapping[str, Any], *, every_turn: bool = False) -> Columns:
    """A conversation whose last message, the assistant's, is the response.

    With turns of tools, or with weights of messages (1 for the policy's, 0 for others), every message of the assistant
    is the policy's but those of weight 0, and the response goes from the first of them to the last.
    """
    name = "messages" if "messages" in row else "content"
    messages = row[name]
    while isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], list):
        messages = messages[0]
    if not isinstance(messages, list) or len(messages) < 2 or not all(isinstance(turn, Mapping) for turn in messages):
        raise ValueError(f"expected chat messages in {name!r}, of which the last is the assistant's")
    marked = any(turn.get("role") in ("tool", "function") or WEIGHT in turn for turn in messages)
    if marked or every_turn:
        own = [place for place, turn in enumerate(messages) if is_own(turn)]
        if not own or not own[0]:
            raise ValueError(f"expected a prompt and a message of the assistant after it in {name!r}")
        columns: Columns = {"prompt": messages[: own[0]], "response": messages[own[0] : own[-1] + 1]}
    elif messages[-1].get("role") != "assistant":
        raise ValueError(f"expected the assistant's message at the end of {name!r}, got {messages[-1].get('role')!r}")
    else:
        columns = {"prompt": messages[:-1], "response": [messages[-1]]}
    reward = row.get("rewards")
    return columns | ({"reward": reward[0] if isinstance(reward, list) else reward} if reward is not None else {})


def of_share_gpt(row: Mapping[str, Any]) -> Columns:
    """Messages under the names "from" and "value"."""
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(
        isinstance(turn, Mapping) and turn.get("from") in _SHARE_GPT for turn in turns
    ):
        raise ValueError("expected turns of human, gpt and system in 'conversations'")
    return of_messages({"messages": [{"role": _SHARE_GPT[turn["from"]], "content": turn["value"]} for turn in turns]})


def of_pair(row: Mapping[str, Any]) -> Columns:
    """A pair of preferences as two responses: chosen with reward 1, rejected with reward 0."""
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, list) and isinstance(rejected, list):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt = chosen[:shared] if prompt is None or shared else prompt
        chosen, rejected = chosen[shared:], rejected[shared:]
    if not prompt:
        raise ValueError(
            "'chosen' and 'rejected' hold the whole dialogue, and where the response begins is not said; write the "
            "text before it into a column prompt"
        )
    return {"prompt": prompt, "response": [chosen, rejected], "reward": [1.0, 0.0]}


def of_episode_turns(row: Mapping[str, Any]) -> Columns:
    """Results of verifiers, whose message lists may have come as JSON text."""
    import json

    columns: Columns = {}
    for name in ("prompt", "completion"):
        value = row.get(name)
        if isinstance(value, str) and value[:2] == "[{":
            columns[name] = json.loads(value)
    return columns


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None
