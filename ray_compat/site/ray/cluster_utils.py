"""`ray.cluster_utils`: Spoke's, and the name of a cluster that fixtures import and seldom use."""

from __future__ import annotations

import sys

from ray_compat import mirror
from ray_compat.refusing import refused

AutoscalingCluster = refused(
    f"{__name__}.AutoscalingCluster", "there is no autoscaler; use Cluster.add_node and remove_node"
)
mirror.become(sys.modules[__name__])
