"""Names of `ray._raylet` that programs import: ids, refs, generators, and that the build is optimized."""

from __future__ import annotations

from typing import Final

import spoke
from ray._private import subscribers

OPTIMIZED: Final = True

ActorClassID = spoke.ActorClassID
ActorID = spoke.ActorID
DynamicObjectRefGenerator = spoke.DynamicObjectRefGenerator
FunctionID = spoke.FunctionID
GcsErrorSubscriber = subscribers.GcsErrorSubscriber
GcsLogSubscriber = subscribers.GcsLogSubscriber
JobID = spoke.JobID
Language = spoke.Language
NodeID = spoke.NodeID
ObjectID = spoke.ObjectID
ObjectRef = spoke.ObjectRef
ObjectRefGenerator = spoke.ObjectRefGenerator
PlacementGroupID = spoke.PlacementGroupID
TaskID = spoke.TaskID
UniqueID = spoke.UniqueID
WorkerID = spoke.WorkerID
StreamingObjectRefGenerator = spoke.ObjectRefGenerator
