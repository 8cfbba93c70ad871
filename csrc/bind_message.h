// See bind_message.cpp.
#pragma once

#include <nanobind/nanobind.h>

void bind_message(nanobind::module_& module);
