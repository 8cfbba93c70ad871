"""`ray.runtime_env`: Spoke's; a package here, as programs import from the module below it, too."""

from __future__ import annotations

import sys

from ray_compat import mirror

mirror.become(sys.modules[__name__])
