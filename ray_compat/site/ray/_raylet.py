"""Names of `ray._raylet` that programs import: ids, refs, generators, and that the build is optimized."""

from __future__ import annotations

from typing import Final

import spoke

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
