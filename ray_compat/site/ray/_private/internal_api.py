"""Names of `ray._private.internal_api`."""

from __future__ import annotations

from spoke.internal import free as free
