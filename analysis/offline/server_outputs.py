"""What inference servers return: vLLM's RequestOutput as JSON, and responses of OpenAI-compatible servers.

Both may have token ids and the sampler's log-probs. Token ids are those of `token_ids` (vLLM: `return_token_ids`), or
of tokens that are written "token_id:17" (`return_tokens_as_token_ids`). Without them the text is read, and log-probs
are not: which token each belongs to would have to be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toy_models.spooled import Spooled

from .unpacking import Columns

__all__ = ["joined_batches", "of_request_output", "of_server_response"]

_TOKEN_ID = "token_id:"


def of_request_output(row: Mapping[str, Any]) -> Columns:
    """vLLM's RequestOutput: a prompt and the outputs that were sampled to it."""
    outputs = row["outputs"]
    if not isinstance(outputs, list) or not outputs:
        raise ValueError("expected a list of outputs in 'outputs', got none")
    parts = [
        {
            "response": output.get("text"),
            "response_ids": list(output["token_ids"]),
            "old_log_probs": _sampled(output.get("logprobs"), output["token_ids"]),
        }
        for output in outputs
    ]
    return {"prompt_ids": row["prompt_token_ids"]} | _together(parts)


def of_server_response(row: Mapping[str, Any]) -> Columns:
    """A response with its choices, of a batch or alone; the request may stand beside it."""
    answer = row.get("response")
    outer = answer if isinstance(answer, Mapping) else row
    if row.get("error") or outer.get("status_code") not in (None, 200) or (outer.get("body") or {}).get("error"):
        failure = row.get("error") or (outer.get("body") or {}).get("error") or f"status {outer.get('status_code')}"
        raise ValueError(f"the request failed: {str(failure)[:80]}")
    body = outer.get("body", outer)
    choices = body["choices"]
    if not isinstance(choices, list) or not choices:
        raise ValueError("expected a list of choices, got none")
    request = row.get("request") or row
    prompt_ids = body.get("prompt_token_ids") or choices[0].get("prompt_token_ids")
    prompt = request.get("messages") or request.get("prompt") or body.get("prompt_text")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        prompt, prompt_ids = None, prompt_ids or prompt
    if prompt is None and prompt_ids is None:
        raise ValueError(
            "the response has no prompt; give a folder with the requests as well (a batch's input, joined by "
            "custom_id), write the request's messages or prompt beside the response, or have the server return "
            "prompt_token_ids (return_token_ids)"
        )
    columns: Columns = {"prompt": prompt, "prompt_ids": prompt_ids, "tools": request.get("tools")}
    columns |= {"template_arguments": request.get("chat_template_kwargs")}
    return {name: value for name, value in columns.items() if value is not None} | _together([*map(_choice, choices)])


def joined_batches(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any] | None] | None:
    """Responses of a batch with their requests, which stand among the rows, by custom_id; None in place of a request.

    None where the rows do not hold both.
    """
    requests = {row["custom_id"]: row["body"] for row in rows if "custom_id" in row and "url" in row and "body" in row}
    answers = any("custom_id" in row and "response" in row for row in rows)
    if not requests or not answers:
        return None
    return Spooled(
        None
        if "url" in row and "response" not in row
        else {**row, "request": requests[row["custom_id"]]}
        if row.get("custom_id") in requests
        else row
        for row in rows
    )


def _choice(choice: Mapping[str, Any]) -> Columns:
    message, scores = choice.get("message"), choice.get("logprobs") or {}
    ids, log_probs = choice.get("token_ids"), None
    if scores:
        tokens = scores.get("tokens") or [entry["token"] for entry in scores.get("content") or []]
        log_probs = scores.get("token_logprobs") or [entry["logprob"] for entry in scores.get("content") or []]
        if not ids and tokens and all(str(token).startswith(_TOKEN_ID) for token in tokens):
            ids = [int(str(token).removeprefix(_TOKEN_ID)) for token in tokens]
        if ids and log_probs and len(log_probs) != len(ids):
            raise ValueError(f"expected {len(ids)} log-probs, one for each of token_ids, got {len(log_probs)}")
    return {
        "response": [message] if message is not None else choice["text"],
        "response_ids": list(ids) if ids else None,
        "old_log_probs": list(log_probs) if ids and log_probs else None,
    }


def _together(parts: Sequence[Columns]) -> Columns:
    """The columns of a row: of one response as they are, of several as lists, which make a group."""
    names = [name for name in parts[0] if any(part[name] is not None for part in parts)]
    columns = {name: parts[0][name] if len(parts) == 1 else [part[name] for part in parts] for name in names}
    if "old_log_probs" in columns:
        columns["sampling_log_probs"] = columns["old_log_probs"]
    return columns


def _sampled(log_probs: Any, ids: Sequence[int]) -> list[float] | None:
    """The log-prob of each sampled token among those of the most probable ones at its place."""
    if not log_probs:
        return None
    if len(log_probs) != len(ids):
        raise ValueError(f"expected {len(ids)} entries of logprobs, one for each of token_ids, got {len(log_probs)}")
    found = []
    for token, entry in zip(ids, log_probs, strict=True):
        if isinstance(entry, Mapping):
            entry = entry.get(str(token), entry.get(token))
            entry = entry["logprob"] if isinstance(entry, Mapping) else entry
        if entry is None:
            raise ValueError(f"the logprobs have no entry for the sampled token {token}")
        found.append(float(entry))
    return found
