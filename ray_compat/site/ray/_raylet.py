"""Names of `ray._raylet` that programs import: ids, refs, generators, and that the build is optimized."""

from __future__ import annotations

from typing import Final

import spoke
from ray._private import gcs_pubsub, gcs_utils

OPTIMIZED: Final = True

ActorClassID = spoke.ActorClassID
ActorID = spoke.ActorID
DynamicObjectRefGenerator = spoke.DynamicObjectRefGenerator
FunctionID = spoke.FunctionID
JobID = spoke.JobID
Language = spoke.Language
NodeID = spoke.NodeID
ObjectID = spoke.ObjectID
ObjectRef = spoke.ObjectRef
ObjectRefGenerator = spoke.ObjectRefGenerator
ObjectRefStreamEndOfStreamError = spoke.exceptions.ObjectRefStreamEndOfStreamError
PlacementGroupID = spoke.PlacementGroupID
TaskID = spoke.TaskID
UniqueID = spoke.UniqueID
WorkerID = spoke.WorkerID
StreamingObjectRefGenerator = spoke.ObjectRefGenerator

GcsClient = gcs_utils.GcsClient
GcsErrorSubscriber = gcs_pubsub.GcsErrorSubscriber
GcsLogSubscriber = gcs_pubsub.GcsLogSubscriber
RAY_NODE_ID_KEY: Final = "ray.io/node-id"  # the label of a node with its id


class Config:
    """Settings of Ray's daemons: there are none."""

    @staticmethod
    def initialize(config: str) -> None:
        """Take settings; without effect."""
