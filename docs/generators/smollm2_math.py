"""`python -m docs.generators.smollm2_math DATA OUT`: answers of SmolLM2-135M-Instruct to problems of MATH, judged.

DATA is a Parquet file of MATH in the layout of verl; OUT gets JSON Lines that `python -m analysis.trace --rollouts`
reads. What OUT holds already is not sampled again.

Fixed before the first answer: the problems (of levels 1 and 2, the first 50 in the order of the SHA-256 of their text),
6 answers to each at temperature 1, of at most 256 tokens, in the chat template of the model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ANSWERS", "LEVELS", "LONGEST", "PROBLEMS", "SEED", "chosen_problems", "main", "sampled_answers"]

PROBLEMS, ANSWERS, LONGEST, SEED = 50, 6, 256, 0
LEVELS = ("Level 1", "Level 2")
_AT_ONCE = 10  # problems in a batch: its key-value cache takes a gigabyte


def chosen_problems(path: Path, count: int = PROBLEMS) -> list[dict[str, str]]:
    """`question` and `answer` of the problems, from a table of MATH in the layout of verl.

    Args:
        path: Parquet file with the columns level and reward_model (ground_truth.question and .target).
        count: how many.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["level", "reward_model"]).to_pylist()
    truths = [row["reward_model"]["ground_truth"] for row in rows if row["level"] in LEVELS]
    truths.sort(key=lambda truth: hashlib.sha256(truth["question"].encode()).hexdigest())
    return [{"question": truth["question"], "answer": truth["target"]} for truth in truths[:count]]


def sampled_answers(
    policy: Any,
    problems: Sequence[dict[str, str]],
    out: Path,
    *,
    answers: int = ANSWERS,
    longest: int = LONGEST,
    told: Callable[[str], Any] = lambda _: None,
) -> Path:
    """Sample and judge answers, as JSON Lines that `python -m analysis.trace --rollouts` reads.

    Args:
        policy: the model, with a chat template.
        problems: of `chosen_problems`.
        out: the file; what it holds already is not sampled again.
        answers: to each problem.
        longest: tokens of an answer.
        told: called with a line after each batch.
    """
    import torch

    from toy_models import sample
    from toy_models.end_tokens import policy_end_tokens, without_end
    from toy_models.verifiers import get_verifier
    from toy_models.verifiers.verifier import Case

    verifier, ends = get_verifier("math"), policy_end_tokens(policy)
    done = len(out.read_text(encoding="utf-8").splitlines()) // answers if out.exists() else 0
    out.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(problems), _AT_ONCE):
        batch = problems[start : start + _AT_ONCE]
        # One generator a batch, so that answers do not depend on where an earlier call stopped.
        generator = torch.Generator().manual_seed(1000 * SEED + start)
        if start + len(batch) <= done:
            continue
        prompts = [
            policy.tokenizer.apply_chat_template(
                [{"role": "user", "content": problem["question"]}], add_generation_prompt=True, return_dict=False
            )
            for problem in batch
        ]
        drawn = sample(
            policy.model,
            prompts,
            group_size=answers,
            max_new_tokens=longest,
            eos_id=ends,
            pad_id=policy.pad_id,
            uniforms=torch.rand(len(batch) * answers, longest, dtype=torch.float64, generator=generator),
        )
        responses = [
            ids[:length] for ids, length in zip(drawn.response_ids.tolist(), drawn.lengths.tolist(), strict=True)
        ]
        texts = [policy.tokenizer.decode(list(without_end(ids, ends)), skip_special_tokens=True) for ids in responses]
        asked = [problem for problem in batch for _ in range(answers)]
        verdicts = verifier.judge(
            [Case(p["question"], text, p["answer"]) for p, text in zip(asked, texts, strict=True)]
        )
        with out.open("a", encoding="utf-8") as file:
            for i, (ids, text, verdict) in enumerate(zip(responses, texts, verdicts, strict=True)):
                row = {
                    "prompt_ids": list(prompts[i // answers]),
                    "response_ids": ids,
                    "response": text,
                    "reward": float(verdict.correct),
                    "group": start + i // answers,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        told(f"{start + len(batch)} of {len(problems)} problems")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0."""
    import torch

    from toy_models import load_policy

    parser = argparse.ArgumentParser(
        prog="python -m docs.generators.smollm2_math",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", default="build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", help="default: %(default)s")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    problems = chosen_problems(options.data)
    sampled_answers(load_policy(options.model), problems, options.out, told=lambda line: print(line, file=sys.stderr))
    return 0


if __name__ == "__main__":
    sys.exit(main())
