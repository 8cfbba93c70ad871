"""joblib's ``Parallel`` on a cluster: ``register_ray()``, then ``joblib.parallel_backend("ray")``."""

from __future__ import annotations

from spoke import absent

__all__ = ["register_ray"]


def register_ray() -> None:
    """Make the backend "ray" known to joblib.

    Raises:
        ImportError: joblib is not installed.
    """
    try:
        from joblib.parallel import register_parallel_backend
    except ImportError:
        raise ImportError("To use the ray backend you must install joblib: pip install joblib") from None
    from spoke.util.joblib.ray_backend import RayBackend

    register_parallel_backend("ray", RayBackend)


__getattr__ = absent.getter(__name__)
