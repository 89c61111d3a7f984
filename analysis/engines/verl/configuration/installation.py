"""Whether the packages that verl's trainer needs are installed, in versions that it takes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

__all__ = ["unmet_requirements"]

# Imported by the trainer and named by none of verl's requirements but those of an extra that pins an older PyTorch.
_UNDECLARED = ("TransferQueue>=0.1.10", "cachetools", "fastapi", "msgspec", "pyzmq", "uvicorn")


def unmet_requirements() -> list[str]:
    """One message for each package that verl needs and that is missing or has a version that it does not take."""
    messages = []
    for line in (*(requires("verl") or ()), *_UNDECLARED):
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            installed = "none"
        if installed == "none" or not needed.specifier.contains(installed, prereleases=True):
            wanted = f"{needed.name}{needed.specifier}"
            messages.append(
                f"{needed.name}: expected {wanted}, which verl needs, got {installed}; install '{wanted}', or the "
                "extra `verl` with constraints-verl.txt"
            )
    return messages
