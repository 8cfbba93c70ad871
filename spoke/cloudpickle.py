"""Names of `ray.cloudpickle`: the cloudpickle package, under the name that Ray programs use.

What refs it pickles name stays alive as long as this process: nobody knows how often the bytes are used.
"""

from __future__ import annotations

from collections.abc import Callable
from pickle import PicklingError
from typing import Any

import cloudpickle as _cloudpickle
from cloudpickle import *  # noqa: F403
from cloudpickle import CloudPickler as CloudPickler
from cloudpickle import Pickler as Pickler
from cloudpickle import load as load
from cloudpickle import loads as loads
from cloudpickle import register_pickle_by_value as register_pickle_by_value
from cloudpickle import unregister_pickle_by_value as unregister_pickle_by_value

from spoke import absent, codec
from spoke.codec import explain_unpicklable


def __getattr__(name: str) -> Any:
    # What Ray's module has by a wildcard import of cloudpickle's own module.
    import cloudpickle.cloudpickle

    try:
        return getattr(cloudpickle.cloudpickle, name)
    except AttributeError:
        return absent.resolve(__name__, name)


def dumps(obj: Any, protocol: int | None = None, buffer_callback: Any = None) -> bytes:
    """As cloudpickle's."""
    return bytes(_keeping(_cloudpickle.dumps, obj, protocol, buffer_callback))


def dump(obj: Any, file: Any, protocol: int | None = None, buffer_callback: Any = None) -> None:
    """As cloudpickle's."""
    _keeping(_cloudpickle.dump, obj, file, protocol, buffer_callback)


def _keeping(pickle: Callable[..., Any], *args: Any) -> Any:
    if codec.context.refs is not None:  # a value that counts what is inside is being pickled around this
        return pickle(*args)
    return codec.keeping(pickle, *args)


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
