"""Experiments written by hand, with the real writer and schema: numbers small enough to be worked out on paper."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records import Experiment, RunWriter, update_experiment, write_experiment
from analysis.records.schema import BUCKETS, SHARES

VOCABULARY = 20
STEPS = 2
NOW = 0.25  # of a JVP; the rest is the momentum of earlier updates
TEMPERATURES = (1.0, 0.6)
PROMPTS = {"validation": [f"v{i}" for i in range(6)], "test": [f"t{i}" for i in range(6)]}
WORDS = [f"w{i}" for i in range(VOCABULARY)]


def success(label: str, step: int, prompt: int, temperature: float) -> float:
    """p of a prompt: rises by 0.1 a step under PSR and by 0.05 under NSR, spread over prompts, higher when colder."""
    gain = {"PSR": 0.1, "NSR": 0.05}.get(label, 0.02)
    return 0.2 + 0.05 * prompt + gain * step + 0.1 * (temperature < 1)


def _distribution(rng: np.random.Generator) -> np.ndarray:
    logits = rng.normal(size=VOCABULARY) * 2
    return np.exp(logits) / np.exp(logits).sum()


def panel_distributions() -> list[np.ndarray]:
    """π at the four contexts of the panel, before every update."""
    rng = np.random.default_rng(1)
    return [_distribution(rng) for _ in range(4)]


def panel_after(probs: np.ndarray, sign: int) -> np.ndarray:
    """π' at a panel context: a tenth of all mass goes to the head under PSR, and is spread evenly under NSR."""
    return 0.9 * probs + 0.1 * (np.eye(VOCABULARY)[probs.argmax()] if sign > 0 else 1 / VOCABULARY)


def _by_bucket(values: np.ndarray, before: np.ndarray) -> list[float]:
    ordered = values[np.argsort(-before, kind="stable")]
    edges = [0, *BUCKETS, VOCABULARY + BUCKETS[-1]]
    return [float(ordered[low:high].sum()) for low, high in pairwise(edges)]


def _flow(
    update: int, context: int, token: int, before: np.ndarray, after: np.ndarray, weight: float | None, jvp: str | None
) -> dict[str, Any]:
    """A row of `flows`; with a JVP, which is the whole realised change, where `jvp` names its gradients' source."""
    top = np.unique(np.concatenate([np.argsort(-before)[:4], np.argsort(-after)[:4], [token]]))
    row: dict[str, Any] = {
        "update": update,
        "context": context,
        "weight": weight,
        "argmax_token_before": int(before.argmax()),
        "bucket_mass_before": _by_bucket(before, before),
        "bucket_mass_after": _by_bucket(after, before),
        "bucket_mass_sq_before": _by_bucket(before**2, before),
        "token_bucket": int(np.searchsorted(BUCKETS, 1 + (before > before[token]).sum())),
        "tv": float(np.abs(after - before).sum() / 2),
        "kl": float((before * np.log(before / after)).sum()),
        "one_minus_prob_before": float(1 - before[token]),
        "direction_norm_before": float(np.linalg.norm(np.eye(VOCABULARY)[token] - before)),
        "top_ids": top.tolist(),
        "top_prob_before": before[top].tolist(),
        "top_prob_after": after[top].tolist(),
        "top_dlogit": np.log(after[top] / before[top]).tolist(),
    }
    for name, probs in (("before", before), ("after", after)):
        row |= {
            f"log_prob_{name}": float(np.log(probs[token])),
            f"entropy_{name}": float(-(probs * np.log(probs)).sum()),
            f"collision_{name}": float((probs**2).sum()),
            f"collision_log_prob_{name}": float((probs**2 * np.log(probs)).sum()),
            f"argmax_prob_{name}": float(probs.max()),
        }
    if jvp is not None:
        change = after - before
        row |= {
            "jvp_dlog_prob": row["log_prob_after"] - row["log_prob_before"],
            "jvp_dentropy": row["entropy_after"] - row["entropy_before"],
            "jvp_bucket": _by_bucket(change, before),
        }
        parts = np.array([{f"{jvp}_now": NOW, f"{jvp}_past": 1 - NOW}.get(name, 0.0) for name in SHARES])
        row |= {f"{name}_shares": (parts * row[name]).tolist() for name in ("jvp_dlog_prob", "jvp_dentropy")}
    return row


def append(writer: RunWriter, table: str, rows: list[dict[str, Any]]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    writer.append(table, {name: [row.get(name) for row in rows] for name in names})


def _append_contexts(writer: RunWriter, label: str, step: int) -> None:
    """Two updates a step; a panel of four contexts of two prompts, and three contexts of each update's own batch, of
    which two have a weight."""
    distributions = panel_distributions()
    if step == 0:
        append(
            writer,
            "contexts",
            [
                {
                    "context": i,
                    "kind": "panel",
                    "prompt_id": f"v{i // 2}",
                    "prefix_ids": [1, 2, i],
                    "token": i,
                    "position": i % 2,
                }
                for i in range(4)
            ],
        )
    rng = np.random.default_rng([2, step])
    sign = 1 if label == "PSR" else -1
    for update in (2 * step, 2 * step + 1):
        jvp = None if update % 2 else "pos" if sign > 0 else "neg"
        flows = [
            _flow(update, i, i, probs, panel_after(probs, sign), None, jvp=jvp) for i, probs in enumerate(distributions)
        ]
        for context, reward in zip(range(4 + 3 * update, 7 + 3 * update), (sign, sign, -sign), strict=True):
            probs, token = _distribution(rng), int(rng.integers(VOCABULARY))
            direction = np.eye(VOCABULARY)[token] - probs
            against = context == 4 + 3 * 3 + 1  # one of the eight with a weight moves against its own direction
            after = probs * np.exp((-0.5 if against else 0.5) * sign * direction)
            weight = 0.1 * sign if reward == sign else 0.0
            flows.append(_flow(update, context, token, probs, after / after.sum(), weight, jvp=jvp))
            append(
                writer,
                "contexts",
                [
                    {
                        "context": context,
                        "kind": "batch",
                        "prompt_id": "r0",
                        "prefix_ids": [1, 2],
                        "token": token,
                        "step": step,
                        "rollout": 0,
                        "position": 0,
                        "sign": reward,
                    }
                ],
            )
        append(writer, "flows", flows)


def sampled_correct(label: str, step: int, prompt: int) -> int:
    """c of the four samples of a prompt, for experiments without p: rises by two thirds under PSR, by a third else."""
    return min(4, prompt // 2 + (prompt % 3 < step * (2 if label == "PSR" else 1)))


def _append_evals(writer: RunWriter, label: str, step: int, samples: int | None, modes: bool) -> None:
    if samples is not None:
        _append_sampled_evals(writer, label, step, samples)
        return
    append(
        writer,
        "evals",
        [
            {
                "step": step,
                "update": 2 * step,
                "prompt_id": prompt,
                "split": split,
                "temperature": temperature,
                "top_p": 1.0,
                "top_k": 0,
                "p": success(label, step, i, temperature),
                "effective_solutions": 10.0 - step * (2 if label == "PSR" else 1),
                "greedy_correct": i < 3,
                "entropy_fixed": 1.0 - 0.1 * step,
                "tail_mass": 0.01,
                **({"n": 4, "c": 2, "entropy_own": 0.8 - 0.1 * step} if temperature == 1.0 else {}),
                **({"mode_mass": 0.1 * (step + 1), "mode_p": 0.8} if modes else {}),
            }
            for split, prompts in PROMPTS.items()
            for i, prompt in enumerate(prompts)
            for temperature in TEMPERATURES
        ],
    )


def _append_sampled_evals(writer: RunWriter, label: str, step: int, samples: int) -> None:
    """As evaluations of a task are that cannot list its solutions: no p, samples at the first temperature alone."""
    append(
        writer,
        "evals",
        [
            {
                "step": step,
                "update": 2 * step,
                "prompt_id": prompt,
                "split": split,
                "temperature": temperature,
                "top_p": 1.0,
                "top_k": 0,
                "greedy_correct": i < 3,
                "entropy_fixed": 1.0 - 0.1 * step,
                "tail_mass": 0.01,
                **(
                    {"n": samples, "c": min(samples, sampled_correct(label, step, i)), "entropy_own": 0.8 - 0.1 * step}
                    if samples and temperature == 1.0
                    else {}
                ),
            }
            for split, prompts in PROMPTS.items()
            for i, prompt in enumerate(prompts)
            for temperature in TEMPERATURES
        ],
    )


def _append_step(writer: RunWriter, step: int) -> None:
    correct = np.array([[True, True], [True, False], [step > 0, False], [True, True]])
    append(
        writer,
        "rollouts",
        [
            {
                "step": step,
                "rollout": 2 * group + i,
                "rank": 0,
                "prompt_id": f"r{group}",
                "group": group,
                "response_ids": [3, 4],
                "response_text": "w3 w4",
                "length": 2,
                "finished": True,
                "reward": float(correct[group, i]),
                "correct": bool(correct[group, i]),
                "noise_flipped": False,
                "dropped": False,
            }
            for group in range(4)
            for i in range(2)
        ],
    )
    append(
        writer,
        "steps",
        [
            {
                "step": step,
                "n_rollouts": 8,
                "n_updates": 2,
                "reward_mean": correct.mean(),
                "correct_ratio": correct.mean(),
                "fully_solved_ratio": 0.5,
                "none_solved_ratio": 0.25 * (step == 0),
                "entropy_own": 0.7,
            }
        ],
    )
    append(
        writer,
        "timings",
        [
            {"step": step, "phase": phase, "seconds": seconds, "tokens": tokens, "peak_rss_bytes": 1}
            for phase, seconds, tokens in (("rollout", 0.5, 100), ("update", 2.0, 90), ("evaluate", 1.0, None))
        ],
    )
    append(
        writer,
        "updates",
        [
            {
                "update": 2 * step + i,
                "step": step,
                "epoch": 0,
                "minibatch": i,
                "skipped": False,
                "rows_pos": 2,
                "rows_neg": 2,
                "tokens_pos": 4,
                "tokens_neg": 4,
                "lr": 1e-3,
                "param_step_norm": 0.1,
            }
            for i in range(2)
        ],
    )


def write_run(
    folder: Path, label: str, seed: int, *, contexts: bool, status: str, samples: int | None = None, modes: bool = False
) -> None:
    """One run with an evaluation before each step and after the last; one that is not complete ends a step early."""
    writer = RunWriter(
        folder,
        run_json={
            "run_id": folder.name,
            "label": label,
            "engine": "small",
            "recipe": None,
            "hash": "0" * 64,
            "seed": seed,
            "temperature": 1.0,
        },
    )
    ids = [
        {"prompt_id": prompt, "split": split, "text": "w1 w2", "token_ids": [1, 2]}
        for split, prompts in (*PROMPTS.items(), ("train", ["r0", "r1", "r2", "r3"]))
        for prompt in prompts
    ]
    append(writer, "prompts", ids)
    _append_evals(writer, label, 0, samples, modes)
    writer.commit(0, {})
    for step in range(STEPS if status == "complete" else 1):
        _append_step(writer, step)
        if contexts:
            _append_contexts(writer, label, step)
        _append_evals(writer, label, step + 1, samples, modes)
    writer.commit(STEPS, {})
    writer.finish(status)


def make_experiment(
    folder: Path,
    labels: tuple[str, ...] = ("PSR", "NSR"),
    seeds: tuple[int, ...] = (0,),
    *,
    contexts: bool = True,
    statuses: dict[str, str] | None = None,
    samples: int | None = None,
    modes: bool = False,
) -> Experiment:
    """An experiment of these methods and seeds; `statuses` names those that did not end well. With `samples` its task
    is one that cannot list its solutions; with `modes` it has a mode of mass 0.1 at the start and 0.1 more after each
    step, with p = 0.8 in it."""
    planned = [(f"{label.lower()}-seed{seed}", label, seed) for label in labels for seed in seeds]
    runs = [{"run_id": run_id, "label": label, "seed": seed} for run_id, label, seed in planned]
    write_experiment(folder, name="by-hand", recipe={}, hash="0" * 64, runs=runs, versions={})
    for run_id, label, seed in planned:
        write_run(
            folder / run_id,
            label,
            seed,
            contexts=contexts,
            status=(statuses or {}).get(label, "complete"),
            samples=samples,
            modes=modes,
        )
    update_experiment(folder, status="complete")
    return Experiment(folder)
