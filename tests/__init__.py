"""The tests; a package so that `python -m tests.conformance...` finds its own modules first."""
