"""Differential behaviour tests: the same small programs on Ray (recorded) and on Spoke (run)."""
