"""Names of `ray._common.filters`."""

from __future__ import annotations

from spoke.structuredlogs import CoreContextFilter as CoreContextFilter
