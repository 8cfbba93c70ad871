"""Spoke's programs on real Ray: a stage of its own, `.ci/engines`."""
