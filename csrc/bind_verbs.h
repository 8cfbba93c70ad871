// The part of the Python module that shows the verbs engine.
#pragma once

#include <nanobind/nanobind.h>

void bind_verbs(nanobind::module_& module);
