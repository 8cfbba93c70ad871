"""``python -m spoke``: the command line."""

from __future__ import annotations

from spoke.cli import main

if __name__ == "__main__":
    main()
