"""Names of `ray._private.label_utils`: the form of labels and of selectors by them."""

from __future__ import annotations

from spoke import labels as _labels

parse_node_labels_string = _labels.parse_text
parse_node_labels_json = _labels.parse_json
parse_node_labels_from_yaml_file = _labels.parse_yaml_file
validate_node_labels = _labels.check_not_reserved
validate_node_label_syntax = _labels.check_node_labels
validate_label_key = _labels.key_problem
validate_label_selector = _labels.selector_problem
validate_label_selector_value = _labels.condition_problem
validate_fallback_strategy = _labels.fallback_problem


def validate_label_value(value: str) -> None:
    """Check the value of a node's label.

    Raises:
        ValueError: it is of another form.
    """
    problem = _labels.value_problem(value)
    if problem:
        raise ValueError(problem)
