"""Names of `ray.cloudpickle`: the cloudpickle package, under the name that Ray programs use."""

from __future__ import annotations

from pickle import PicklingError
from typing import Any

from cloudpickle import *  # noqa: F403
from cloudpickle import CloudPickler as CloudPickler
from cloudpickle import Pickler as Pickler
from cloudpickle import dump as dump
from cloudpickle import dumps as dumps
from cloudpickle import load as load
from cloudpickle import loads as loads
from cloudpickle import register_pickle_by_value as register_pickle_by_value
from cloudpickle import unregister_pickle_by_value as unregister_pickle_by_value

from spoke import absent
from spoke.codec import explain_unpicklable


def __getattr__(name: str) -> Any:
    # What Ray's module has by a wildcard import of cloudpickle's own module.
    import cloudpickle.cloudpickle

    try:
        return getattr(cloudpickle.cloudpickle, name)
    except AttributeError:
        return absent.resolve(__name__, name)


def dumps_debug(obj: Any, *args: Any, **kwargs: Any) -> bytes:
    """As `dumps`; an error says what in the value cannot be pickled.

    Raises:
        TypeError: it cannot be pickled.
    """
    try:
        return bytes(dumps(obj, *args, **kwargs))
    except (TypeError, PicklingError) as error:
        raise TypeError(explain_unpicklable(obj, error)) from error


def dump_debug(obj: Any, *args: Any, **kwargs: Any) -> None:
    """As `dump`; an error says what in the value cannot be pickled.

    Raises:
        TypeError: it cannot be pickled.
    """
    try:
        dump(obj, *args, **kwargs)
    except (TypeError, PicklingError) as error:
        raise TypeError(explain_unpicklable(obj, error)) from error
