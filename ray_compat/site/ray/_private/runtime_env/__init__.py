"""Names of `ray._private.runtime_env`."""
