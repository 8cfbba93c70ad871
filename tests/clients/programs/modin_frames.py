"""modin on Ray: a CSV read, grouped, merged and mapped, compared with pandas."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Entry of the program; its argument is a folder for the CSV."""
    os.environ["MODIN_ENGINE"] = "ray"
    import ray

    ray.init(num_cpus=2, object_store_memory=500_000_000, log_to_driver=False)
    import modin.pandas as frames
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    size = 5000
    path = os.path.join(sys.argv[1], "rows.csv")
    columns: Any = {
        "k": random.integers(0, 20, size), "a": random.random(size), "b": random.integers(0, 100, size)
    }  # fmt: skip
    pd.DataFrame(columns).to_csv(path, index=False)
    names: Any = {"k": range(20), "name": [f"n{index}" for index in range(20)]}

    seen: dict[str, Any] = {"engine": ray.__file__}
    results = []
    for library in (pd, frames):
        rows: Any = library.read_csv(path)
        results.append(
            {
                "read_csv": rows,
                "groupby": rows.groupby("k").agg({"a": "sum", "b": "max"}),
                "merge": rows.merge(library.DataFrame(names), on="k"),
                "apply": rows.apply(lambda row: row["a"] + row["b"], axis=1),
                "map": rows["a"].apply(lambda value: value * 2),
            }
        )
    wanted, found = results
    for name, frame in found.items():
        plain = frame._to_pandas()
        check = pd.testing.assert_frame_equal if plain.ndim == 2 else pd.testing.assert_series_equal
        check(plain, wanted[name])
        seen[name] = "equal"
    print("\n@result " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
