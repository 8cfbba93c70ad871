// RDMA for Python: engine, regions, readers and responders (csrc/verbs_*.h).
//
// Rules: as bind.cpp.  What ends a queue pair can wait for the device, so it runs without the GIL; the
// verbs threads never take it: what Python sees are handles that share the native object, since a
// shared_ptr made from a Python object would take the GIL wherever it is dropped.
#include <Python.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "bind_verbs.h"
#include "fake_verbs.h"
#include "segment.h"
#include "verbs_pipe.h"
#include "verbs_reader.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using spoke::Engine;
using spoke::Operation;
using spoke::Reader;
using spoke::Region;
using spoke::Responder;

// What a Python object is: a share of the native one.
struct EngineHandle {
    std::shared_ptr<Engine> it;
};
struct RegionHandle {
    std::shared_ptr<Region> it;
};
struct OperationHandle {
    std::shared_ptr<Operation> it;
};

// As Python has it: the same pipe, also as what `Reactor.divert` takes.
struct PipeHandle : TunnelHandle {
    explicit PipeHandle(const std::shared_ptr<Engine>& engine) : TunnelHandle{std::make_shared<spoke::Pipe>(engine)} {}
    spoke::Pipe& pipe() { return static_cast<spoke::Pipe&>(*it); }
};

const spoke::VerbsApi& library(const std::string& name) {
    if (name == "fake") return spoke::fake_verbs();
    if (name != "system") throw spoke::SysError(EINVAL, "a verbs library is \"system\" or \"fake\", not " + name);
    std::string why;
    const spoke::VerbsApi* api = spoke::load_verbs(why);
    if (api == nullptr) throw spoke::SysError(ENODEV, why);
    return *api;
}

nb::bytes bytes_of(const std::string& text) { return nb::bytes(text.data(), text.size()); }
std::string text_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

nb::dict to_dict(const spoke::PortInfo& info) {
    nb::dict made;
    made["device"] = info.device;
    made["port"] = info.port;
    made["active"] = info.active;
    made["link_layer"] = info.ethernet ? "Ethernet" : "InfiniBand";
    made["mtu_bytes"] = info.mtu == 0 ? 0 : 128 << info.mtu;
    made["lid"] = info.lid;
    made["gid_index"] = info.gid_index;
    made["gid"] = bytes_of(std::string(reinterpret_cast<const char*>(info.gid.raw), sizeof info.gid.raw));
    made["gid_type"] = info.gid_type == spoke::ib::kGidRoceV2 ? "RoCE v2" : info.gid_type == spoke::ib::kGidRoceV1 ? "RoCE v1" : "IB";
    made["problem"] = info.problem;
    return made;
}

nb::list ports(const std::string& name) {
    const spoke::VerbsApi& api = library(name);
    std::vector<spoke::PortInfo> found;
    {
        const nb::gil_scoped_release released;
        found = spoke::scan_ports(api);
    }
    nb::list result;
    for (const spoke::PortInfo& info : found) result.append(to_dict(info));
    return result;
}

nb::list take_notices(EngineHandle& engine) {
    nb::list result;
    for (const spoke::Notice& notice : engine.it->take_notices())
        result.append(nb::make_tuple(static_cast<int>(notice.kind), notice.port, notice.text));
    return result;
}

RegionHandle register_memory(EngineHandle& engine, uint64_t address, size_t length, bool remote_read) {
    const nb::gil_scoped_release released;
    const unsigned int access = remote_read ? spoke::ib::kRemoteRead : spoke::ib::kLocalWrite;
    return {std::make_shared<Region>(engine.it->domain(), reinterpret_cast<void*>(address), length, access)};
}

// A segment of this process is read by peers and written by this process's own reads; a mapping of
// another's is read-only and is never registered.
RegionHandle register_segment(EngineHandle& engine, const spoke::Segment& segment) {
    const auto mapping = segment.mapping();
    if (!mapping->writable()) throw spoke::SysError(EACCES, "a segment that was mapped read-only cannot be registered");
    const nb::gil_scoped_release released;
    return {std::make_shared<Region>(engine.it->domain(), mapping->data(), mapping->size(),
                                     spoke::ib::kLocalWrite | spoke::ib::kRemoteRead, mapping)};
}

// Memory of a GPU, for peers to read or for this process's own reads to write, with the CUDA driver of this name.
RegionHandle register_gpu(EngineHandle& engine, uint64_t address, size_t length, const std::string& driver, bool remote_read) {
    const nb::gil_scoped_release released;
    const unsigned int access = remote_read ? spoke::ib::kRemoteRead : spoke::ib::kLocalWrite;
    return {Region::of_gpu(engine.it->domain(), spoke::load_cuda(driver), address, length, access)};
}

void settle_gpu(uint64_t address, const std::string& driver) {
    const nb::gil_scoped_release released;
    spoke::settle_writes(spoke::load_cuda(driver), address);
}

OperationHandle read_slices(Reader& reader, const nb::list& slices) {
    std::vector<spoke::Slice> list;
    list.reserve(nb::len(slices));
    for (nb::handle item : slices) {
        const auto slice = nb::cast<nb::tuple>(item);
        if (nb::len(slice) != 5) throw nb::value_error("a slice is (region, local address, remote address, rkey, length)");
        list.push_back({nb::cast<RegionHandle&>(slice[0]).it, nb::cast<uint64_t>(slice[1]), nb::cast<uint64_t>(slice[2]),
                        nb::cast<uint64_t>(slice[4]), nb::cast<uint32_t>(slice[3])});
    }
    const nb::gil_scoped_release released;
    return {reader.read(std::move(list))};
}

bool wait_for(OperationHandle& operation, double timeout_s) {
    const nb::gil_scoped_release released;
    return operation.it->wait(std::chrono::nanoseconds(static_cast<int64_t>(std::min(timeout_s, 1e9) * 1e9)));
}

}  // namespace

void bind_verbs(nb::module_& module) {
    nb::class_<RegionHandle>(module, "RdmaRegion")
        .def_prop_ro("address", [](RegionHandle& self) { return self.it->address(); })
        .def("__len__", [](RegionHandle& self) { return self.it->length(); })
        .def_prop_ro("rkey", [](RegionHandle& self) { return self.it->rkey(); })
        .def_prop_ro("way", [](RegionHandle& self) { return self.it->way(); });
    nb::class_<EngineHandle>(module, "RdmaEngine")
        .def("__init__", [](EngineHandle* self, const std::string& name, const std::string& device, int port, int gid_index) {
                const spoke::VerbsApi& api = library(name);
                const nb::gil_scoped_release released;
                new (self) EngineHandle{std::make_shared<Engine>(api, device, port, gid_index)};
            }, "library"_a, "device"_a = "", "port"_a = 0, "gid_index"_a = -1)
        .def_prop_ro("fd", [](EngineHandle& self) { return self.it->fd(); })
        .def_prop_ro("alive", [](EngineHandle& self) { return self.it->alive(); })
        .def_prop_ro("completions", [](EngineHandle& self) { return self.it->completions_seen(); })
        .def("info", [](EngineHandle& self) { return to_dict(self.it->device()->port()); })
        .def("take_notices", &take_notices)
        .def("register", &register_memory, "address"_a, "length"_a, "remote_read"_a)
        .def("register_gpu", &register_gpu, "address"_a, "length"_a, "driver"_a, "remote_read"_a)
        .def("register_segment", &register_segment, "segment"_a);
    nb::class_<OperationHandle>(module, "RdmaOperation")
        .def("wait", &wait_for, "timeout_s"_a)
        .def_prop_ro("finished", [](OperationHandle& self) { return self.it->finished(); })
        .def_prop_ro("error", [](OperationHandle& self) { return self.it->error(); });
    nb::class_<Reader>(module, "RdmaReader")
        .def("__init__", [](Reader* self, EngineHandle& engine) { new (self) Reader(engine.it); }, "engine"_a)
        .def_prop_ro("address", [](Reader& self) { return bytes_of(self.address()); })
        .def_prop_ro("number", &Reader::number)
        .def_prop_ro("usable", &Reader::usable)
        .def_prop_ro("bytes_read", &Reader::bytes_read)
        .def("connect", [](Reader& self, const nb::bytes& peer) { self.connect(text_of(peer)); }, "peer"_a)
        .def("read", &read_slices, "slices"_a)
        .def("abort", &Reader::abort, "why"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("close", &Reader::close, "why"_a, nb::call_guard<nb::gil_scoped_release>());
    nb::class_<Responder>(module, "RdmaResponder")
        .def("__init__", [](Responder* self, EngineHandle& engine) { new (self) Responder(engine.it); }, "engine"_a)
        .def_prop_ro("address", [](Responder& self) { return bytes_of(self.address()); })
        .def_prop_ro("usable", &Responder::usable)
        .def("connect", [](Responder& self, const nb::bytes& peer) { self.connect(text_of(peer)); }, "peer"_a)
        .def("close", &Responder::close, nb::call_guard<nb::gil_scoped_release>());
    nb::class_<PipeHandle, TunnelHandle>(module, "RdmaPipe")
        .def("__init__", [](PipeHandle* self, EngineHandle& engine) { new (self) PipeHandle(engine.it); }, "engine"_a)
        .def_prop_ro("address", [](PipeHandle& self) { return bytes_of(self.pipe().address()); })
        .def_prop_ro("messages", [](PipeHandle& self) { return self.pipe().messages(); })
        .def_prop_ro("failure", [](PipeHandle& self) { return self.pipe().failure(); })
        .def("connect", [](PipeHandle& self, const nb::bytes& peer) { self.pipe().connect(text_of(peer)); }, "peer"_a)
        .def("close", [](PipeHandle& self, const std::string& why) { self.pipe().close(why); }, "why"_a);
    module.def("settle_gpu", &settle_gpu, "address"_a, "driver"_a);
    module.def("rdma_ports", &ports, "library"_a);
    module.def("fake_rdma", [](const std::string& command, int64_t value) { spoke::fake_script(command, value); },
               "command"_a, "value"_a = 0, nb::call_guard<nb::gil_scoped_release>());
    module.def("fake_rdma_requests", &spoke::fake_requests);
}
