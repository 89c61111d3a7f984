"""The built-in base policies: their recipes, and the cache in which each is pretrained once.

A cached base is an ordinary Hugging Face folder with one file more, `base.json` (recipe, versions, final loss, digest
of the weights). Its name carries a hash of all that the weights depend on: recipe, seed, task, pretraining code, and
the versions of torch, transformers and tokenizers. (They depend on the processor's vector instructions too, within
rounding.) No import of this module loads torch; pretraining runs in a process of its own, with the recipe's number of
threads, and leaves the caller's settings alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from ..child_process import ChildProcess
from ..messages import unknown_name
from ..tasks.registry import built_in_task
from .recipes import BASES

__all__ = ["base_is_cached", "ensure_base"]

# (step, steps and rounds in all, loss in nats per response token)
Progress = Callable[[int, int, float], None]

_ROOM = Path(__file__).resolve().parents[1]  # toy_models
_PACKAGE = "toy_models."
_PROGRAM = f"{__package__}.making"  # of the child process
_CODE = ("bases/pretraining.py", "tasks/tokenizer.py")  # besides the modules of the task
_REFINING_CODE = ("bases/refinement.py", "sampling.py", "truncation.py")  # for a base with the second stage, besides
# For a base trained on the exact law, besides.
_EXACT_CODE = tuple(
    f"bases/{name}.py" for name in ("exact_targets", "muon", "refinement", "solved_prompts", "value_embedding")
)
_LIBRARIES = ("torch", "transformers", "tokenizers")


def ensure_base(name: str, seed: int = 0, *, progress: Progress | None = None) -> Path:
    """Folder of a built-in base, pretrained now if it is not cached; other processes wait for the one that does it.

    Raises ValueError for an unknown name or a negative seed, OSError where the cache cannot be written, and
    RuntimeError with the child's last words where pretraining fails.
    """
    folder = _folder(name, seed)
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder.parent / f".{folder.name}.lock").acquire()
    except OSError as error:
        raise OSError(
            f"cannot write the cache of bases {folder.parent} ({error.strerror or error}); "
            "set RLVR_DYNAMICS_CACHE to a writable folder"
        ) from error
    with held:
        if _is_whole(folder):
            return folder
        for stale in (folder, *folder.parent.glob(f".{folder.name}.tmp-*")):
            shutil.rmtree(stale, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
        try:
            loss = _pretrain(name, seed, made, progress)
            _write_card(made, name, seed, loss)
            made.chmod(0o755)  # mkdtemp makes it private
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def base_is_cached(name: str, seed: int = 0) -> bool:
    """Whether `ensure_base` would return at once. Loads no torch. Raises ValueError for an unknown name."""
    return _is_whole(_folder(name, seed))


def _folder(name: str, seed: int) -> Path:
    if name not in BASES:
        raise ValueError(unknown_name("base", name, BASES))
    if seed < 0:
        raise ValueError(f"seed: expected a number from 0 up, got {seed}")
    digest = hashlib.sha256(json.dumps(_identity(name, seed), sort_keys=True).encode()).hexdigest()
    home = os.environ.get("RLVR_DYNAMICS_CACHE")
    if home:
        cache = Path(home).expanduser()
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlvr-dynamics"
    return cache.absolute() / "bases" / f"{name}-seed{seed}-{digest[:12]}"


def _identity(name: str, seed: int) -> dict[str, object]:
    task = built_in_task(BASES[name].task)
    # A change of the code that makes the weights must not meet weights of before.
    modules = {
        str(Path(inspect.getfile(cls)).resolve().relative_to(_ROOM))
        for cls in type(task).__mro__
        if cls.__module__.startswith(_PACKAGE)
    }
    recipe = BASES[name]
    modules |= {*_CODE, *(_REFINING_CODE if recipe.refinement else ()), *(_EXACT_CODE if recipe.exact else ())}
    code = b"".join((_ROOM / file).read_bytes() for file in sorted(modules))
    return {
        "base": name,
        "seed": seed,
        "recipe": recipe.to_json(),
        "task": task.fingerprint,
        "code": hashlib.sha256(code).hexdigest(),
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
            words = child.error_tail()
            last = words.splitlines()[-1] if words else f"its process ended with {child.ending}"
            raise RuntimeError(f"pretraining of the base {name!r} failed: {last}\n{words}")
    return loss
