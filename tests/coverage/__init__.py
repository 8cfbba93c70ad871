"""Ray's public names beside Spoke's: what works, what is accepted and ignored, what is refused."""
