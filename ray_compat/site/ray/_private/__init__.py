"""The private corners of Ray that known programs reach into, on Spoke's public functions."""
