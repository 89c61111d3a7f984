from __future__ import annotations

import ast
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import logging as hf_logging

from toy_models import BASES, Policy, base_is_cached, ensure_base, get_task, load_policy, sample
from toy_models.bases import cache as bases
from toy_models.bases import pretraining
from toy_models.bases.pretraining import build_model
from toy_models.bases.value_embedding import embed_by_value
from toy_models.tasks.puzzle import PROMPT_LENGTH
from toy_models.tasks.registry import built_in_task


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def fake(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretraining that writes a file and takes a moment; the list tells how often it ran."""
    ran: list[str] = []

    def pretrain(name: str, seed: int, out: Path, progress: object) -> float:
        ran.append(name)
        time.sleep(0.2)
        (out / "model.safetensors").write_bytes(b"weights")
        return 0.5

    monkeypatch.setattr(bases, "_pretrain", pretrain)
    return ran


@pytest.mark.slow
def test_real_base_is_made_once_whatever_the_caller_does(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = dataclasses.replace(BASES["tiny"], steps=25)
    monkeypatch.setitem(BASES, "tiny", short)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    reports: list[tuple[int, int, float]] = []
    folder = ensure_base("tiny", 3, progress=lambda *report: reports.append(report))
    assert [report[:2] for report in reports] == [(10, 25), (20, 25), (25, 25)]
    assert reports[0][2] > reports[-1][2] > 0
    assert torch.get_num_threads() == threads
    assert (torch.get_rng_state() == state).all()
    assert folder.parent == cache / "bases"
    assert base_is_cached("tiny", 3)
    assert not base_is_cached("tiny", 4)
    assert {file.name for file in folder.parent.iterdir()} == {folder.name, f".{folder.name}.lock"}
    card = json.loads((folder / "base.json").read_text())
    assert {**card["recipe"], "refinement": None, "exact": None} == dataclasses.asdict(short)
    assert card["versions"]["torch"] == version("torch")
    assert card["final_loss_nats"] == reports[-1][2]

    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    assert not base_is_cached("tiny", 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert ensure_base("tiny", 3) == folder
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.fixture
def program(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the pretraining program, a module that the test writes."""
    (cache / "modules").mkdir()
    monkeypatch.syspath_prepend(cache / "modules")
    monkeypatch.setattr(bases, "_PROGRAM", "stand_in")
    return cache / "modules/stand_in.py"


def test_failure_shows_the_last_words_and_leaves_nothing(cache: Path, program: Path) -> None:
    program.write_text("def main(send, request): send([10, 2.5]); raise ArithmeticError('no more memory')")
    reports: list[tuple[int, int, float]] = []
    with pytest.raises(RuntimeError, match=r"^pretraining of the base 'tiny' failed: ArithmeticError: no more"):
        ensure_base("tiny", progress=lambda *report: reports.append(report))
    assert reports == [(10, BASES["tiny"].steps, 2.5)]
    assert not base_is_cached("tiny")
    assert not [file for file in (cache / "bases").iterdir() if file.suffix != ".lock"]


def test_a_child_that_is_killed_has_no_last_words(cache: Path, program: Path) -> None:
    program.write_text("import os, signal\ndef main(send, request): os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RuntimeError, match=r"'tiny' failed: its process ended with SIGKILL"):
        ensure_base("tiny")


def test_interrupted_caller_stops_its_child_and_leaves_nothing(cache: Path, program: Path) -> None:
    program.write_text(
        "import os, pathlib, time\n"
        "def main(send, request):\n"
        "    pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n"
        "    send([10, 2.5]); time.sleep(60)\n"
    )

    def interrupt(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_base("tiny", progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((cache / "modules/pid").read_text()), 0)
    assert not [file for file in (cache / "bases").iterdir() if file.suffix != ".lock"]


def test_two_callers_make_one_base(fake: list[str]) -> None:
    found: list[Path] = []
    callers = [threading.Thread(target=lambda: found.append(ensure_base("tiny"))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert fake == ["tiny"]
    assert len(set(found)) == 1
    assert len(found) == 3


@pytest.mark.parametrize("damage", ["card gone", "card cut", "weights gone", "weights changed", "only a file"])
def test_damaged_folder_is_made_again(fake: list[str], damage: str) -> None:
    folder = ensure_base("tiny")
    match damage:
        case "card gone":
            (folder / "base.json").unlink()
        case "card cut":
            (folder / "base.json").write_text('{"sha256": ')
        case "weights gone":
            (folder / "model.safetensors").unlink()
        case "weights changed":
            (folder / "model.safetensors").write_bytes(b"others")
        case "only a file":
            (folder / "base.json").write_text("[]")
    assert not base_is_cached("tiny")
    assert ensure_base("tiny") == folder
    assert base_is_cached("tiny")
    assert fake == ["tiny", "tiny"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_what_a_killed_process_left_is_removed(fake: list[str]) -> None:
    folder = ensure_base("tiny")
    half_made = folder.parent / f".{folder.name}.tmp-abc"
    half_made.mkdir()
    (half_made / "config.json").write_text("{}")
    (folder / "base.json").unlink()
    ensure_base("tiny")
    assert not half_made.exists()


def test_key_follows_all_that_the_weights_depend_on(
    fake: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {ensure_base("tiny"), ensure_base("tiny", 1), ensure_base("path")}
    monkeypatch.setitem(BASES, "tiny", dataclasses.replace(BASES["tiny"], lr=1.0))
    names.add(ensure_base("tiny"))
    monkeypatch.setattr(bases, "version", lambda library: "0.0")
    names.add(ensure_base("tiny"))
    assert len(names) == 5


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RLVR_DYNAMICS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert bases.base_folder("tiny", 0).parent == tmp_path / "xdg/rlvr-dynamics/bases"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert bases.base_folder("tiny", 0).parent == tmp_path / "home/.cache/rlvr-dynamics/bases"


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write the cache of bases .*set RLVR_DYNAMICS_CACHE"):
        ensure_base("tiny")


def test_bad_requests() -> None:
    with pytest.raises(ValueError, match=r"base: expected one of path, .*got 'tinny'; did you mean tiny"):
        ensure_base("tinny")
    with pytest.raises(ValueError, match="seed: expected an integer ≥ 0, got -1"):
        base_is_cached("tiny", -1)


@pytest.mark.parametrize("name", BASES)
def test_recipes_fit_their_tasks(name: str) -> None:
    recipe = BASES[name]
    task = built_in_task(recipe.task)
    model = build_model(dataclasses.replace(recipe, layers=1), task, seed=0)
    assert model.config.vocab_size == len(task.words)
    assert PROMPT_LENGTH + task.max_new_tokens <= model.config.max_position_embeddings
    if recipe.exact is None:
        assert len(task.corpus(20, np.random.default_rng(0), recipe.corpus)) == 20
    else:
        embed_by_value(model, task, recipe.exact, recipe.init_std)


def edit_code(monkeypatch: pytest.MonkeyPatch, file: str, edit: Callable[[str], str]) -> None:
    """Let the text of a source file of that name be read as edited."""
    read = Path.read_text

    def edited(path: Path, *arguments: Any, **options: Any) -> str:
        text = read(path, *arguments, **options)
        return edit(text) if path.name == file else text

    monkeypatch.setattr(Path, "read_text", edited)


def test_code_of_another_task_changes_no_base(fake: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: bases.base_folder(name, 0) for name in ("tiny", "tiny-countdown", "tiny-two-modes")}
    edit_code(monkeypatch, "path.py", lambda text: text + "\nx = 1\n")
    changed = {name for name, folder in before.items() if bases.base_folder(name, 0) != folder}
    assert changed == {"tiny", "tiny-two-modes"}  # `two-modes` is built on `path`


def respell(text: str) -> str:
    """Another comment, another docstring, another layout."""
    text = text.replace('"""Train a base', '"""Make a base').replace("recent.clear()", "recent.clear( )  # note")
    return text.replace("betas=(0.9, 0.98)", "betas=(\n            0.9,\n            0.98,\n        )")


@pytest.mark.parametrize(
    ("edit", "same"),
    [
        (respell, True),
        (lambda text: text.replace("0.98", "0.980"), True),
        (lambda text: text.replace("0.98", "0.99"), False),
        (lambda text: text.replace("optimizer.zero_grad()", "pass"), False),
        (lambda text: text.replace("n_response", "width"), False),
    ],
    ids=["English and layout", "another spelling of a number", "a number", "a statement", "a name"],
)
def test_the_key_follows_what_the_code_does_not_how_it_is_written(
    monkeypatch: pytest.MonkeyPatch, edit: Callable[[str], str], same: bool
) -> None:
    text = Path(pretraining.__file__).read_text()
    assert edit(text) != text
    before = bases.base_folder("tiny", 0)
    edit_code(monkeypatch, "pretraining.py", edit)
    assert (bases.base_folder("tiny", 0) == before) is same


@pytest.mark.slow
def test_tiny_is_right_often_enough_and_wrong_often_enough(tiny: Policy) -> None:
    task = get_task(BASES["tiny"].task)
    prompts = task.prompts("test")[:64]
    u = torch.rand(512, task.max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = sample(
        tiny.model,
        [p.ids for p in prompts],
        group_size=8,
        max_new_tokens=task.max_new_tokens,
        eos_id=tiny.eos_id,
        pad_id=tiny.pad_id,
        uniforms=u,
    )
    right = [
        task.verify(prompts[i // 8].ids, row[:n].tolist()).correct
        for i, (row, n) in enumerate(zip(drawn.response_ids, drawn.lengths, strict=True))
    ]
    assert 0.1 < sum(right) / len(right) < 0.6


@pytest.mark.slow
def test_loading_writes_nothing_to_the_terminal(tiny: Policy, capfd: pytest.CaptureFixture[str]) -> None:
    before = hf_logging.is_progress_bar_enabled()
    load_policy("tiny")
    assert "".join(capfd.readouterr()) == ""
    assert hf_logging.is_progress_bar_enabled() == before


# Imported by the code that makes a base, but without a part in its weights: names and messages, the protocol between
# processes, recipes and the parameters of tasks (which are in the hash as data), the verdicts' types, and a task whose
# class the exact targets of any other only compare with.
NOT_IN_THE_WEIGHTS = {
    "__init__.py",
    "bases/__init__.py",
    "bases/recipes.py",
    "child_process.py",
    "messages.py",
    "tasks/__init__.py",
    "tasks/countdown.py",
    "tasks/registry.py",
    "verifiers/__init__.py",
    "verifiers/verifier.py",
}


@pytest.mark.parametrize("name", ["tiny", "path-p75", "path-p95", "countdown-p55", "countdown-p90", "two-modes"])
def test_the_key_covers_all_code_that_the_weights_depend_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules that a child process loads to make the base, read off its imports."""
    package = Path(bases.__file__).parents[1]
    hashed: list[Path] = []
    monkeypatch.setattr(bases, "code_digest", lambda files: hashed.extend(files) or "digest")
    bases.base_folder(name, 0)
    recipe = BASES[name]
    stage = "exact_targets" if recipe.exact else "refinement" if recipe.refinement else "pretraining"
    task = sys.modules[type(built_in_task(recipe.task)).__module__]
    waiting = [package / "bases" / "making.py", package / "bases" / f"{stage}.py", Path(str(task.__file__))]
    needed: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in needed:
            needed.add(file)
            waiting += [] if file.name == "making.py" else imports_of(file, package)
    missing = {str(file.relative_to(package)) for file in needed - set(hashed)}
    assert missing <= NOT_IN_THE_WEIGHTS


def imports_of(file: Path, package: Path) -> list[Path]:
    """The files of the package that a file imports by a relative import."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1]
            stem = folder.joinpath(*(node.module or "").split("."))
            candidates = [stem.with_suffix(".py"), *(stem / f"{alias.name}.py" for alias in node.names)]
            found += [path for path in candidates if path.is_file() and package in path.parents]
    return found


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers", "numpy"])
def test_the_key_covers_the_versions_of_libraries(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = bases.base_folder("tiny", 0), bases.version
    monkeypatch.setattr(bases, "version", lambda name: "0.1" if name == library else version(name))
    assert bases.base_folder("tiny", 0) != before
