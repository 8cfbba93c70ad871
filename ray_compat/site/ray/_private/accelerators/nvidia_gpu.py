"""Names of `ray._private.accelerators.nvidia_gpu`."""

from __future__ import annotations

from typing import Final

from ray._private import accelerators as _accelerators

CUDA_VISIBLE_DEVICES_ENV_VAR: Final = "CUDA_VISIBLE_DEVICES"
NOSET_CUDA_VISIBLE_DEVICES_ENV_VAR: Final = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
NvidiaGPUAcceleratorManager = _accelerators.NvidiaGPUAcceleratorManager
