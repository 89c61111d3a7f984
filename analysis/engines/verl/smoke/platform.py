"""The platform `cpu` of verl: every device is the CPU, every collective runs on gloo.

verl 0.9.1 knows CUDA, ROCm and NPU. A platform is chosen by the environment variable `VERL_PLATFORM` and asked for
everything that depends on a device. Ray counts GPUs for verl's resource pools; `ray.init(num_gpus=N)` declares N of
them on a machine that has none, so the platform keeps the resource name `GPU`. Engines are registered for `cuda`;
`VERL_ENGINE_DEVICE=cuda` makes verl look them up under that name (`ENVIRONMENT` holds both).

Importing this module registers the platform. Processes that chose it also get the rollout engine `sample`, and two
things in verl that assume an accelerator and have no option are changed there:

- the process group is opened with the backend `cpu:gloo,<device>:<backend>`, which names the CPU twice here;
- the reference model keeps its parameters in pinned memory, which needs an accelerator.

Only `strategy=fsdp2` in float32 works here: FSDP1 and autocast need a device of their own.
"""

import functools
import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

NAME = "cpu"
ENVIRONMENT = {"VERL_PLATFORM": NAME, "VERL_ENGINE_DEVICE": "cuda"}
"""What every process of a run on this platform has in its environment."""


class CpuDevice(types.ModuleType):
    """`torch.cpu` with the functions that verl expects of an accelerator; the memory of an accelerator is 0 bytes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def __eq__(self, other: object) -> bool:
        # verl leaves out what a CPU cannot tell by comparing the device module with `torch.cpu`.
        return other is torch.cpu or other is self

    def __hash__(self) -> int:
        return hash(torch.cpu)

    def empty_cache(self) -> None:
        """Do nothing: the CPU allocator has no cache to empty."""

    def memory_allocated(self, device: object = None) -> int:
        """Bytes on the accelerator: none."""
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        """Free and total bytes of the accelerator: none."""
        return 0, 0

    def manual_seed(self, seed: int) -> None:
        """Seed the CPU's generator."""
        torch.manual_seed(seed)

    def set_rng_state(self, state: torch.Tensor) -> None:
        """Set the CPU's generator, which a resumed run does twice: as the CPU's and as the device's."""
        torch.set_rng_state(state)

    def get_device_name(self, device: object = None) -> str:
        """The name that verl's table of peak rates is asked for; it holds no CPU."""
        return "CPU"


@PlatformRegistry.register(platform=NAME)
class PlatformCPU(PlatformBase):
    """verl's questions about the device, answered for a CPU."""

    device_name = NAME
    vendor_name = NAME
    device_module = CpuDevice("torch.cpu")

    def is_available(self) -> bool:
        """Whether the platform can be used: a CPU is always there."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never found by detection: only `VERL_PLATFORM=cpu` chooses it."""
        return False

    def current_device(self) -> Any:
        """What tensors are moved to. verl expects an index; a CPU has none, and torch takes its name."""
        return NAME

    def device_count(self) -> int:
        """One CPU."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Do nothing: there is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Do nothing: work on a CPU is done when the call returns."""

    def manual_seed(self, seed: int) -> None:
        """Seed the CPU's generator."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed the CPU's generator."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing: the CPU allocator has no settings."""

    def empty_cache(self) -> None:
        """Do nothing: the CPU allocator has no cache to empty."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """No compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """The backend of collectives on CPU tensors."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """The variable by which Ray tells a process its devices."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """No profiler ranges."""
        yield

    def profiler_start(self) -> None:
        """Do nothing: there is no device profiler."""

    def profiler_stop(self) -> None:
        """Do nothing: there is no device profiler."""

    def ray_resource_name(self) -> str:
        """`GPU`, so that the GPUs that `ray.init(num_gpus=N)` declares fill verl's resource pools."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """The variables that keep Ray from setting the visible devices."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """No tensors are shared between processes."""
        return False

    def cudart(self) -> None:
        """No runtime."""


def chosen() -> bool:
    """Whether this process runs on the platform `cpu`."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == NAME


def _adapt_verl() -> None:
    """Change the two places of verl that assume an accelerator (see the module's docstring)."""
    from torch.distributed.fsdp import CPUOffloadPolicy
    from verl.utils import distributed
    from verl.workers.engine.fsdp import transformer_impl

    # The default of the argument, so that modules that imported the function by name are reached too.
    distributed.initialize_global_process_group_ray.__defaults__ = (None, "cpu:gloo")
    transformer_impl.CPUOffloadPolicy = functools.partial(_unpinned, CPUOffloadPolicy)


def _unpinned(policy: type, pin_memory: bool = False) -> Any:
    return policy(pin_memory=False)


def _register_rollout_engine() -> None:
    from verl.workers.rollout import base, replica

    module = "analysis.engines.verl.smoke.rollout_engine"
    base._ROLLOUT_REGISTRY[("sample", "async")] = f"{module}.SampleAdapter"

    def replica_class() -> type:
        from .rollout_engine import SampleReplica

        return SampleReplica

    replica.RolloutReplicaRegistry.register("sample", replica_class)


if chosen():
    _register_rollout_engine()
    _adapt_verl()
