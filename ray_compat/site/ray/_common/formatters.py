"""Names of `ray._common.formatters`."""

from __future__ import annotations

from spoke.structuredlogs import AbstractFormatter as AbstractFormatter
from spoke.structuredlogs import JSONFormatter as JSONFormatter
from spoke.structuredlogs import TextFormatter as TextFormatter
