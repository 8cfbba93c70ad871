"""Where Ray's client server is."""
