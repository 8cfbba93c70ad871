"""Real clients of Ray, unchanged, on Spoke: a stage of its own, ``python -m pytest tests/clients``."""
