"""What a run was made with: versions, commit, machine. Written into run.json and experiment.json."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..version import __version__

__all__ = ["code_digest", "cores", "machine_info", "measured_with", "versions", "weights_hash"]

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "pandas", "pyarrow")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python, of this library and of what its numbers depend on; nothing is imported for it."""
    found = {"python": platform.python_version(), "rlvr-dynamics": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def machine_info() -> dict[str, Any]:
    """`versions`, `commit` (None outside a git checkout; "+" marks local changes) and `machine`, as plain data."""
    machine: dict[str, Any] = {"system": platform.platform(), "processor": _processor(), "cores": cores()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return {"versions": versions(), "commit": _commit(), "machine": machine}


def measured_with(command: str) -> dict[str, Any]:
    """The head of a file of results: the command that makes it, the date, the commit, versions, the processor
    and how many cores of it may be used."""
    about = machine_info()
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "commit": about["commit"],
        "versions": about["versions"],
        "processor": about["machine"]["processor"],
        "cores": about["machine"]["cores"],
    }


def code_digest() -> str:
    """SHA-256 over the source of this library: what was computed by other code is computed again."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for package in ("analysis", "toy_models"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def weights_hash(model: Any) -> str:
    """SHA-256 over names and values of a model's parameters and buffers.

    Raises UsageError for tensors without values: on the device meta, or of a shard whose rest is elsewhere.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_content(name, value))
    return digest.hexdigest()


def _content(name: str, value: Any) -> bytes:
    """The bytes of an entry of a state dict: a tensor of any layout, or a module's extra state."""
    import torch

    if not isinstance(value, torch.Tensor):  # what `get_extra_state` of some module gave
        content = value.getvalue() if hasattr(value, "getvalue") else value
        return bytes(content) if isinstance(content, bytes | bytearray) else repr(content).encode()
    if value.is_meta:
        raise UsageError(
            f"model: expected weights with values, got {name} on the device meta, as offloading to disk leaves it; "
            "load the model whole, without device_map"
        )
    tensor = value.detach()
    if hasattr(tensor, "full_tensor"):  # a DTensor, as FSDP2 shards parameters
        tensor = tensor.full_tensor()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()  # flat, since bytes of a number alone have no view


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package lies in, not of some repository that merely surrounds it."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package.parent), *arguments]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 10}
        return subprocess.run(command, check=True, **options).stdout.strip()

    try:
        if not git("ls-files", "--", "analysis/__init__.py"):
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "analysis", "toy_models")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
