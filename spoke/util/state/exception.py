"""Errors of the state API."""

from __future__ import annotations

from spoke import absent


class RayStateApiException(Exception):
    """A question about the cluster's state could not be answered."""


class InvalidQuery(RayStateApiException, ValueError):
    """A filter, an operator or a limit that there is not."""


class DataSourceUnavailable(RayStateApiException):
    """What would know the answer does not respond."""


class ServerUnavailable(RayStateApiException):
    """There is no cluster to ask."""


__getattr__ = absent.getter(__name__)
