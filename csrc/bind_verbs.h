// The part of the Python module that shows the verbs engine.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "tunnel.h"

// A tunnel for a connection (`Reactor.divert`), as Python has it.
struct TunnelHandle {
    std::shared_ptr<spoke::Tunnel> it;
};

void bind_verbs(nanobind::module_& module);
