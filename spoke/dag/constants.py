"""Names of what a node holds beside its arguments: keys of `DAGNode.get_other_args_to_resolve`."""

from __future__ import annotations

from typing import Final

from spoke import absent

PARENT_CLASS_NODE_KEY: Final = "parent_class_node"  # of a method's call: the actor's handle, or its node
PREV_CLASS_METHOD_CALL_KEY: Final = "prev_class_method_call"  # the call of the same actor's node before
BIND_INDEX_KEY: Final = "bind_index"  # how many calls were bound to the handle before
IS_CLASS_METHOD_OUTPUT_KEY: Final = "is_class_method_output"  # of one of several returns
COLLECTIVE_OPERATION_KEY: Final = "collective_operation"  # of a `CollectiveOutputNode`
DAGNODE_TYPE_KEY: Final = "__dag_node_type__"

__getattr__ = absent.getter(__name__)
