"""Ray's module names on Spoke: `import ray` unchanged."""
