"""Names of `ray.cloudpickle`: the cloudpickle package, under the name that Ray programs use."""

from __future__ import annotations

from cloudpickle import *  # noqa: F403
from cloudpickle import CloudPickler as CloudPickler
from cloudpickle import Pickler as Pickler
from cloudpickle import dump as dump
from cloudpickle import dumps as dumps
from cloudpickle import load as load
from cloudpickle import loads as loads
from cloudpickle import register_pickle_by_value as register_pickle_by_value
from cloudpickle import unregister_pickle_by_value as unregister_pickle_by_value
