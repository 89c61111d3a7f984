"""The platform `cpu` of verl, in processes of their own: a platform is chosen once for a process."""

import os
import subprocess
import sys

from analysis.engines.verl.smoke.platform import ENVIRONMENT

PROGRAM = """
import os
import torch, verl
from verl.utils.device import get_device_name, get_device_id, get_resource_name, get_torch_device
from verl.utils.distributed import initialize_global_process_group_ray
from verl.utils.memory_utils import aggressive_empty_cache
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
print(get_device_name(), ("sample", "async") in _ROLLOUT_REGISTRY)
print(transformer_impl.CPUOffloadPolicy(pin_memory=True).pin_memory)
if get_device_name() == "cpu":
    os.environ.update(RANK="0", WORLD_SIZE="1", DIST_INIT_METHOD="file://" + os.environ["STORE"])
    initialize_global_process_group_ray(timeout_second=None)
    aggressive_empty_cache()
    get_torch_device().synchronize()
    print(get_resource_name(), torch.distributed.get_backend(), torch.zeros(1).to(get_device_id()).device)
else:
    print(initialize_global_process_group_ray.__defaults__)
"""


def _run(environment: dict[str, str]) -> list[str]:
    variables = {**os.environ, **environment, "VERL_USE_EXTERNAL_MODULES": "analysis.engines.verl"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-3:]


def test_the_platform_opens_a_gloo_group_and_pins_no_memory(tmp_path):
    assert _run({**ENVIRONMENT, "STORE": f"{tmp_path}/store"}) == ["cpu True", "False", "GPU cpu:gloo cpu"]


def test_another_platform_stays_as_it_is():
    assert _run(dict.fromkeys(ENVIRONMENT, "")) == ["cuda False", "True", "(None, None)"]
