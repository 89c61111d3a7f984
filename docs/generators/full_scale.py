"""What recording a step of the paper's size costs: bytes and seconds of the writer, of the statistics and of queries.

A step is 8,192 rollouts of 1,500 tokens: 1,024 prompts, 8 rollouts each. Its tables are written by `RunWriter` with the
columns that the observing engine of verl fills, once for each fraction of prompts whose tokens are recorded. The
numbers in them are made up: floats are drawn at random, so that they do not compress better than measured ones, token
ids follow Zipf's law over the vocabulary of Qwen2.5-Math-7B, and texts are words of these ids. Statistics are taken of
logits of that vocabulary. Fixed before the first run: all sizes, the fractions, and that a time is the median of
`REPEATS` in CPU seconds of one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records import RunWriter
from analysis.records.rows import PromptRow, RolloutRow, TokenColumns, prompt_rows, rollout_rows, token_rows

__all__ = ["QUERIES", "StepSize", "measure", "write_folder"]

VOCABULARY = 152_064
FRACTIONS = (1 / 64, 1 / 8, 1 / 4)
REPEATS = 3
UPDATES = 4  # of a step
QUERIED_STEPS = 3
_ROWS = 64  # of logits at a time
_THREADS = 2  # of DuckDB
_MEMORY = "2GB"  # of DuckDB


@dataclass(frozen=True)
class StepSize:
    """Prompts, rollouts of each, and tokens of each rollout."""

    prompts: int = 1024
    group: int = 8
    tokens: int = 1500

    @property
    def rollouts(self) -> int:
        """Rollouts of a step."""
        return self.prompts * self.group


# What a reader asks a folder of a run, in files that stay where they are.
QUERIES = {
    "weight and entropy by sign, in each step": """\
SELECT step, sign(weight) AS sign, count(*) AS tokens, sum(weight) AS weight, avg(entropy) AS mean_entropy
FROM read_parquet('runs/mine/tokens/*.parquet')
WHERE weight <> 0 GROUP BY ALL ORDER BY step, sign;
""",
    "wrong tokens below the squeeze boundary, by position": """\
SELECT position // 256 * 256 AS from_position, count(*) AS tokens,
    avg((exp(log_prob) < collision)::INT) AS below_boundary
FROM read_parquet('runs/mine/tokens/*.parquet')
WHERE weight < 0 GROUP BY ALL ORDER BY from_position;
""",
    "clipped tokens of each update": """\
SELECT update, avg((clip < 0)::INT) AS low, avg((clip > 0)::INT) AS high, max(abs(ln(ratio))) AS largest_log_ratio
FROM read_parquet('runs/mine/tokens/*.parquet')
GROUP BY update ORDER BY update;
""",
    "the twenty token ids that carry the most weight": """\
SELECT token, count(*) AS tokens, sum(abs(weight)) AS total, sum(weight) / sum(abs(weight)) AS balance
FROM read_parquet('runs/mine/tokens/*.parquet')
GROUP BY token ORDER BY total DESC, token LIMIT 20;
""",
    "entropy of right and wrong responses of prompts that are solved half the time": """\
WITH solved AS (
    SELECT step, prompt_id FROM read_parquet('runs/mine/rollouts/*.parquet')
    GROUP BY ALL HAVING avg(correct::INT) BETWEEN 0.375 AND 0.625
)
SELECT correct, count(*) AS tokens, avg(entropy) AS mean_entropy
FROM read_parquet('runs/mine/tokens/*.parquet') AS tokens
JOIN read_parquet('runs/mine/rollouts/*.parquet') AS rollouts USING (step, rollout)
JOIN solved USING (step, prompt_id)
GROUP BY correct ORDER BY correct;
""",
    "length and reward of all rollouts, in each step": """\
SELECT step, count(*) AS rollouts, avg(reward) AS mean_reward, avg(length) AS mean_length,
    avg(finished::INT) AS finished
FROM read_parquet('runs/mine/rollouts/*.parquet')
GROUP BY step ORDER BY step;
""",
}


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Bytes a token and CPU seconds a million tokens, and seconds of the queries.

    Args:
        say: is told what is measured.
    """
    size = StepSize()
    with tempfile.TemporaryDirectory() as folder:
        written = {}
        for fraction in FRACTIONS:
            say(f"a step with the tokens of {fraction:.4f} of the prompts")
            written[f"{fraction:g}"] = _written(Path(folder) / f"{fraction:g}", size, fraction)
        say(f"{QUERIED_STEPS} steps for the queries")
        queried = Path(folder) / "queried"
        rows = write_folder(queried, size, 1 / 8, QUERIED_STEPS)
        queries = {name: _query_seconds(text, queried) for name, text in QUERIES.items()}
    say("statistics of logits")
    return {
        "rollouts": size.rollouts,
        "tokens_each": size.tokens,
        "vocabulary": VOCABULARY,
        "written": written,
        "statistics_seconds": {kind: _statistics_seconds(kind) for kind in ("float32", "bfloat16")},
        "queries": {"rows": rows, "threads": _THREADS, "memory": _MEMORY, "seconds": queries},
    }


def write_folder(folder: Path, size: StepSize, fraction: float, steps: int, seed: int = 0) -> int:
    """A run folder of made-up steps; gives the rows of its table `tokens`.

    Args:
        folder: the run folder, new.
        size: of a step.
        fraction: of the prompts whose tokens are recorded.
        steps: how many.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    writer, rows = _writer(folder), 0
    for step in range(steps):
        writer.append("prompts", prompt_rows(_prompts(size, step, rng)))
        rollouts = _rollouts(size, step, rng)
        writer.append("rollouts", rollout_rows(rollouts))
        for tokens in _tokens(size, step, fraction, rollouts, rng):
            writer.append("tokens", token_rows(tokens))
            rows += len(tokens.token)
        writer.commit(step + 1, None)
    writer.finish("complete")
    return rows


def _written(folder: Path, size: StepSize, fraction: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    prompts, rollouts = _prompts(size, 0, rng), _rollouts(size, 0, rng)
    tokens = list(_tokens(size, 0, fraction, rollouts, rng))
    rows = sum(len(part.token) for part in tokens)
    cpu, wall = [], []
    for repeat in range(REPEATS):
        writer = _writer(folder / str(repeat))
        start = time.process_time(), time.perf_counter()
        writer.append("prompts", prompt_rows(prompts))
        writer.append("rollouts", rollout_rows(rollouts))
        for part in tokens:
            writer.append("tokens", token_rows(part))
        writer.commit(1, None)
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    sizes = {
        table: sum(path.stat().st_size for path in (folder / "0" / table).glob("*.parquet"))
        for table in ("prompts", "rollouts", "tokens")
    }
    return {"rows": rows, "bytes": sizes, "cpu_seconds": statistics.median(cpu), "seconds": statistics.median(wall)}


def _writer(folder: Path) -> RunWriter:
    fields = dict.fromkeys(["recipe", "hash", "seed"]) | {"run_id": "full_scale", "label": "made up", "engine": "verl"}
    return RunWriter(folder, run_json=fields | {"temperature": 1.0})


def _prompts(size: StepSize, step: int, rng: np.random.Generator) -> list[PromptRow]:
    ids = [rng.integers(VOCABULARY, size=100).tolist() for _ in range(size.prompts)]
    return [
        PromptRow(
            prompt_id=f"{step:04x}{place:04x}{'0' * 8}",
            split="train",
            text=_text(np.array(tokens)),
            token_ids=tokens,
            answer=str(place),
        )
        for place, tokens in enumerate(ids)
    ]


def _rollouts(size: StepSize, step: int, rng: np.random.Generator) -> list[RolloutRow]:
    solved = rng.beta(0.5, 0.5, size.prompts)
    rows = []
    for rollout in range(size.rollouts):
        group = rollout // size.group
        ids = (rng.zipf(1.2, size.tokens) - 1) % VOCABULARY
        reward = float(rng.random() < solved[group])
        rows.append(
            RolloutRow(
                step=step,
                rollout=rollout,
                prompt_id=f"{step:04x}{group:04x}{'0' * 8}",
                group=group,
                response_ids=ids.tolist(),
                response_text=_text(ids),
                finished=bool(rng.random() < 0.9),
                reward=reward,
                correct=reward > 0.5,
                advantage=reward - 1.0 + 0.1 * reward,
            )
        )
    return rows


def _text(ids: np.ndarray) -> str:
    """A word of one to six letters for each id, always the same."""
    return "".join(_word(int(token)) for token in ids)


def _word(token: int) -> str:
    letters, rest = " ", token * 2654435761 % 2**32
    for _ in range(token % 6 + 1):
        rest, letter = divmod(rest, 26)
        letters += chr(97 + letter)
    return letters


def _tokens(
    size: StepSize, step: int, fraction: float, rollouts: list[RolloutRow], rng: np.random.Generator
) -> Iterator[TokenColumns]:
    """The recorded tokens, a group at a time, with the columns that the engine fills."""
    recorded = max(1, round(size.prompts * fraction))
    n = size.group * size.tokens
    for group in range(recorded):
        rows = rollouts[group * size.group : (group + 1) * size.group]
        log_prob = -rng.exponential(0.4, n)
        entropy = rng.exponential(0.4, n)
        noise = rng.normal(0, 0.02, n)
        advantage = np.repeat(np.array([row.advantage or 0.0 for row in rows], np.float32), size.tokens)
        collision = np.exp(-entropy)
        minibatch = group * UPDATES // recorded
        numbers = {
            "log_prob": log_prob,
            "one_minus_prob": -np.expm1(log_prob),
            "entropy": entropy,
            "collision": collision,
            "collision_log_prob": -collision * entropy * rng.random(n),
            "direction_norm": rng.random(n),
            "argmax_prob": np.maximum(np.exp(log_prob), rng.random(n)),
        }
        ids = np.array([row.response_ids for row in rows], dtype=np.int32).ravel()
        yield TokenColumns(
            step=step,
            update=step * UPDATES + minibatch,
            minibatch=minibatch,
            rollout=np.repeat([row.rollout for row in rows], size.tokens).astype(np.int32),
            position=np.tile(np.arange(size.tokens, dtype=np.int32), size.group),
            token=ids,
            statistics={
                **{name: values.astype(np.float32) for name, values in numbers.items()},
                "argmax_token": np.where(rng.random(n) < 0.7, ids, (rng.zipf(1.2, n) - 1) % VOCABULARY).astype(
                    np.int32
                ),
            },
            sampling_log_prob=(log_prob + noise).astype(np.float32),
            old_log_prob=(log_prob + noise / 4).astype(np.float32),
            advantage=advantage,
            ratio=np.exp(-noise / 4).astype(np.float32),
            clip=np.where(np.abs(noise) > 0.06, np.sign(noise), 0).astype(np.int8),
            weight=(advantage * np.exp(-noise / 4) / (size.tokens * size.rollouts / UPDATES)).astype(np.float32),
            entropy_weight=np.full(n, 1e-3, np.float32),
        )


def _statistics_seconds(dtype: str) -> float:
    """CPU seconds of one thread for the statistics of one token from its logits."""
    import torch

    from analysis import token_statistics

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(0)
        logits = (3 * torch.randn(_ROWS, VOCABULARY, generator=generator)).to(getattr(torch, dtype))
        tokens = torch.randint(VOCABULARY, (_ROWS,), generator=generator)
        token_statistics(logits, tokens)  # builds or loads the kernels
        seconds = []
        for _ in range(REPEATS):
            start = time.process_time()
            token_statistics(logits, tokens)
            seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(seconds) / _ROWS


def _query_seconds(query: str, folder: Path) -> float:
    import duckdb

    seconds = []
    for _ in range(REPEATS):
        with duckdb.connect(config={"threads": _THREADS, "memory_limit": _MEMORY}) as connection:
            start = time.perf_counter()
            connection.execute(query.replace("runs/mine", str(folder))).fetchall()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
