"""Runs written by hand for the page: any prompts and words, distributions whose tail is uniform, exact outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records import Run, RunWriter
from analysis.records.schema import BUCKETS, SHARES
from analysis.records.token_text import TOKENIZER_FILE
from tests.report.by_hand import append

TOP = 8  # tokens that are recorded of each distribution
VOCABULARY = 24
STEP = 0.5  # of a logit, for a weight of 1
PROMPTS = ("one and two", "three")
WORDS = tuple(f"w{i}" for i in range(VOCABULARY))
PANEL = 2


def distribution(rng: np.random.Generator) -> np.ndarray:
    """π over the vocabulary: `TOP` different probabilities, the others equally likely and below all of these."""
    head = np.sort(rng.uniform(1.0, 9.0, TOP))[::-1]
    logits = np.concatenate([np.log(head), np.full(VOCABULARY - TOP, np.log(0.1))])
    probs = np.exp(logits) / np.exp(logits).sum()
    return rng.permutation(probs)


def stepped(probs: np.ndarray, token: int, push: float) -> np.ndarray:
    """softmax(z + push·(e_y − π))."""
    raised = probs * np.exp(push * (np.eye(len(probs))[token] - probs))
    return raised / raised.sum()


def statistics(probs: np.ndarray, token: int) -> dict[str, float]:
    direction = np.eye(len(probs))[token] - probs
    return {
        "log_prob": float(np.log(probs[token])),
        "one_minus_prob": float(1 - probs[token]),
        "entropy": float(-(probs * np.log(probs)).sum()),
        "collision": float((probs**2).sum()),
        "collision_log_prob": float((probs**2 * np.log(probs)).sum()),
        "direction_norm": float(np.linalg.norm(direction)),
    }


def token_distribution(seed: int, step: int, rollout: int, position: int) -> tuple[np.ndarray, int]:
    """The distribution at a token of `write_run`, and the token: one of the most probable or of the tail."""
    rng = np.random.default_rng([seed, step, rollout, position])
    probs = distribution(rng)
    order = np.argsort(-probs)
    return probs, int(order[rng.integers(TOP)] if position % 2 == 0 else order[TOP + position % (VOCABULARY - TOP)])


def weight_of(label: str, rewarded: bool) -> float:
    """PSR learns from rewarded responses alone, NSR from unrewarded ones."""
    return {"PSR": 0.2 * rewarded, "NSR": -0.2 * (not rewarded)}.get(label, 0.2 if rewarded else -0.2)


def write_run(
    folder: Path,
    *,
    label: str = "NSR",
    seed: int = 0,
    steps: int = 3,
    prompts: Sequence[str] = PROMPTS,
    words: Sequence[str] = WORDS,
    special: Sequence[str] = (),
    length: int = 4,
    status: str = "complete",
    engine: str = "small",
    tokens: bool = True,
    contexts: bool = True,
    unrecorded: int = 0,
    versions: dict[str, str] | None = None,
) -> Run:
    """A run with a step for each update, two responses a prompt, of which the first is rewarded.

    Args:
        folder: of the run.
        label: PSR, NSR, or another method, which gives each sign its weight.
        seed: of the distributions.
        steps: steps, each with one update.
        prompts: texts.
        words: of the vocabulary, `VOCABULARY` of them.
        special: which of the words are special tokens.
        length: tokens of a response.
        status: of the run.
        engine: that recorded it.
        tokens: whether tokens are recorded.
        contexts: whether the first token of each response is followed, and a panel of `PANEL` prefixes.
        unrecorded: further tokens of each response, of which nothing is recorded.
        versions: of libraries.
    """
    info: dict[str, Any] = {
        "run_id": folder.name,
        "label": label,
        "engine": engine,
        "recipe": {"objective": {"name": label.lower()}, "steps": steps},
        "hash": "0" * 64,
        "seed": seed,
        "temperature": 1.0,
    }
    writer = RunWriter(folder, run_json=info | ({"versions": versions} if versions else {}))
    _write_tokenizer(folder, words, special)
    ids = [{"prompt_id": f"p{i}", "split": "train", "text": text, "token_ids": [i]} for i, text in enumerate(prompts)]
    append(writer, "prompts", ids)
    if contexts:
        append(writer, "contexts", [_panel_context(i) for i in range(PANEL)])
    writer.commit(0, {})
    for step in range(steps):
        _write_step(
            writer, step, label, seed, len(prompts), words, length, unrecorded, tokens=tokens, contexts=contexts
        )
        writer.commit(step + 1, {})
    writer.finish(status)
    return Run(folder)


def _panel_context(i: int) -> dict[str, Any]:
    return {
        "context": i,
        "kind": "panel",
        "prompt_id": "p0",
        "prefix_ids": [0, 5, 6][: 1 + i],
        "token": 7,
        "position": i,
    }


def _write_tokenizer(folder: Path, words: Sequence[str], special: Sequence[str]) -> None:
    from tokenizers import AddedToken, Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in special])
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")


def _write_step(
    writer: RunWriter,
    step: int,
    label: str,
    seed: int,
    groups: int,
    words: Sequence[str],
    length: int,
    unrecorded: int,
    *,
    tokens: bool,
    contexts: bool,
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"rollouts": [], "tokens": [], "contexts": [], "flows": []}
    for rollout in range(2 * groups):
        rewarded = rollout % 2 == 0
        places = [token_distribution(seed, step, rollout, position) for position in range(length)]
        ids = [*(token for _, token in places), *([0] * unrecorded)]
        weight = weight_of(label, rewarded)
        rows["rollouts"].append(
            {
                "step": step,
                "rollout": rollout,
                "rank": 0,
                "prompt_id": f"p{rollout // 2}",
                "group": rollout // 2,
                "response_ids": ids,
                "response_text": "".join(words[i] for i in ids),
                "length": len(ids),
                "finished": True,
                "reward": float(rewarded),
                "correct": rewarded,
                "verdict": "right" if rewarded else "wrong answer",
                "noise_flipped": False,
                "dropped": False,
            }
        )
        for position, (probs, token) in enumerate(places):
            order = np.argsort(-probs, kind="stable")[:TOP]
            rows["tokens"].append(
                {
                    "update": step,
                    "step": step,
                    "rollout": rollout,
                    "position": position,
                    "epoch": 0,
                    "minibatch": 0,
                    "token": token,
                    **statistics(probs, token),
                    "argmax_token": int(order[0]),
                    "argmax_prob": float(probs[order[0]]),
                    "token_rank": int((probs > probs[token]).sum()),
                    "weight": weight,
                    "clip": 0,
                    "ratio": 1.0,
                    "old_log_prob": float(np.log(probs[token])),
                    "sampling_log_prob": float(np.log(probs[token])) + 0.01,
                    "top_ids": order.tolist(),
                    "top_probs": probs[order].tolist(),
                }
            )
        if contexts:
            context = PANEL + 2 * groups * step + rollout
            rows["contexts"].append(
                {
                    "context": context,
                    "kind": "batch",
                    "prompt_id": f"p{rollout // 2}",
                    "prefix_ids": [rollout // 2],
                    "token": ids[0],
                    "step": step,
                    "rollout": rollout,
                    "position": 0,
                    "sign": 1 if rewarded else -1,
                }
            )
            rows["flows"].append(_flow(step, context, ids[0], places[0][0], weight))
    if contexts:
        for i in range(PANEL):
            probs = distribution(np.random.default_rng([99, i]))
            rows["flows"].append(_flow(step, i, 7, probs, None, push=0.1 * (step + 1)))
    for table, entries in rows.items():
        if entries and (table != "tokens" or tokens):
            append(writer, table, entries)
    append(writer, "steps", [_step_row(step, 2 * groups)])


def _step_row(step: int, rollouts: int) -> dict[str, Any]:
    return {
        "step": step,
        "n_rollouts": rollouts,
        "n_updates": 1,
        "reward_mean": 0.5,
        "correct_ratio": 0.5,
        "fully_solved_ratio": 0.0,
        "none_solved_ratio": 0.0,
        "entropy_own": 1.0 - 0.1 * step,
    }


def _flow(
    update: int, context: int, token: int, probs: np.ndarray, weight: float | None, push: float = 0.0
) -> dict[str, Any]:
    """The exact step of `STEP`·weight logits along the token's own direction; its first order is the JVP."""
    push += STEP * (weight or 0.0)
    after = stepped(probs, token, push)
    before, later = statistics(probs, token), statistics(after, token)
    direction = push * (np.eye(VOCABULARY)[token] - probs)
    jvp = float(direction[token] - (probs * direction).sum())
    slope = float(-(probs * (np.log(probs) + before["entropy"]) * direction).sum())
    top = np.unique(np.concatenate([np.argsort(-probs)[:TOP], np.argsort(-after)[:TOP], [token]]))
    edges = [0, *BUCKETS, VOCABULARY + BUCKETS[-1]]
    order = np.argsort(-probs, kind="stable")
    mass = {
        name: [float(values[order][low:high].sum()) for low, high in pairwise(edges)]
        for name, values in (("mass_before", probs), ("mass_after", after), ("mass_sq_before", probs**2))
    }
    parts = np.zeros(len(SHARES))
    parts[SHARES.index("neg_now")], parts[SHARES.index("pos_past")] = 0.75, 0.25
    names = ("log_prob", "entropy", "collision", "collision_log_prob")
    return {
        "update": update,
        "context": context,
        "weight": weight,
        **{f"{name}_before": before[name] for name in (*names, "one_minus_prob", "direction_norm")},
        **{f"{name}_after": later[name] for name in names},
        "argmax_prob_before": float(probs.max()),
        "argmax_prob_after": float(after.max()),
        "argmax_token_before": int(probs.argmax()),
        **{f"bucket_{name}": values for name, values in mass.items()},
        "token_bucket": int(np.searchsorted(BUCKETS, 1 + (probs > probs[token]).sum())),
        "tv": float(np.abs(after - probs).sum() / 2),
        "kl": float((probs * np.log(probs / after)).sum()),
        "jvp_dlog_prob": jvp,
        "jvp_dentropy": slope,
        "jvp_dlog_prob_shares": (parts * jvp).tolist(),
        "jvp_dentropy_shares": (parts * slope).tolist(),
        "top_ids": top.tolist(),
        "top_prob_before": probs[top].tolist(),
        "top_prob_after": after[top].tolist(),
        "top_dlogit": direction[top].tolist(),
    }
