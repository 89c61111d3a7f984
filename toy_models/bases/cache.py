"""The cache in which each built-in base policy is pretrained once.

A cached base is an ordinary Hugging Face folder with one more file, `base.json`: recipe, seed, versions, final loss,
and digests of the files. It lies in `$RLVR_DYNAMICS_CACHE/bases`, by default `~/.cache/rlvr-dynamics/bases`.

The name of the folder ends with a hash of everything that the weights depend on: recipe, seed, task, the versions of
torch, transformers, tokenizers and numpy, and the code that makes the weights. Comments, docstrings and the layout of
that code do not enter the hash (`code_digest`), so that an edit to them keeps every cached base. The weights also
depend on the vector instructions of the processor, within rounding; the hash does not.

Importing this module does not load torch. Pretraining runs in a child process with the recipe's number of threads.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from ..cache_folder import cache_home, made_once
from ..child_process import ChildProcess
from ..messages import unknown_name
from ..tasks.registry import built_in_task
from .code_digest import code_digest
from .recipes import BASES

__all__ = ["Progress", "base_folder", "base_is_cached", "cache_home", "ensure_base"]

# (step, steps and rounds in all, loss in nats per response token)
Progress = Callable[[int, int, float], None]

_PACKAGE = Path(__file__).resolve().parents[1]  # toy_models
_NAME = "toy_models."  # that the modules of our tasks begin with
_PROGRAM = f"{__package__}.making"  # of the child process
# The code that makes the weights, besides the modules of the task. The recipe is in the hash as data.
_CODE = ("bases/making.py", "bases/pretraining.py", "tasks/task.py", "tasks/tokenizer.py")
_REFINEMENT_CODE = ("bases/refinement.py", "batching.py", "sampling.py", "truncation.py")
_EXACT_CODE = tuple(f"bases/{name}.py" for name in ("exact_targets", "muon", "solved_prompts", "value_embedding"))
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


def ensure_base(name: str, seed: int = 0, *, progress: Progress | None = None) -> Path:
    """The folder of a built-in base, which is pretrained first if it is not in the cache.

    Several processes may call this at once: one of them pretrains, the others wait for it. A small base takes seconds,
    the most accurate ones up to 20 minutes.

    Args:
        name: A key of `BASES`.
        seed: Seed of the initial weights and of the pretraining text.
        progress: Called as `progress(step, steps, loss)` while the base is made. The count includes the rounds of
            refinement; the loss is in nats per response token.

    Returns:
        A Hugging Face folder with the model, its tokenizer and `base.json`.

    Raises:
        ValueError: The name is unknown or the seed negative.
        OSError: The cache cannot be written.
        RuntimeError: Pretraining failed. The message quotes the error output of its process.
    """

    def make(folder: Path) -> None:
        _write_card(folder, name, seed, _pretrain(name, seed, folder, progress))

    return made_once(base_folder(name, seed), _is_whole, make, "bases")


def base_is_cached(name: str, seed: int = 0) -> bool:
    """Whether `ensure_base` would return at once. Loads no torch.

    Args:
        name: A key of `BASES`.
        seed: Seed of the base.

    Raises:
        ValueError: The name is unknown or the seed negative.
    """
    return _is_whole(base_folder(name, seed))


def base_folder(name: str, seed: int) -> Path:
    """The folder in which a base is, or would be, cached. Raises ValueError as `ensure_base` does."""
    if name not in BASES:
        raise ValueError(unknown_name("base", name, BASES))
    if seed < 0:
        raise ValueError(f"seed: expected an integer ≥ 0, got {seed}")
    digest = hashlib.sha256(json.dumps(_identity(name, seed), sort_keys=True).encode()).hexdigest()
    return cache_home() / "bases" / f"{name}-seed{seed}-{digest[:12]}"


def _identity(name: str, seed: int) -> dict[str, object]:
    recipe = BASES[name]
    task = built_in_task(recipe.task)
    # Weights made by earlier code must not be mistaken for those that the present code makes.
    modules = {Path(inspect.getfile(cls)).resolve() for cls in type(task).__mro__ if cls.__module__.startswith(_NAME)}
    stages = [*_CODE, *(_REFINEMENT_CODE if recipe.refinement else ()), *(_EXACT_CODE if recipe.exact else ())]
    return {
        "base": name,
        "seed": seed,
        "recipe": recipe.to_json(),
        "task": task.fingerprint,
        "code": code_digest(sorted(modules | {_PACKAGE / file for file in stages})),
        "versions": {library: version(library) for library in _LIBRARIES},
    }


def _write_card(folder: Path, name: str, seed: int, loss: float) -> None:
    digests = {file.name: _digest(file) for file in sorted(folder.iterdir())}
    card = {**_identity(name, seed), "final_loss_nats": loss, "sha256": digests}
    (folder / "base.json").write_text(json.dumps(card, indent=2) + "\n")


def _is_whole(folder: Path) -> bool:
    try:
        digests = json.loads((folder / "base.json").read_text())["sha256"]
        return all(_digest(folder / file) == digest for file, digest in digests.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _pretrain(name: str, seed: int, out: Path, progress: Progress | None) -> float:
    """Make the base in a child process, relay its progress, return its final loss."""
    recipe = BASES[name]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(recipe.threads))
    request = json.dumps({"recipe": recipe.to_json(), "seed": seed, "out": str(out)})
    loss = float("nan")
    with ChildProcess(_PROGRAM, [request], environment=threads) as child:
        for step, loss in child.values():
            if progress is not None:
                progress(step, recipe.reports_until, loss)
        if child.ending != "exit status 0":
            tail = child.error_tail()
            reason = tail.splitlines()[-1] if tail else f"its process ended with {child.ending}"
            raise RuntimeError(f"pretraining of the base {name!r} failed: {reason}\n{tail}")
    return loss
