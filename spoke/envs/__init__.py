"""Runtime environments: from what a user names to what a worker starts with.

- `ignores`: which files of a directory belong to its package.
- `packages`: directories as zip files named by their content, and back.
- `upload`: at the driver, local paths become URIs of packages that the hub keeps.
- `parts`: what a node must make for an environment, each part once per content.
- `keeper`: at the agent, makes parts by helper processes, keeps them, removes those used longest ago.
- `prepare`, `installers`: the helper process.
- `entering`: at the worker, search path, interpreter, setup hook.
"""
