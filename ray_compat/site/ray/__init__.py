"""Spoke under the name ``ray``; see `ray_compat`."""

from __future__ import annotations

import os
import sys

# Where only this folder is on the search path, the packages it belongs to are found beside it.
_site = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_root = os.path.dirname(os.path.dirname(_site))
if _root not in sys.path:
    sys.path.insert(sys.path.index(_site) + 1 if _site in sys.path else 0, _root)

from ray_compat import mirror  # noqa: E402

mirror.serve(sys.modules[__name__])
