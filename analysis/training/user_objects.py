"""Tasks and policies that were written in Python, in a notebook say, and passed to `run(…, task=…, policy=…)`.

Runs are trained in processes of their own, so the objects travel as pickles (cloudpickle: classes of the main module
go by value, those of importable modules by name), which stay in the experiment folder: `<out>/given/task.pkl` and
`policy.pkl`. With them an experiment can be resumed from a shell. Loading a pickle executes what it holds: resume only
folders that you trust.

What identifies them is not the pickle, whose bytes differ from session to session, but a digest: of a task its name,
its longest response, all of its prompts, its verifier and the code of its class (of a task in texts `text_objects`); of
a policy its weights, configuration, tokenizer, chat template and end tokens and the code of its class
(`object_digest`).
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toy_models.end_tokens import policy_end_tokens
from toy_models.tasks.task import SPLITS
from toy_models.tasks.text_task import is_text_task

from ..common.identity import model_configuration, text_digest, tokenizer_digest
from ..common.provenance import weights_hash
from ..errors import UsageError
from ..recipes.config import FIELDS, UNSET, show
from ..recipes.fields import GIVEN
from ..recipes.recipe import Recipe
from ..records.folders import make_folder, write_durably
from .object_digest import object_digest
from .text_objects import TEXT_FIELDS, text_task_identity, values_of

__all__ = ["FOLDER", "adopted", "load_given", "write_given"]

FOLDER = "given"
# the members that an object needs, and how messages describe them
_MEMBERS = {
    "task": {
        "name": "a string",
        "max_new_tokens": "the length of the longest correct response, end token included",
        "tokenizer": "a tokenizer of transformers",
        "prompts": "prompts(split) -> list of toy_models.Prompt for train, validation and test",
        "verify": "verify(prompt_ids, response_ids) -> toy_models.Verdict",
        "solutions": "solutions(prompt_ids) -> every correct response, or None where they cannot be listed",
    },
    "policy": {
        "model": "a causal language model of transformers",
        "tokenizer": "its tokenizer",
        "eos_id": "id of the end token",
        "pad_id": "id of the padding token",
        "save": "save(folder), for the checkpoint",
    },
}
_FIELD = {"task": "task.name", "policy": "policy.base"}


def adopted(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with these objects ("task", "policy") in the place of a named task and base.

    Raises UsageError for an object that lacks something, and where the recipe names another task or base itself.
    """
    for kind, thing in given.items():
        field = _FIELD[kind]
        if other := values_of(recipe, field) - {UNSET, GIVEN}:
            raise UsageError(
                f"{kind}: expected a recipe without {field}, got {recipe.name} with {field} = "
                f'{show(sorted(other)[0])} and a {kind} object; drop one (recipe.set(**{{"{field}": "unset"}}))'
            )
        if kind == "task" and is_text_task(thing):
            identity = text_task_identity(thing, recipe)
        else:
            _check_members(kind, thing)
            if kind == "task":
                _check_no_texts(thing, recipe)
            identity = _task_identity(thing) if kind == "task" else _policy_identity(thing)
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        recipe = recipe.set(**{field: GIVEN, f"{kind}.digest": digest})
    return recipe


def write_given(folder: Path, given: Mapping[str, Any]) -> dict[str, str]:
    """Write the objects into an experiment folder; path there -> sha256. UsageError for one that cannot be pickled."""
    import cloudpickle

    digests = {}
    for kind, thing in given.items():
        try:
            data = cloudpickle.dumps(thing)
        except Exception as error:  # whatever an object's own pickling raises
            raise UsageError(
                f"{kind}: {type(thing).__name__} cannot be sent to the processes that train: "
                f"{type(error).__name__}: {error}; keep open files, locks and processes out of it, or "
                "give it a __reduce__"
            ) from error
        path = f"{FOLDER}/{kind}.pkl"
        make_folder(folder / FOLDER)
        _, digests[path] = write_durably(folder / path, data)
    return digests


def load_given(folder: Path, kind: str) -> Any:
    """The object of an experiment folder. UsageError where it is missing or cannot be loaded."""
    path = folder / FOLDER / f"{kind}.pkl"
    try:
        return pickle.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{kind}: expected the pickled {kind} in {path}, which is missing; pass it again: "
            f"analysis.run(recipe, {kind}=…)"
        ) from None
    except Exception as error:  # whatever unpickling runs
        raise UsageError(
            f"{kind}: {path} cannot be loaded: {type(error).__name__}: {error}; modules that its class "
            "comes from must be importable (PYTHONPATH)"
        ) from error


def _check_no_texts(task: Any, recipe: Recipe) -> None:
    """UsageError for fields that say how texts become tokens and verdicts, with a task that is in tokens itself."""
    stray = [name for name in TEXT_FIELDS if values_of(recipe, name) - {UNSET, FIELDS[name].default}]
    if stray:
        raise UsageError(
            f"{', '.join(stray)}: expected a task in texts (toy_models.TextTask: items and score), got "
            f"{type(task).__name__}, whose prompts are tokens and whose verdicts are its own; leave them out"
        )


def _check_members(kind: str, thing: Any) -> None:
    missing = [f"{name}: {meaning}" for name, meaning in _MEMBERS[kind].items() if not hasattr(thing, name)]
    if missing:
        listed = "".join(f"\n  - {line}" for line in missing)
        texts = "; a task in texts has items(split) and score(item, text) instead" if kind == "task" else ""
        raise UsageError(f"{kind}: expected a {kind}, got {type(thing).__name__}, which lacks{listed}{texts}")


def _task_identity(task: Any) -> dict[str, Any]:
    content = hashlib.sha256()
    for split in SPLITS:
        prompts = task.prompts(split)
        for prompt in prompts:
            for name in ("prompt_id", "ids", "text", "split", "answer"):
                if not hasattr(prompt, name):
                    raise UsageError(
                        f"task.prompts({split!r}): expected toy_models.Prompt objects, got "
                        f"{type(prompt).__name__} without {name}"
                    )
            content.update(repr((split, tuple(map(int, prompt.ids)), prompt.text, prompt.answer)).encode())
        if len({prompt.prompt_id for prompt in prompts}) < len(prompts):
            raise UsageError(
                f"task.prompts({split!r}): expected a distinct prompt_id for each prompt, got some twice; records "
                "identify a prompt by it"
            )
        if not prompts:
            raise UsageError(f"task.prompts({split!r}): expected at least one prompt, got none")
    try:
        verdict = task.verify(prompts[0].ids, (int(task.tokenizer.eos_token_id),))
    except SystemExit as error:
        raise UsageError(f"task.verify: expected a toy_models.Verdict, but it called exit({error.code!r})") from error
    if not hasattr(verdict, "correct") or not hasattr(verdict, "reason"):
        raise UsageError(f"task.verify: expected a toy_models.Verdict (correct, reason), got {type(verdict).__name__}")
    return {
        "name": task.name,
        "max_new_tokens": int(task.max_new_tokens),
        "prompts": content.hexdigest(),
        "verifier": text_digest(getattr(getattr(task, "verifier", None), "identity", None)),
        "code": object_digest(task),
    }


def _policy_identity(policy: Any) -> dict[str, Any]:
    return {
        "weights": weights_hash(policy.model),
        "configuration": model_configuration(policy.model),
        "attention": str(getattr(policy.model.config, "_attn_implementation", None)),
        "end_ids": list(policy_end_tokens(policy)),
        "tokenizer": tokenizer_digest(policy.tokenizer),
        "chat_template": text_digest(policy.tokenizer.chat_template),
        "code": object_digest(policy),
    }
