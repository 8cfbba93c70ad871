"""The private corners of Ray that known programs reach into, on Spoke's public functions."""

from __future__ import annotations

from ray._private import internal_api as internal_api
from ray._private import ray_constants as ray_constants
from ray._private import services as services
from ray._private import state as state
from ray._private import utils as utils
from ray._private import worker as worker
