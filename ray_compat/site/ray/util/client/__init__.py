"""`ray.util.client`: Spoke's; a package here, as fixtures import the server below it."""

from __future__ import annotations

import sys

from ray_compat import mirror

mirror.become(sys.modules[__name__])
