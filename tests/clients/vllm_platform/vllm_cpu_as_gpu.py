"""A plug-in of vLLM: its CPU platform, with resources that a Ray executor can ask for.

vLLM refuses Ray on a CPU since the platform names no resource; the cluster declares fake GPUs.
"""

from __future__ import annotations

from typing import Any


def register() -> str:
    """The platform's class, as vLLM's plug-in interface wants it: by name."""
    return "vllm_cpu_as_gpu.Platform"


def __getattr__(name: str) -> Any:
    if name != "Platform":
        raise AttributeError(name)
    from vllm.platforms.cpu import CpuPlatform

    body = {
        "ray_device_key": "GPU",
        "ray_noset_device_env_vars": ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"],
        "__module__": __name__,
    }
    made = globals()["Platform"] = type("Platform", (CpuPlatform,), body)
    return made
