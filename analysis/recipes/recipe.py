"""A recipe names an experiment and resolves into its runs; it is a TOML file or made in Python.

```toml
schema = 1
about = "what it shows"
cost = "how long it takes"
steps = 40                                  # the fields of `fields.py`, by table
[update]
epochs = 2
[grid]                                      # lists multiply out
seed = [0, 1]
optimizer.lr = [1e-4, 2e-4]
[[grid.method]]                             # and so do methods: a label and what it sets
label = "PSR"
objective.name = "psr"
```

Nothing here loads torch, so that recipes are read, refused and listed at once. What lies outside a recipe, such as
files and base folders, is checked by `plan`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
import unicodedata
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toy_models.messages import nearest

from ..common.notebook_html import html_table
from ..errors import UsageError
from ..objectives.rules import entry as objective_entry
from .combinations import combination_problems
from .config import UNSET, compare, config_from_dict, field_of, flatten, read_value, show
from .field_helpers import Table
from .fields import RunConfig
from .inputs import anchored, identified

__all__ = ["RECIPE_SCHEMA", "PlannedRun", "Recipe"]

RECIPE_SCHEMA = 1
_BUILT_IN = Path(__file__).with_name("built_in")
_NOTES = ("name", "about", "cost")
_LABELS = {"psr": "PSR", "nsr": "NSR", "w-reinforce": "W-REINFORCE", "reinforce": "REINFORCE", "grpo": "GRPO"}


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment.

    Attributes:
        run_id: name of its folder.
        label: name of its method in tables and legends.
        config: every factor of the run.
    """

    run_id: str
    label: str
    config: RunConfig


@dataclass(frozen=True)
class Method:
    """One `[[grid.method]]`: a label and the fields that it sets, by dotted path."""

    label: str
    values: dict[str, Any]


@dataclass(frozen=True, repr=False)
class Recipe:
    """A valid experiment: what its runs have in common, and in what they differ.

    Attributes:
        name: names the folder of the experiment.
        about: what it shows, in a line.
        cost: how long it takes as it stands, in a line.
        values: the fields that the recipe sets, by dotted path.
        grid: fields with lists of values, which multiply out to runs.
        methods: the entries of `[[grid.method]]`.

    Raises:
        UsageError: invalid fields or combinations of fields; one message lists all problems.

    Example:
        >>> recipe = Recipe.load("tiny").set(steps=4)
        >>> recipe
        <Recipe tiny: 2 runs of PSR, NSR>
        >>> [run.run_id for run in recipe.expand()]
        ['psr-seed0', 'nsr-seed0']
    """

    name: str
    about: str = ""
    cost: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        self.expand()

    def __repr__(self) -> str:
        runs = self.expand()
        labels = ", ".join(dict.fromkeys(run.label for run in runs))
        return f"<Recipe {self.name}: {len(runs)} {'run' if len(runs) == 1 else 'runs'} of {labels}>"

    def _repr_html_(self) -> str:
        """The runs as a table, for notebooks: run, method, and the fields in which they differ."""
        runs = self.expand()
        _, varied = compare([run.config for run in runs])
        columns = ["run", "method", *varied[0]]
        rows = ([run.run_id, run.label, *values.values()] for run, values in zip(runs, varied, strict=True))
        return html_table(self.name, self.about, rows, columns=columns)

    @staticmethod
    def names() -> list[str]:
        """Names of the built-in recipes."""
        return sorted(path.stem for path in _BUILT_IN.glob("*.toml"))

    @classmethod
    def load(cls, name_or_path: str | Path) -> Recipe:
        """A built-in recipe by name, or a recipe file by path.

        Args:
            name_or_path: a name, or the path of a TOML file. Relative paths in the file are relative to its folder.

        Raises:
            UsageError: an unknown name, a missing file, invalid TOML or an invalid recipe.
        """
        name = str(name_or_path)
        path = _BUILT_IN / f"{name}.toml" if name in cls.names() else Path(name_or_path)
        if not path.is_file():
            hint = nearest(name, cls.names())
            if path.suffix == ".toml" or path.exists():
                hint = f"{path} is a folder" if path.is_dir() else "no such file"
            raise UsageError(f"recipe {name!r}: expected a built-in recipe or the path of a TOML file ({hint})")
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe {path}: not valid TOML: {error}") from None
        except OSError as error:
            raise UsageError(f"recipe {path}: cannot be read: {error.strerror}") from None
        return cls.from_dict({"name": path.stem} | data)._anchored(path.parent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """A recipe from the nested data that its TOML holds; the inverse of `to_dict`."""
        name = str(data.get("name", "unnamed"))
        problems = [
            f"{key}: expected a string, got {show(data[key])}"
            for key in _NOTES
            if not isinstance(data.get(key, ""), str)
        ]
        if "schema" not in data:
            problems.append(f"schema: missing; write schema = {RECIPE_SCHEMA} at the top")
        elif data["schema"] != RECIPE_SCHEMA or isinstance(data["schema"], bool):
            problems.append(f"schema: expected {RECIPE_SCHEMA}, got {show(data['schema'])}")
        grid = data.get("grid", {})
        if not isinstance(grid, Mapping):
            problems.append(f"grid: expected a table, got {show(grid)}")
            grid = {}
        methods = []
        entries = grid.get("method", [])
        for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            label = entry.get("label") if isinstance(entry, Mapping) else None
            if isinstance(entry, Mapping) and isinstance(label, str) and label.strip():
                methods.append(Method(label, flatten({key: entry[key] for key in entry if key != "label"})))
            else:
                problems.append(f"grid.method {index + 1}: expected [[grid.method]] with a label, got {show(entry)}")
        values = flatten({key: data[key] for key in data if key not in ("schema", "grid", *_NOTES)})
        lists = flatten({key: grid[key] for key in grid if key != "method"})
        try:
            recipe = cls(name, str(data.get("about", "")), str(data.get("cost", "")), values, lists, tuple(methods))
        except RecipeError as error:
            problems += error.problems
        if problems:
            raise RecipeError(name, problems)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data that `from_dict` reads back."""
        result: dict[str, Any] = {"schema": RECIPE_SCHEMA, "name": self.name, "about": self.about, "cost": self.cost}
        result |= _nested(self.values)
        methods = [{"label": method.label} | _nested(method.values) for method in self.methods]
        grid = _nested(self.grid) | ({"method": methods} if methods else {})
        return result | ({"grid": grid} if grid else {})

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the resolved runs: equal for recipes of the same experiment.

        Files of prompts and verifiers count by their content.

        Raises:
            UsageError: one of those files cannot be read.
        """
        runs = sorted((run.run_id, run.label, identified(run.config)) for run in self.expand())
        canonical = json.dumps({"schema": RECIPE_SCHEMA, "runs": runs}, sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def set(self, **dotted: Any) -> Recipe:
        """A copy with fields set for all of its runs: `recipe.set(steps=4, **{"update.epochs": 2})`.

        Args:
            dotted: fields by dotted path. A field that the grid varies stops varying, and a value that methods set is
                replaced in each; `objective.lambda` reaches only methods that are w-reinforce, settings of [critic]
                only methods with a critic, where there are any. `"unset"` restores the default, `grid.<field>` is a
                list of values, `grid="unset"` leaves one run. Relative paths are relative to the current folder.

        Returns:
            The new recipe; this one stays as it is.

        Raises:
            UsageError: the result is not valid, or a field is set together with its list in the grid.
        """
        notes = {key: dotted.pop(key) for key in _NOTES if key in dotted}
        values, grid, methods = dict(self.values), dict(self.grid), self.methods
        if "grid" in dotted and dotted["grid"] == UNSET:
            del dotted["grid"]
            grid, methods = {}, ()
        settings = flatten(dotted)
        if twice := [path for path in settings if f"grid.{path}" in settings]:
            raise UsageError(
                f"{twice[0]} and grid.{twice[0]}: expected one of them, got both; grid.{twice[0]} makes a run for each "
                "value, leave the other out"
            )
        for path, value in settings.items():
            value = anchored(path.removeprefix("grid."), value, Path.cwd())
            if value == UNSET and (field := field_of(path)) is not None and field.kind is Table:
                values = {key: old for key, old in values.items() if not key.startswith(f"{path}.")}
            elif path == "grid.method" and value == UNSET:
                methods = ()
            elif path.startswith("grid."):
                grid.pop(path[5:], None)
                grid |= {} if value == UNSET else {path[5:]: value}
            elif any(_owns(method, path, values) for method in methods):
                methods = tuple(
                    replace(method, values=method.values | {path: value}) if _owns(method, path, values) else method
                    for method in methods
                )
            else:
                grid.pop(path, None)
                methods = tuple(
                    replace(method, values={key: old for key, old in method.values.items() if key != path})
                    for method in methods
                )
                values[path] = value
        return replace(self, **notes, values=values, grid=grid, methods=methods)

    def _anchored(self, folder: Path) -> Recipe:
        """A copy whose paths are absolute; relative ones start at `folder`."""

        def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
            return {path: anchored(path, value, folder) for path, value in values.items()}

        methods = tuple(replace(method, values=absolute(method.values)) for method in self.methods)
        return replace(self, values=absolute(self.values), grid=absolute(self.grid), methods=methods)

    def override(self, *settings: str) -> Recipe:
        """A copy with settings such as `"update.epochs=4"`, as `--set` has them.

        Args:
            settings: a field, "=", and a TOML literal; anything else is read as a string.

        Raises:
            UsageError: as `set`, or a setting without "=" or with two different values.
        """
        parsed: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = (part.strip() for part in setting.partition("="))
            if not key or not equals:
                raise UsageError(f"--set: expected field=value, got {setting!r} (as in update.epochs=4)")
            try:
                literal = tomllib.loads(f"value = {text}")
            except tomllib.TOMLDecodeError:
                literal = {"value": text}
            value = literal["value"] if len(literal) == 1 else text
            if parsed.get(key, value) != value:
                raise UsageError(f"{key}: expected one value, got {show(parsed[key])} and {show(value)}; leave one out")
            parsed[key] = value
        return self.set(**parsed)

    def expand(self) -> list[PlannedRun]:
        """The runs: methods times the lists of the grid, the last list fastest."""
        return list(self._runs)

    @cached_property
    def _runs(self) -> tuple[PlannedRun, ...]:
        refused = self._refused()
        bad = {path for path, _ in refused}
        problems = list(dict.fromkeys(message for _, message in refused))
        runs = self._resolve(skip=bad)
        faults: dict[str, list[str]] = {}
        for run in runs:
            for message in combination_problems(run.config):
                if not _touches(message, bad):
                    faults.setdefault(message, []).append(run.run_id)
        for message, run_ids in faults.items():
            problems.append(message if len(run_ids) == len(runs) else f"{message} (in {', '.join(run_ids)})")
        problems += _ambiguities(runs) if not problems else []
        if problems:
            raise RecipeError(self.name, problems)
        return tuple(runs)

    def _refused(self) -> list[tuple[str, str]]:
        """Invalid single values: path and message."""
        refused = []
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            message = f"name: expected letters, digits, '.', '_', '-' (it names a folder), got {show(self.name)}"
            refused.append(("name", message))
        places = [("", self.values)]
        places += [
            (f"grid.method {index + 1} ({method.label}): ", method.values) for index, method in enumerate(self.methods)
        ]
        for path, options in self.grid.items():
            if not isinstance(options, list) or not options:
                refused.append((path, f"grid.{path}: expected a list of values, got {show(options)}"))
            else:
                places += [("grid: ", {path: option}) for option in options]
        for where, values in places:
            for path, value in values.items():
                try:
                    read_value(path, value)
                except UsageError as error:
                    refused.append((path, f"{where}{error}"))
        return refused

    def _resolve(self, skip: Container[str]) -> list[PlannedRun]:
        grid = {path: options for path, options in self.grid.items() if path not in skip and isinstance(options, list)}
        runs = []
        for method in self.methods or (None,):
            for point in itertools.product(*grid.values()):
                chosen = dict(zip(grid, point, strict=True))
                values = self.values | (method.values if method else {}) | chosen
                config = config_from_dict(
                    {path: value for path, value in values.items() if field_of(path) and path not in skip}
                )
                label = method.label if method else _label(config)
                settings = [
                    f"{_short(path, grid)}={_plain(value)}"
                    for path, value in chosen.items()
                    if path != "seed" and (method is not None or path != "objective.name")
                ]
                label = " ".join([label, *settings])
                runs.append(PlannedRun(f"{_slug(label)}-seed{config.seed}", label, config))
        return runs


def _label(config: RunConfig) -> str:
    """What a method is called where the recipe does not name it: REINFORCE with a critic is PPO."""
    name = config.objective.name
    if config.critic.enabled and name in ("reinforce", "reinforce-ratio"):
        return "PPO"
    if name in _LABELS:
        return _LABELS[name]
    try:
        return objective_entry(name).title
    except UsageError:  # a user's loss, or a name that is refused elsewhere
        return name.rpartition(":")[2] or "unknown"


def _owns(method: Method, path: str, values: Mapping[str, Any]) -> bool:
    """Whether a field is one that only some methods have, and this one does: λ, or the settings of a critic."""
    fields = {**values, **method.values}
    if path == "objective.lambda":
        return str(fields.get("objective.name")).startswith("w-reinforce")
    return path.startswith("critic.") and path != "critic.enabled" and fields.get("critic.enabled") is True


class RecipeError(UsageError):
    """A recipe that cannot be run as written, with all of its problems."""

    def __init__(self, name: str, problems: list[str]) -> None:
        self.problems = problems
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"recipe {name}: {problems[0] if len(problems) == 1 else f'{len(problems)} problems{listed}'}")


def _ambiguities(runs: list[PlannedRun]) -> list[str]:
    """Runs that share a folder, or that are the same run under two labels."""
    problems = []
    for first, second in itertools.combinations(runs, 2):
        if first.run_id == second.run_id:
            problems.append(
                f"grid: {show(first.label)} and {show(second.label)} both give the run {first.run_id}; "
                "give them distinct labels or values"
            )
        elif first.config == second.config:
            problems.append(
                f"grid: the runs {first.run_id} and {second.run_id} are the same in every field; drop one, "
                'or all but one run with grid = "unset"'
            )
    return problems


def _touches(message: str, bad: Iterable[str]) -> bool:
    """Whether a complaint about a combination may only follow from a value that was refused before."""
    return any(path in message or message.startswith(f"{path.partition('.')[0]}.") for path in bad)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        table, _, name = path.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[name] = value
    return nested


def _short(path: str, among: Iterable[str]) -> str:
    """The last part of a path where that says which field of the grid it is."""
    name = path.rpartition(".")[2]
    return name if sum(other.rpartition(".")[2] == name for other in among) == 1 else path


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else show(value)


def _slug(label: str) -> str:
    """A label as a folder name.

    >>> _slug("W-REINFORCE λ=0.1 lr=1e-05")
    'w-reinforce-lambda0.1-lr1e-05'
    """
    spelled = unicodedata.normalize("NFKD", label.replace("λ", "lambda").casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9.]+", "-", spelled.replace("=", "")).strip("-.") or "run"
