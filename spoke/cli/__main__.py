"""``python -m spoke.cli``: the same as ``spoke``."""

from __future__ import annotations

from spoke.cli import main

main(prog_name="spoke")
