"""The command line under Ray's name."""
