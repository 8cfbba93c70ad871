"""`ray.data`, which Spoke does not carry: there for programs that import its names and never use them."""

from __future__ import annotations

from typing import Any, NoReturn

_REFUSAL = "Ray Data is not carried by Spoke: read the frames with ray.get(refs), or give the refs to tasks"


class Dataset:
    """The type of a dataset, for annotations and `isinstance`; none can be made.

    Raises:
        RuntimeError: always.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(_REFUSAL)


def _refused(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError(_REFUSAL)


from_arrow_refs = from_items = from_numpy_refs = from_pandas = from_pandas_refs = range = read_csv = (
    read_parquet
) = _refused
