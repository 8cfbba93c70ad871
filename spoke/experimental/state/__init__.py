"""Names of `ray.experimental.state`, the older place of `spoke.util.state`."""
