"""The part of `python -m analysis.trace` that traces recorded rollouts: its options, and what they do."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .columns import parse_mapping

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["add_options", "show_trace", "trace"]

MANUAL = """\
recorded rollouts:
  python -m analysis.trace --model DIR --rollouts FILE --out DIR --objective nsr-log --objective psr-log

  One forward pass over JSON lines or Parquet with prompt, response, reward and, where there are, group, advantage,
  old_log_probs, prompt_ids, response_ids, step. TRL's completions table and verl's rollout dump load as they are;
  other names are mapped: --columns prompt=question,response=text. Text is tokenised as it stands, prompt and response
  apart; nothing is added unless asked for (--chat-template, --eos), and special tokens that a dump has lost stay lost:
  token ids are exact. Advantages are recorded, and take the place of rewards where there are none. The records are
  those of a run without weights; summary.md says which tokens carry the gradient of each --objective and where it
  would move the mass. Interrupted, it goes on with --resume; what was traced stays.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of recorded rollouts, as a group of the parser."""
    add = parser.add_argument_group("recorded rollouts").add_argument
    add("--model", metavar="DIR", help="folder with a Hugging Face causal LM and its tokenizer, or a built-in base")
    add("--rollouts", metavar="FILE", help="the rollouts: JSON lines or Parquet")
    add(
        "--objective",
        metavar="NAME",
        action="append",
        default=[],
        dest="objectives",
        help="show what it would do, such as nsr-log or w-reinforce-log,lambda=0.1 (python -m analysis.objectives "
        "lists them); may be repeated",
    )
    add(
        "--columns",
        metavar="ROLE=NAME",
        action="append",
        default=[],
        help="which column of the file holds what: prompt, response, reward, group, advantage, old_log_probs, "
        "prompt_ids, response_ids, answer, step; several apart by commas",
    )
    add("--verifier", metavar="NAME", help="judge responses instead of reading rewards: exact, math, file.py:function")
    add("--answers", metavar="NAME", help="column of the answers for the verifier: short for --columns answer=NAME")
    add("--threshold", metavar="X", type=float, help="a reward above X counts as 1, any other as 0")
    add(
        "--on-policy", action="store_true", help="the model itself sampled the rollouts: its log-probs are the old ones"
    )
    add("--chat-template", action="store_true", help="put prompts into the tokenizer's chat template")
    add("--eos", action="store_true", help="end each response with the tokenizer's end token")
    add("--temperature", metavar="T", type=float, default=1.0, help="of softmax(logits / T) (default: 1)")
    add("--top-k", metavar="K", type=int, default=8, help="record the K most probable tokens (default: 8)")
    add(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16", "float64"),
        help="of the model's weights (default: float32)",
    )
    add(
        "--batch-tokens",
        metavar="N",
        type=int,
        default=8192,
        help="tokens that go through the model together (default: 8192); halved where memory runs out",
    )
    add("--skip-bad", action="store_true", help="leave rows out that cannot be used, and count them")


def trace(arguments: argparse.Namespace) -> Run:
    """Trace what the command line asks for; UsageError where something is missing or does not go together."""
    for name in ("model", "rollouts", "out"):
        if getattr(arguments, name) is None:
            raise UsageError(f"--{name}: expected with --model DIR --rollouts FILE --out DIR, got none")
    for name, given in (
        ("--run", arguments.run is not None),
        ("--seed", arguments.seed is not None),
        ("--set", bool(arguments.settings)),
        ("--dry-run", arguments.dry_run),
    ):
        if given:
            raise UsageError(f"{name} with --rollouts: recorded rollouts are traced, not trained on; leave it out")
    if arguments.resume and arguments.resume != str(arguments.out):
        raise UsageError(f"--out {arguments.out} with --resume {arguments.resume}: give --resume alone")
    columns: dict[str, str] = {}
    for text in arguments.columns:
        columns |= parse_mapping(text)
    if arguments.answers is not None:
        columns["answer"] = arguments.answers
        if arguments.verifier is None:
            raise UsageError("--answers: only a verifier reads them; name one with --verifier, or leave it out")
    from .reading import read_rollouts

    if not arguments.skip_bad:  # a file that cannot be read is told before torch is loaded
        read_rollouts(arguments.rollouts, columns=columns, with_answers=arguments.verifier is not None)

    import torch

    from toy_models import load_policy

    from ..common.devices import pick_device
    from .tracing import trace_rollouts

    device = pick_device(arguments.device or "auto")
    try:
        policy = load_policy(arguments.model, dtype=getattr(torch, arguments.dtype), device=device)
    except ValueError as error:
        raise UsageError(f"--model: {str(error).removeprefix('base: ')}") from error
    return trace_rollouts(
        policy.model,
        policy.tokenizer,
        arguments.rollouts,
        out=arguments.out,
        objectives=arguments.objectives,
        columns=columns,
        resume=arguments.resume is not None,
        force=arguments.force,
        chat_template=arguments.chat_template,
        eos=arguments.eos,
        temperature=arguments.temperature,
        threshold=arguments.threshold,
        on_policy=arguments.on_policy,
        verifier=arguments.verifier,
        workers=arguments.workers or 1,
        skip_bad=arguments.skip_bad,
        top_k=arguments.top_k,
        batch_tokens=arguments.batch_tokens,
        quiet=arguments.quiet,
    )


def show_trace(run: Run, *, as_json: bool) -> None:
    """Print the tables of a trace, draw its figures and write both into its folder."""
    from .. import report

    summary = report.summarize_trace(run)
    paths = report.write_trace_figures(run)
    report.write_page(run.folder, summary.to_markdown(), paths)
    figures = [str(path) for path in paths]
    if as_json:
        print(json.dumps(_results(run, figures, summary.to_json()), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    summary.render(Console())
    print(f"\nrecords  {run.folder}")
    print("\n".join(f"figure   {path}" for path in figures))


def _results(run: Run, figures: list[str], summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "status": run.status,
        "rollouts": run.rows("rollouts"),
        "tokens": run.rows("tokens"),
        "skipped": run.info["trace"]["skipped"],
        "figures": figures,
        "summary": summary,
    }
