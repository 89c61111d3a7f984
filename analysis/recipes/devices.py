"""How fast a device computes and reads its memory, for estimates of time; what is peak and what is assumed is said.

Rates of GPUs are the peaks of their data sheets, dense and without sparsity; nothing here was measured on one of them.
An update is assumed to reach `_UPDATE` of the peak, which is what well-tuned training of such models reports, and a
step of sampling, which reads every weight once, `_READ` of the bandwidth. A layer is assumed to take `_LAUNCH_SECONDS`
at least, in which Python starts its kernels. The rate of a CPU core is half of what forward and backward passes of
SmolLM2-135M in float32 reach on one core (docs/how_to/train_a_real_model.md): the rest of a step is not products.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass

__all__ = ["CPU_CORE", "GPUS", "Device", "device_of"]

_UPDATE = 0.35
_READ = 0.5
_LAUNCH_SECONDS = 0.7e-3


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: as it calls itself, or "CPU core".
        flops: operations a second by the dtype of matrix products, as reached in updates.
        bytes_per_second: of its memory, as reached in sampling.
        memory: bytes of its memory; None where that is the machine's.
        launch_seconds: least time of a layer in one step of sampling.
    """

    name: str
    flops: dict[str, float]
    bytes_per_second: float
    memory: int | None
    launch_seconds: float


def _gpu(name: str, gib: int, bfloat16: float, float32: float, gb_per_second: float) -> Device:
    rates = {"bfloat16": _UPDATE * bfloat16 * 1e12, "float32": _UPDATE * float32 * 1e12}
    rates["float64"] = rates["float32"] / 2
    return Device(name, rates, _READ * gb_per_second * 1e9, gib << 30, _LAUNCH_SECONDS)


# TFLOP/s in bfloat16 and in float32 outside the tensor cores, and GB/s, of NVIDIA's data sheets.
GPUS = (
    _gpu("H200", 141, 989, 67, 4800),
    _gpu("H100", 80, 989, 67, 3350),
    _gpu("A100", 80, 312, 19.5, 2039),
    _gpu("L40S", 48, 362, 91.6, 864),
    _gpu("RTX 4090", 24, 165, 82.6, 1008),
    _gpu("A10", 24, 125, 31.2, 600),
    _gpu("L4", 24, 121, 30.3, 300),
)
CPU_CORE = Device("CPU core", {"float32": 35e9, "bfloat16": 17e9, "float64": 17e9}, 10e9, None, 0.0)


def device_of(name: str) -> Device | None:
    """The device that `device = name` of a recipe means on this machine; None for a GPU that is not in the table.

    Args:
        name: auto, cpu, cuda or cuda:N. auto is a GPU where the driver lists one.
    """
    if name == "cpu":
        return CPU_CORE
    listed = _driver_list()
    number = int(name.partition(":")[2] or 0)
    if number >= len(listed):
        return CPU_CORE if name == "auto" else None
    return next((gpu for gpu in GPUS if gpu.name in listed[number]), None)


@functools.cache
def _driver_list() -> tuple[str, ...]:
    """Names of the GPUs of this machine, as NVIDIA's driver lists them."""
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(listed.stdout.splitlines())
