"""joblib's ray backend: plain functions, closures, arrays, an exception."""

from __future__ import annotations

import json
from typing import Any


def refuse(value: int) -> int:
    """Raises."""
    raise KeyError(value)


def main() -> None:
    """Entry of the program."""
    import joblib
    import numpy as np
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    factor = 3
    seen: dict[str, Any] = {"engine": ray.__file__}
    with joblib.parallel_backend("ray"):
        run = joblib.Parallel(n_jobs=2)
        seen["powers"] = run(joblib.delayed(pow)(index, 2) for index in range(100))
        seen["closure"] = run(joblib.delayed(lambda value: value * factor)(index) for index in range(5))
        arrays = run(joblib.delayed(np.full)(1000, index) for index in range(3))
        seen["arrays"] = [float(array.sum()) for array in arrays]
        try:
            run(joblib.delayed(refuse)(index) for index in range(2))
        except KeyError as error:
            seen["error"] = type(error).__name__
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
