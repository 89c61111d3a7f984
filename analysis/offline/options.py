"""The part of `python -m analysis.trace` that traces recorded rollouts: its options, and what they do."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.command import figure_lines
from ..errors import UsageError
from ..recipes.model_checks import check_base
from .annotations import KINDS, annotations_path, check_free, write_annotations
from .columns import parse_mapping
from .layouts import FORMATS
from .reading import read_rollouts
from .trace_settings import RECORD_COLUMNS, TraceSettings, check_batch_tokens

if TYPE_CHECKING:
    from toy_models import Policy

    from ..records import Run
    from ..records.ranks import Ranks
    from .reading import RolloutFile

__all__ = ["add_options", "show_trace", "trace"]

MANUAL = """\
recorded rollouts:
  python -m analysis.trace --model DIR --rollouts FILE --out DIR --objective nsr-log --objective psr-log

  One forward pass over a table with the columns prompt, response, reward and, if there are any, group, advantage,
  old_log_probs, prompt_ids, response_ids, response_mask, step, tools. What TRL, verl, OpenRLHF, NeMo-RL, prime-rl,
  verifiers, slime, SkyRL, AReaL, ROLL, open-instruct, lm-evaluation-harness, lighteval, vLLM and OpenAI-compatible
  servers write is read as it is (docs/how_to/trace_rollouts.md lists it, --format forces one); other names are
  mapped: --columns prompt=question,response=text. Texts are tokenised as they stand: nothing is added without
  --chat-template, --bos or --eos, and special tokens that a file has lost stay lost; token ids are exact. Tokens that
  a mask says are not the policy's (output of tools) stay in the context and have no row. Advantages are recorded, and
  replace rewards where there are none. The records are those of a run without weights; summary.md says how the file
  was read, which tokens carry the gradient of each --objective and where it would move probability mass. An
  interrupted trace keeps what is traced; resume it with --resume. Under torchrun --nproc_per_node N the processes
  share the work and write one folder.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of recorded rollouts, as a group of the parser."""
    add = parser.add_argument_group("recorded rollouts").add_argument
    add(
        "--model",
        metavar="MODEL",
        help="folder with a Hugging Face causal LM and its tokenizer, a GGUF file, the id of a model on the Hugging "
        "Face Hub (owner/name, or owner/name:file.gguf), or a built-in base",
    )
    add(
        "--revision",
        metavar="NAME",
        help="branch, tag or commit of a model on the Hub (default: main, as it is cached)",
    )
    add(
        "--rollouts",
        metavar="FILE",
        help="the rollouts: JSON lines, JSON, CSV, Parquet or Arrow, also compressed (gz, zst, bz2, xz), or a folder "
        "of such files of one layout (those in it, else those in step_N/)",
    )
    add(
        "--format",
        metavar="NAME",
        help="the layout of the rollouts, where the columns alone would not tell or would tell another: "
        f"{', '.join(FORMATS)} (plain: columns by their names alone)",
    )
    add(
        "--objective",
        metavar="NAME",
        action="append",
        default=[],
        dest="objectives",
        help="show what this objective would do, such as nsr-log or w-reinforce-log,lambda=0.1 (listed by "
        "python -m analysis.objectives); may be repeated",
    )
    add(
        "--columns",
        metavar="ROLE=NAME",
        action="append",
        default=[],
        help="which column of the file holds what: prompt, response, reward, group, advantage, old_log_probs, "
        "prompt_ids, response_ids, response_mask, answer, step; separate several by commas; a reward may be a sum "
        "(reward=2*accuracy+format) or a number for all (reward=1), and - leaves a role out (group=-)",
    )
    add("--verifier", metavar="NAME", help="judge responses instead of reading rewards: exact, math, file.py:function")
    add("--answers", metavar="NAME", help="column of the answers for the verifier: short for --columns answer=NAME")
    add("--threshold", metavar="X", type=float, help="a reward above X counts as 1, any other as 0")
    add(
        "--rewarded-above",
        metavar="X",
        type=float,
        help="tables call a response rewarded where its reward is above X (default: by the scheme of the rewards; the "
        "summary says which); no reward moves",
    )
    add(
        "--on-policy", action="store_true", help="the model itself sampled the rollouts: its log-probs are the old ones"
    )
    add(
        "--chat-template",
        metavar="NAME",
        nargs="?",
        const=True,
        default=False,
        help="put prompts into the tokenizer's chat template; NAME chooses one of several. A prompt that ends with a "
        "message of the assistant ends within that turn, which the response continues",
    )
    add(
        "--template-arguments",
        metavar="JSON",
        help="variables of the chat template, such as '{\"enable_thinking\": false}'",
    )
    add(
        "--new-turn",
        action="store_true",
        help="an assistant's message at the end of a prompt is complete: open a new turn after it",
    )
    add("--bos", action="store_true", help="begin each prompt with the tokenizer's start token, where it has none yet")
    add("--eos", action="store_true", help="end each response with the tokenizer's end token, where it has none yet")
    add(
        "--responses-apart",
        action="store_true",
        help="tokenise responses as texts of their own, with the space that sentencepiece tokenizers put before a text "
        "(default: a response continues its prompt)",
    )
    add("--temperature", metavar="T", type=float, default=1.0, help="of softmax(logits / T) (default: 1)")
    add("--top-k", metavar="K", type=int, default=8, help="record the K most probable tokens (default: 8)")
    add(
        "--record-columns",
        default="full",
        choices=RECORD_COLUMNS,
        help="core: without ranks, buckets and top tokens, in less space and time (default: full)",
    )
    add(
        "--record-tokens",
        metavar="F",
        type=float,
        default=1.0,
        help="fraction of the prompts whose tokens are recorded; the others cost no pass (default: 1)",
    )
    add(
        "--share",
        metavar="I/N",
        help="trace one share of the file's groups, 0/16 to 15/16, for jobs that know nothing of each other; each "
        "needs an --out of its own",
    )
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
    add("--skip-bad", action="store_true", help="skip rows that cannot be used, and count them")
    add(
        "--annotate",
        nargs="?",
        const=KINDS[0],
        choices=KINDS,
        help="write what was computed of each rollout beside the file, into FILE.annotations.jsonl (or .parquet): log "
        "π_y, H, the squeeze boundary and the laws of every token, with the line it belongs to; a file that exists is "
        "written again with --resume or --force only",
    )


def trace(arguments: argparse.Namespace) -> Run | None:
    """Trace what the command line asks for; an invalid request is refused before the model is loaded.

    Of several processes of torchrun the first returns the run and says what is wrong, the others None.
    """
    from .processes import started_together

    with started_together() as ranks:
        try:
            run = _trace(arguments, ranks)
        except (UsageError, KeyboardInterrupt) as error:
            if not ranks.rank:
                raise
            raise SystemExit(2 if isinstance(error, UsageError) else 130) from error
    return None if ranks.rank else run


def _trace(arguments: argparse.Namespace, ranks: Ranks) -> Run:
    columns = _checked_columns(arguments)
    settings = TraceSettings(
        {},
        arguments.chat_template,
        arguments.eos,
        arguments.temperature,
        arguments.threshold,
        arguments.on_policy,
        arguments.verifier,
        arguments.skip_bad,
        arguments.top_k,
        template_arguments=_template_arguments(arguments.template_arguments),
        new_turn=arguments.new_turn,
        bos=arguments.bos,
        responses_apart=arguments.responses_apart,
        record_columns=arguments.record_columns,
        record_tokens=arguments.record_tokens,
        share=arguments.share,
    )
    check_batch_tokens(arguments.batch_tokens)
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"workers: expected at least 1, got {arguments.workers}")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UsageError(f"out: expected a folder, got the file {arguments.out}")
    replaced = arguments.force or arguments.resume is not None
    if arguments.annotate is not None:
        check_free(annotations_path(Path(arguments.rollouts), arguments.annotate, arguments.share), overwrite=replaced)
    file, policy = ranks.here(lambda: _inputs(arguments, columns, settings))

    from .tracing import trace_rollouts

    with _plain_warnings():
        run = trace_rollouts(
            policy.model,
            policy.tokenizer,
            file,
            out=arguments.out,
            objectives=arguments.objectives,
            resume=arguments.resume is not None,
            force=arguments.force,
            chat_template=settings.chat_template,
            template_arguments=settings.template_arguments,
            new_turn=settings.new_turn,
            bos=settings.bos,
            eos=settings.eos,
            responses_apart=settings.responses_apart,
            temperature=settings.temperature,
            threshold=settings.threshold,
            rewarded_above=arguments.rewarded_above,
            on_policy=settings.on_policy,
            verifier=settings.verifier,
            workers=arguments.workers or 1,
            skip_bad=settings.skip_bad,
            top_k=settings.top_k,
            record_columns=settings.record_columns,
            record_tokens=settings.record_tokens,
            share=settings.share,
            batch_tokens=arguments.batch_tokens,
            quiet=arguments.quiet,
        )
    if arguments.annotate is not None and not ranks.rank:
        path = write_annotations(run, file, kind=arguments.annotate, overwrite=replaced)
        if not arguments.quiet:
            print(f"annotations {path}", file=sys.stderr)
    return run


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """What a trace warns of as a sentence on stderr, without the place in this program where it was found."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, *rest: Any, **more: Any) -> None:
            if str(message).startswith("trace: "):
                print(f"warning  {str(message).removeprefix('trace: ')}", file=sys.stderr)
            else:
                usual(message, *rest, **more)

        warnings.showwarning = show
        yield


def _inputs(
    arguments: argparse.Namespace, columns: Mapping[str, str], settings: TraceSettings
) -> tuple[RolloutFile, Policy]:
    """The rollouts and the model."""
    file = read_rollouts(
        arguments.rollouts,
        columns=columns,
        with_answers=settings.verifier is not None,
        skip_bad=settings.skip_bad,
        format=arguments.format,
    )
    import torch

    from toy_models import load_policy

    from ..common.devices import pick_device
    from .objective_requirements import parse_objectives
    from .reward_source import verifier_of

    parse_objectives(arguments.objectives)
    verifier_of(settings.verifier, arguments.workers or 1)
    check_base("--model", arguments.model, arguments.revision)
    device = pick_device(arguments.device or "auto")
    try:
        policy = load_policy(
            arguments.model, revision=arguments.revision, dtype=getattr(torch, arguments.dtype), device=device
        )
    except ValueError as error:
        raise UsageError(f"--model: {str(error).removeprefix('base: ')}") from error
    return file, policy


def _template_arguments(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UsageError(
            f"--template-arguments: expected a JSON object such as '{{\"enable_thinking\": false}}', got {text!r}"
        )
    return values


def _checked_columns(arguments: argparse.Namespace) -> dict[str, str]:
    """Role -> column; UsageError where options are missing or exclude one another."""
    for name in ("model", "rollouts", "out"):
        if getattr(arguments, name) is None:
            raise UsageError(f"--{name}: expected with --model DIR --rollouts FILE --out DIR, got none")
    for name, present in (
        ("--run", arguments.run is not None),
        ("--seed", arguments.seed is not None),
        ("--set", bool(arguments.settings)),
        ("--dry-run", arguments.dry_run),
    ):
        if present:
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
    return columns


def show_trace(run: Run, arguments: argparse.Namespace) -> None:
    """Print the tables of a trace, draw its figures and write both into its folder."""
    from .. import report

    summary = report.summarize_trace(run)
    html = report.write_report_page(run, summary=summary)
    if not arguments.json:
        from rich.console import Console

        print(f"report   {html}\n")
        summary.render(Console())
        sys.stdout.flush()
    if not arguments.no_figures and not arguments.quiet:
        print("drawing figures …", file=sys.stderr)
    figures = [] if arguments.no_figures else report.write_trace_figures(run)
    report.write_page(run.folder, summary.to_markdown(), figures)
    page = run.folder / "summary.md"
    if not arguments.json:
        print("\n".join(["", f"records  {run.folder}", *figure_lines(figures), f"page     {page}"]))
        return
    results = {
        "folder": str(run.folder),
        "status": run.status,
        "rollouts": run.rows("rollouts"),
        "tokens": run.rows("tokens"),
        "skipped": run.info["trace"]["skipped"],
        "columns": run.info["trace"]["columns"],
        "file": run.info["trace"].get("file"),
        "figures": [str(path) for path in figures],
        "page": str(page),
        "report": str(html),
        "summary": summary.to_json(),
    }
    print(json.dumps(results, indent=1, ensure_ascii=False))
