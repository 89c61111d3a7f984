"""The task reasoning-gym: which questions are in which split, what they score, and which responses are listed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toy_models.tasks import gym_imports
from toy_models.tasks.countdown_forms import in_normal_form, normal_forms
from toy_models.tasks.reasoning_gym_task import GymTask, lists_solutions, tagged
from toy_models.tasks.text_task import ResponseText

gym = pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")

SIZES = {"train": 12, "validation": 4, "test": 5}
SMALL = {"min_numbers": 2, "max_numbers": 3, "min_value": 1, "max_value": 9, "min_target": 5, "max_target": 40}


def questions(task: GymTask, split: str) -> list[str]:
    return [item.prompt for item in task.items(split)]


class TestSplits:
    def test_questions_are_those_of_their_index(self) -> None:
        task = GymTask("gcd", {"max_value": 50}, SIZES, seed=3)
        made = gym.create_dataset("gcd", max_value=50, seed=3, size=10)
        assert task.items("test")[0].id == "gcd/0"
        assert questions(task, "test")[:2] == [made[0]["question"], made[1]["question"]]
        assert {split: len(task.items(split)) for split in SIZES} == SIZES

    def test_repeated_questions_are_left_out_and_counted(self) -> None:
        narrow = {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 8}
        task = GymTask("gcd", narrow, SIZES)
        every = [question for split in SIZES for question in questions(task, split)]
        assert len(every) == len(set(every)) == 21
        last = max(item.columns["index"] for item in task.items("train"))
        assert sum(task.left_out.values()) == last + 1 - 21 > 0
        assert task.verifier.identity["left_out"] == task.left_out

    def test_more_training_questions_change_no_held_out_one(self) -> None:
        one, more = (GymTask("gcd", {}, SIZES | {"train": count}) for count in (12, 30))
        assert questions(one, "test") == questions(more, "test")
        assert questions(one, "validation") == questions(more, "validation")
        assert questions(more, "train")[:12] == questions(one, "train")

    def test_the_seed_makes_others(self) -> None:
        assert questions(GymTask("gcd", {}, SIZES), "test") != questions(GymTask("gcd", {}, SIZES, seed=1), "test")

    def test_too_few(self) -> None:
        tiny = {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 2}
        with pytest.raises(ValueError, match=r"expected 21 distinct questions, got [34] among the first 42; lower"):
            GymTask("gcd", tiny, SIZES)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "config", "message"),
        [
            (
                "countdwn",
                {},
                r"expected one of the \d+ data sets of reasoning-gym, got 'countdwn' \(did you mean countd",
            ),
            ("composite", {}, "composite: it mixes other data sets; name one of these"),
            ("gcd", {"max_valu": 3}, "field of the data set gcd: .*got 'max_valu'; did you mean max_value"),
            ("gcd", {"seed": 3}, "gcd: seed is set by the recipe's own fields; leave it out"),
            ("gcd", {"min_numbers": 0}, "refuses the configuration .*min_numbers must be at least 2"),
            ("gcd", {"min_numbers": "two"}, "gcd: it refuses the configuration"),
        ],
    )
    def test_name_and_configuration(self, name: str, config: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            GymTask(name, config, SIZES)

    def test_normal_form_of_another_data_set(self) -> None:
        with pytest.raises(ValueError, match="normal_form: expected the data set countdown, got gcd; leave it out"):
            GymTask("gcd", {}, SIZES, normal_form=True)
        with pytest.raises(ValueError, match="normal_form: expected at most 4 numbers, got max_numbers = 6"):
            GymTask("countdown", {}, SIZES, normal_form=True)

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(name: str) -> str:
            raise gym_imports.importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(gym_imports.importlib.metadata, "version", absent)
        with pytest.raises(
            ValueError, match=r"expected the package reasoning-gym, got none; pip install .*\[reasoning"
        ):
            GymTask("gcd", {}, SIZES)

    def test_a_package_of_one_data_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "zss" else find(name))
        with pytest.raises(
            ValueError, match="expected the package zss, which the data set codeio needs, got none; pip"
        ):
            GymTask("codeio", {}, SIZES)
        GymTask("gcd", {}, SIZES)


def test_missing_packages_lose_their_own_data_sets_alone() -> None:
    """A process in which none of those packages can be found imports reasoning-gym all the same."""
    code = """
import sys
from importlib.machinery import PathFinder
from toy_models.tasks import gym_imports
missing = gym_imports._OF_ONE_SET
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from toy_models.tasks.reasoning_gym_task import GymTask
print(GymTask("chain_sum", {}, {"train": 2}).items("train")[0].id, missing & set(sys.modules))
try:
    GymTask("figlet_font", {}, {"train": 2})
except ValueError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "chain_sum/0 frozenset()",
        "expected the package pyfiglet, which the data set figlet_font needs, got none; pip install pyfiglet",
    ]


def test_the_packages_of_single_data_sets_are_those_that_the_source_imports() -> None:
    imported = set()
    for path in Path(gym.__file__).parent.rglob("*.py"):
        imported |= set(re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    others = {"coaching", "dateutil", "numpy", "reasoning_gym", "sympy", "yaml", *sys.stdlib_module_names}
    assert {name for name in imported - others if importlib.util.find_spec(name) is not None} == gym_imports._OF_ONE_SET


class TestScores:
    @pytest.fixture
    def task(self) -> Any:
        return GymTask("gcd", {}, SIZES)

    def test_partial_credit(self, task: GymTask) -> None:
        item = task.items("test")[0]
        right = str(item.reference)
        texts = [right, f" {right}", f"it is {right}.", "", "nothing"]
        verdicts = task.score_many([item] * 5, [ResponseText(text) for text in texts])
        own = gym.create_dataset("gcd", seed=0, size=42)
        assert [verdict.score for verdict in verdicts] == [own.score_answer(text, own[0]) for text in texts]
        assert [verdict.correct for verdict in verdicts] == [True, False, False, False, False]

    def test_cut_off(self, task: GymTask) -> None:
        item = task.items("test")[0]
        verdict = task.score(item, ResponseText(item.reference, finished=False))
        assert (verdict.correct, verdict.reason, verdict.score) == (False, "not finished: no end token", 0.0)

    def test_answer_tag(self) -> None:
        task = GymTask("gcd", {}, SIZES, answer_tag="answer")
        item = task.items("test")[0]
        texts = [f"so <answer> {item.reference}\n</answer>.", str(item.reference)]
        assert [task.score(item, text).correct for text in texts] == [True, False]
        assert tagged("<answer>1</answer><answer>2", "answer") == "1"
        assert tagged("1", "answer") is None

    def test_what_is_evaluated_runs_in_a_process_of_its_own(self) -> None:
        task = GymTask("countdown", SMALL, SIZES)
        item = task.items("test")[0]
        texts = [f"(({item.reference}))", "__import__('os')._exit(3)", "import sys", "1 +"]
        verdicts = task.score_many([item] * 4, texts)
        assert [verdict.correct for verdict in verdicts] == [True, False, False, False]
        assert verdicts[1].reason == "crashed (exit status 3)"
        task.close()

    def test_a_system_message(self) -> None:
        plain, told = GymTask("gcd", {}, SIZES), GymTask("gcd", {}, SIZES, system="Answer with a number.")
        assert told.items("test")[0].prompt == [
            {"role": "system", "content": "Answer with a number."},
            {"role": "user", "content": plain.items("test")[0].prompt},
        ]

    def test_identity(self) -> None:
        identity = GymTask("gcd", {"max_value": 9}, SIZES, seed=2).verifier.identity
        assert json.loads(json.dumps(identity)) == identity
        assert (identity["data_set"], identity["config"], identity["seed"]) == ("gcd", {"max_value": 9}, 2)
        assert identity["version"] == gym_imports.gym_version()


class TestSolutions:
    def test_one_text_where_the_score_is_inherited(self) -> None:
        task = GymTask("letter_counting", {}, SIZES)
        item = task.items("test")[0]
        assert task.solutions(item) == [item.reference]

    @pytest.mark.parametrize(
        ("name", "options"),
        [("chain_sum", {}), ("countdown", {}), ("gcd", {"answer_tag": "answer"}), ("gcd", {"threshold": 0.5})],
    )
    def test_no_list_where_more_texts_score(self, name: str, options: dict[str, Any]) -> None:
        assert not hasattr(GymTask(name, {}, SIZES, **options), "solutions")
        listed = {"answer_tag": None, "threshold": 1.0} | options
        assert not lists_solutions(name, normal_form=False, **listed)

    def test_chain_sum_accepts_other_spellings(self) -> None:
        """Why it is not listed: trailing decimals score 1, too."""
        task = GymTask("chain_sum", {}, SIZES)
        item = task.items("test")[0]
        assert task.score(item, f"{item.reference}.0").score == 1
        task.close()


class TestCountdown:
    """The normal form against brute force over every text of its letters, and reasoning-gym's own score."""

    def test_every_text_of_a_small_alphabet(self) -> None:
        made = gym.create_dataset("countdown", **SMALL, seed=0, size=9)
        entry = made[0] | {"metadata": {"numbers": [2, 3], "target": 5}}
        words = ["2", "3", "+", "-", "*", "/", "(", ")", " "]
        texts = ("".join(letters) for n in range(1, 6) for letters in itertools.product(words, repeat=n))
        accepted = {text for text in texts if in_normal_form(text) and made.score_answer(text, entry) == 1}
        assert accepted == set(normal_forms([2, 3], 5)) == {"2 + 3", "3 + 2"}

    def test_all_of_three_numbers(self) -> None:
        """Every tree of three numbers, written out by another route, judged by reasoning-gym."""
        made = gym.create_dataset("countdown", **SMALL, seed=0, size=9)
        for numbers, target in (([2, 3, 4], 20), ([6, 6, 3], 9), ([1, 7, 8], 14)):
            entry = made[0] | {"metadata": {"numbers": numbers, "target": target}}
            texts = set()
            for a, b, c in itertools.permutations(numbers):
                for p, q in itertools.product("+-*/", repeat=2):
                    texts |= {f"{a} {p} {b} {q} {c}", f"({a} {p} {b}) {q} {c}", f"{a} {p} ({b} {q} {c})"}
            right = {text for text in texts if in_normal_form(text) and made.score_answer(text, entry) == 1}
            assert right == set(normal_forms(numbers, target))
            assert right

    def test_a_quotient_that_misses_by_a_hair(self) -> None:
        """reasoning-gym's tolerance is relative: 8999/9 = 999.889 is no 1000, 9999/10 is 999.9."""
        made = gym.create_dataset("countdown", **SMALL, seed=0, size=9)
        for numbers, target in (([99999, 100], 1000), ([8999, 9], 1000)):
            entry = made[0] | {"metadata": {"numbers": numbers, "target": target}}
            text = f"{numbers[0]} / {numbers[1]}"
            assert (text in normal_forms(numbers, target)) == (made.score_answer(text, entry) == 1)
        assert normal_forms([99999, 100], 1000) == ["99999 / 100"]

    @pytest.mark.parametrize(
        "text", ["", "(", "2 +", "+ 2", "2 3", "(2 + 3", "2 + 3)", "a", "(" * 10_000, "2 + " * 999]
    )
    def test_what_is_no_expression(self, text: str) -> None:
        assert not in_normal_form(text)

    def test_only_normal_forms_count(self) -> None:
        task = GymTask("countdown", SMALL, SIZES, normal_form=True)
        item = task.items("test")[0]
        (first, *_) = listed = task.solutions(item)
        assert all(verdict.correct for verdict in task.score_many([item] * len(listed), listed))
        verdict = task.score(item, f"({first})")
        assert (verdict.correct, verdict.reason, verdict.score) == (False, "not in normal form", 0.0)
        task.close()


def test_the_page_names_the_data_sets_that_are_evaluated_exactly() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how_to" / "public_tasks.md").read_text(encoding="utf-8")
    version = re.search(r"In reasoning-gym (\S+) these are", page)
    assert version is not None
    if version.group(1) != gym_imports.gym_version():
        pytest.skip(f"the page is of reasoning-gym {version.group(1)}")
    named = re.split(r",\s+|\s+and\s+", page[version.end() :].partition(".\n")[0].strip())
    exact = [
        name
        for name in gym_imports.gym_registry()
        if lists_solutions(name, normal_form=False, answer_tag=None, threshold=1.0) and name != "composite"
    ]
    assert named == sorted(exact)
