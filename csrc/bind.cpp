// The Python module spoke._native: with bind_verbs.cpp the only file that knows Python.
//
// Rules: everything that can wait or copies much runs without the GIL; no lock of ours is held
// while the GIL is taken; no native object keeps a reference to a Python object.
#include <Python.h>
#include <structmember.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arena.h"
#include "bind_message.h"
#include "bind_verbs.h"
#include "reactor.h"
#include "ring.h"
#include "segment.h"
#include "spawn.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using spoke::Batch;
using spoke::Event;
using spoke::EventKind;
using spoke::Piece;
using spoke::Reactor;
using spoke::Ring;
using spoke::Segment;
using spoke::SegmentView;

constexpr size_t kHoldGil = 64 * 1024;  // copies up to this many bytes cost less than giving the GIL away

// A received payload; the memory is its own.
struct NativeBuffer {
    std::unique_ptr<spoke::RawBuffer> bytes;
    size_t size;
};

// The buffers of one argument: None, one object, or a list or tuple of objects.
class Buffers {
  public:
    explicit Buffers(nb::handle source) {
        try {
            if (source.is_none()) return;
            if (PyList_Check(source.ptr()) || PyTuple_Check(source.ptr())) {
                views_.reserve(nb::len(source));
                for (nb::handle item : source) add(item);
            } else {
                add(source);
            }
        } catch (...) {
            release();
            throw;
        }
    }
    ~Buffers() { release(); }
    Buffers(const Buffers&) = delete;
    Buffers& operator=(const Buffers&) = delete;

    const std::vector<Piece>& pieces() const noexcept { return pieces_; }
    size_t bytes() const noexcept { return bytes_; }

  private:
    void add(nb::handle item) {
        Py_buffer view;
        if (PyObject_GetBuffer(item.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
        views_.push_back(view);
        if (view.len == 0) return;
        pieces_.emplace_back(static_cast<const char*>(view.buf), static_cast<size_t>(view.len));
        bytes_ += static_cast<size_t>(view.len);
    }
    void release() noexcept {
        for (Py_buffer& view : views_) PyBuffer_Release(&view);
        views_.clear();
    }

    std::vector<Py_buffer> views_;
    std::vector<Piece> pieces_;
    size_t bytes_ = 0;
};

template <typename Call>
auto without_gil(Call call) {
    const nb::gil_scoped_release released;
    return call();
}

// str, bytes or path as the operating system takes it.
std::string os_string(nb::handle value) {
    PyObject* converted = nullptr;
    if (PyUnicode_FSConverter(value.ptr(), &converted) == 0) throw nb::python_error();
    const nb::bytes owned = nb::steal<nb::bytes>(converted);
    return {owned.c_str(), owned.size()};
}

nb::object none_or(const std::optional<uid_t>& value) {
    return value ? nb::object(nb::int_(*value)) : nb::object(nb::none());
}

// -- reactor

nb::object make_bytes(const char* data, size_t size) {
    PyObject* made = PyBytes_FromStringAndSize(data, static_cast<Py_ssize_t>(size));
    if (made == nullptr) throw nb::python_error();
    return nb::steal(made);
}

nb::object payload_of(Event& event, const Batch& batch) {
    switch (event.kind) {
        case EventKind::kFrame:
            if (event.large) return nb::cast(NativeBuffer{std::move(event.large), event.payload_size});
            return make_bytes(batch.bytes.data() + event.payload_offset, event.payload_size);
        case EventKind::kAccepted:
            return nb::int_(event.listener);
        default:
            return nb::none();
    }
}

nb::list to_list(Batch& batch) {
    nb::list result = nb::steal<nb::list>(PyList_New(static_cast<Py_ssize_t>(batch.events.size())));
    if (!result.is_valid()) throw nb::python_error();
    Py_ssize_t index = 0;
    for (Event& event : batch.events) {
        nb::object payload = payload_of(event, batch);
        nb::object meta = make_bytes(batch.bytes.data() + event.meta_offset, event.meta_size);
        nb::object kind = nb::int_(static_cast<int>(event.kind));
        nb::object id = nb::int_(event.id);
        PyObject* entry = PyTuple_New(4);
        if (entry == nullptr) throw nb::python_error();
        PyTuple_SET_ITEM(entry, 0, kind.release().ptr());
        PyTuple_SET_ITEM(entry, 1, id.release().ptr());
        PyTuple_SET_ITEM(entry, 2, meta.release().ptr());
        PyTuple_SET_ITEM(entry, 3, payload.release().ptr());
        PyList_SET_ITEM(result.ptr(), index++, entry);
    }
    return result;
}

nb::list poll(Reactor& reactor, int64_t timeout_us, int64_t spin_us) {
    // Making Python objects can run the collector, and that a finalizer that polls: the batch is
    // taken out of its place while it is in use.
    static thread_local std::unique_ptr<Batch> place;
    std::unique_ptr<Batch> batch = place ? std::move(place) : std::make_unique<Batch>();
    batch->clear();
    const bool whole = without_gil([&] { return reactor.poll(*batch, timeout_us, spin_us); });
    if (!whole && batch->events.empty() && PyErr_CheckSignals() != 0) throw nb::python_error();
    nb::list result = to_list(*batch);
    place = std::move(batch);
    return result;
}

int64_t send(Reactor& reactor, int conn, const nb::bytes& meta, nb::handle payload, int fd, bool hold) {
    const Piece head(meta.c_str(), meta.size());
    if (payload.is_none()) {
        if (const auto left = reactor.send(conn, head, {}, fd, false, hold)) return *left;
        return without_gil([&] { return *reactor.send(conn, head, {}, fd, true, hold); });
    }
    const Buffers buffers(payload);
    if (buffers.bytes() + head.size() <= kHoldGil)
        if (const auto left = reactor.send(conn, head, buffers.pieces(), fd, false)) return *left;
    return without_gil([&] { return *reactor.send(conn, head, buffers.pieces(), fd, true); });
}

std::string name_of(const nb::bytes& name) { return {name.c_str(), name.size()}; }

struct RingHandle : TunnelHandle {
    explicit RingHandle(std::shared_ptr<Ring> ring) { it = std::move(ring); }
    Ring& ring() { return *it->ring(); }
};

void bind_ring(nb::module_& module) {
    nb::class_<TunnelHandle>(module, "Tunnel");
    nb::class_<RingHandle, TunnelHandle>(module, "Ring")
        .def("__init__", [](RingHandle* self) { new (self) RingHandle(std::make_shared<Ring>()); })
        .def_static("join", [](int memory, int bell_out, int bell_in) {
                spoke::UniqueFd fds[Ring::kFds] = {spoke::UniqueFd(memory), spoke::UniqueFd(bell_out), spoke::UniqueFd(bell_in)};
                return RingHandle(std::make_shared<Ring>(fds));
            }, "memory"_a, "bell_out"_a, "bell_in"_a)
        .def_prop_ro("fds", [](RingHandle& self) {
            return nb::make_tuple(self.ring().fd_to_pass(0), self.ring().fd_to_pass(1), self.ring().fd_to_pass(2));
        })
        .def_prop_ro("sent", [](RingHandle& self) { return self.ring().sent(); })
        .def("passed", [](RingHandle& self) { self.ring().passed(); });
}

void bind_reactor(nb::module_& module) {
    nb::class_<Reactor>(module, "Reactor")
        .def(nb::init<>())
        .def("listen_unix",
             [](Reactor& self, const nb::bytes& name) { return self.listen_unix(name_of(name)); }, "name"_a)
        .def("listen_tcp", [](Reactor& self, const std::string& host, int port) {
                return without_gil([&] { return self.listen_tcp(host, port); });
            }, "host"_a, "port"_a)
        .def("connect_unix", [](Reactor& self, const nb::bytes& bytes) {
                const std::string name = name_of(bytes);
                return without_gil([&] { return self.connect_unix(name); });
            }, "name"_a)
        .def("connect_tcp", [](Reactor& self, const std::string& host, int port, double timeout_s) {
                return without_gil([&] { return self.connect_tcp(host, port, timeout_s); });
            }, "host"_a, "port"_a, "timeout_s"_a)
        .def("adopt", [](Reactor& self, int fd) { return self.adopt(spoke::UniqueFd(fd)); }, "fd"_a)
        .def("watch", &Reactor::watch, "fd"_a)
        .def("unwatch", &Reactor::unwatch, "id"_a)
        .def("close", &Reactor::close, "conn"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("close_all", &Reactor::close_all, nb::call_guard<nb::gil_scoped_release>())
        .def("send", &send, "conn"_a, "meta"_a, "payload"_a.none() = nb::none(), "fd"_a = -1,
             "hold"_a = false)
        .def("flush", &Reactor::flush, "conn"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("poll", &poll, "timeout_us"_a, "spin_us"_a = 0)
        .def("divert", [](Reactor& self, int conn, TunnelHandle& tunnel, const nb::bytes& last) {
                self.divert(conn, tunnel.it, Piece(last.c_str(), last.size()));
            }, "conn"_a, "tunnel"_a, "last"_a = nb::bytes("", 0))
        .def("receive_from", [](Reactor& self, int conn, TunnelHandle& tunnel) { self.receive_from(conn, tunnel.it); },
             "conn"_a, "tunnel"_a)
        .def("report_busy", &Reactor::report_busy, "conn"_a, "frames"_a)
        .def("take_fd", &Reactor::take_fd, "conn"_a)
        .def("wake", &Reactor::wake)
        .def("set_limit", &Reactor::set_limit, "conn"_a, "max_frame_bytes"_a)
        .def("queued", &Reactor::queued, "conn"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("peer_uid", [](Reactor& self, int conn) { return none_or(self.peer_uid(conn)); }, "conn"_a);
}

// -- buffers

int fill_native_buffer(PyObject* self, Py_buffer* view, int flags) {
    const NativeBuffer& buffer = *nb::inst_ptr<NativeBuffer>(self);
    return PyBuffer_FillInfo(view, self, buffer.bytes->data(), static_cast<Py_ssize_t>(buffer.size), 1, flags);
}

int fill_segment_view(PyObject* self, Py_buffer* view, int flags) {
    const SegmentView& part = *nb::inst_ptr<SegmentView>(self);
    return PyBuffer_FillInfo(view, self, part.data, static_cast<Py_ssize_t>(part.length), part.writable ? 0 : 1, flags);
}

int fill_private_view(PyObject* self, Py_buffer* view, int flags) {
    const auto& part = *nb::inst_ptr<spoke::PrivateView>(self);
    return PyBuffer_FillInfo(view, self, part.data(), static_cast<Py_ssize_t>(part.length()), 0, flags);
}

uintptr_t buffer_address(nb::handle source) {
    Py_buffer view;
    if (PyObject_GetBuffer(source.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
    const auto address = reinterpret_cast<uintptr_t>(view.buf);
    PyBuffer_Release(&view);
    return address;
}

// What is wrong with a list of refs: 0 nothing, 1 an item of another type, 2 the same object twice.
// `slot` is the member descriptor of the attribute that two refs to one object share.
int check_refs(const nb::list& refs, nb::handle type, nb::handle slot) {
    const auto offset = reinterpret_cast<PyMemberDescrObject*>(slot.ptr())->d_member->offset;
    const auto count = static_cast<size_t>(PyList_GET_SIZE(refs.ptr()));
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    std::vector<void*> seen(size, nullptr);
    for (size_t index = 0; index < count; ++index) {
        PyObject* ref = PyList_GET_ITEM(refs.ptr(), static_cast<Py_ssize_t>(index));
        if (reinterpret_cast<PyObject*>(Py_TYPE(ref)) != type.ptr()) return 1;
        void* entry = *reinterpret_cast<void**>(reinterpret_cast<char*>(ref) + offset);
        size_t place = (reinterpret_cast<uintptr_t>(entry) >> 4) * 0x9E3779B97F4A7C15u >> 20 & (size - 1);
        while (seen[place] != nullptr) {
            if (seen[place] == entry) return 2;
            place = (place + 1) & (size - 1);
        }
        seen[place] = entry;
    }
    return 0;
}

PyType_Slot private_view_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&fill_private_view)}, {0, nullptr}};
PyType_Slot native_buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&fill_native_buffer)}, {0, nullptr}};
PyType_Slot segment_view_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&fill_segment_view)}, {0, nullptr}};

uint64_t write(const Segment& segment, uint64_t offset, nb::handle source) {
    const Buffers buffers(source);
    if (buffers.bytes() <= kHoldGil) return segment.write(offset, buffers.pieces());
    return without_gil([&] { return segment.write(offset, buffers.pieces()); });
}

SegmentView view(const Segment& segment, uint64_t offset, uint64_t length, bool writable) {
    const auto& mapping = segment.mapping();
    if (writable && !mapping->writable()) throw spoke::SysError(EACCES, "a writable view of a read-only segment");
    return SegmentView{mapping, mapping->at(offset, length), length, writable};
}

void bind_memory(nb::module_& module) {
    nb::class_<NativeBuffer>(module, "NativeBuffer", nb::type_slots(native_buffer_slots))
        .def("__len__", [](const NativeBuffer& self) { return self.size; })
        .def_prop_ro("address",
                     [](const NativeBuffer& self) { return reinterpret_cast<uintptr_t>(self.bytes->data()); });
    nb::class_<spoke::PrivateView>(module, "PrivateView", nb::type_slots(private_view_slots),
                                   nb::is_weak_referenceable())
        .def("__len__", &spoke::PrivateView::length);
    nb::class_<SegmentView>(module, "SegmentView", nb::type_slots(segment_view_slots), nb::is_weak_referenceable())
        .def("__len__", [](const SegmentView& self) { return self.length; })
        .def("private", [](const SegmentView& self) { return spoke::PrivateView(self); })
        .def_prop_ro("address", [](const SegmentView& self) { return reinterpret_cast<uintptr_t>(self.data); });
    nb::class_<Segment>(module, "Segment")
        .def_static("create", &Segment::create, "name"_a, "size"_a)
        .def_static("map", &Segment::map, "fd"_a, "size"_a, "writable"_a)
        .def_prop_ro("fd", [](const Segment& self) { return self.mapping()->fd(); })
        .def_prop_ro("size", [](const Segment& self) { return self.mapping()->size(); })
        .def_prop_ro("address", [](const Segment& self) { return reinterpret_cast<uintptr_t>(self.mapping()->data()); })
        .def("view", &view, "offset"_a, "length"_a, "writable"_a = false)
        .def("write", &write, "offset"_a, "buffers"_a)
        .def("populate", &Segment::populate, "offset"_a, "length"_a, nb::call_guard<nb::gil_scoped_release>());
    nb::class_<spoke::Arena>(module, "Arena")
        .def(nb::init<uint64_t>(), "size"_a)
        .def("alloc", &spoke::Arena::alloc, "n"_a, "alignment"_a = spoke::Arena::kGrain)
        .def("free", &spoke::Arena::free, "offset"_a)
        .def_prop_ro("size", &spoke::Arena::size)
        .def_prop_ro("used", &spoke::Arena::used)
        .def_prop_ro("blocks", &spoke::Arena::blocks)
        .def_prop_ro("largest_free", &spoke::Arena::largest_free);
    module.def("check_refs", &check_refs, "refs"_a, "type"_a, "slot"_a);
    module.def("buffer_address", &buffer_address, "buffer"_a);
    module.def("memcpy_rate", &spoke::memcpy_rate, "bytes"_a, nb::call_guard<nb::gil_scoped_release>());
}

// -- processes

std::pair<int, int> spawn(const nb::list& argv, const nb::dict& env, nb::handle cwd, const nb::list& fds,
                          int death_signal, bool new_process_group) {
    spoke::SpawnRequest request;
    for (nb::handle item : argv) request.argv.push_back(os_string(item));
    for (const auto& [name, value] : env) request.env.push_back(os_string(name) + "=" + os_string(value));
    if (!cwd.is_none()) request.cwd = os_string(cwd);
    for (nb::handle item : fds) request.fds.push_back(nb::cast<std::pair<int, int>>(item));
    request.death_signal = death_signal;
    request.new_process_group = new_process_group;
    spoke::Child child = without_gil([&] { return spoke::spawn(request); });
    return {child.pid, child.pidfd.release()};
}

pid_t fork_sibling() {
    pid_t pid = -1;
    PyOS_BeforeFork();
    try {
        pid = spoke::fork_sibling();
    } catch (...) {
        PyOS_AfterFork_Parent();
        throw;
    }
    if (pid == 0)
        PyOS_AfterFork_Child();
    else
        PyOS_AfterFork_Parent();
    return pid;
}

nb::object reap(int pidfd) {
    const auto status = spoke::reap(pidfd);
    if (!status) return nb::none();
    if (status->signal != 0) return nb::make_tuple(nb::none(), status->signal);
    return nb::make_tuple(status->code, 0);
}

void bind_processes(nb::module_& module) {
    module.def("spawn", &spawn, "argv"_a, "env"_a, "cwd"_a.none(), "fds"_a, "death_signal"_a, "new_process_group"_a);
    module.def("fork_sibling", &fork_sibling);
    module.def("reap", &reap, "pidfd"_a);
    module.def("become_subreaper", &spoke::become_subreaper);
    module.def("set_death_signal", &spoke::set_death_signal, "signal"_a);
    module.def("show_title", [](nb::handle title) {
        Py_ssize_t size = 0;
        const char* text = PyUnicode_AsUTF8AndSize(title.ptr(), &size);
        if (text == nullptr) PyErr_Clear();  // a title is not worth the call
        else spoke::show_title({text, static_cast<size_t>(size)});
    }, "title"_a);
    module.def("set_title", [](nb::handle title) { spoke::set_title(os_string(title)); }, "title"_a);
}

}  // namespace

NB_MODULE(_native, module) {
    // A program that ends with daemon threads, or as a fork of one, always has such "leaks".
    nb::set_leak_warnings(false);
    nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
        try {
            std::rethrow_exception(pointer);
        } catch (const spoke::SysError& error) {
            if (PyObject* value = Py_BuildValue("(is)", error.code(), error.what())) {
                PyErr_SetObject(PyExc_OSError, value);
                Py_DECREF(value);
            }
        }
    });
    bind_reactor(module);
    bind_ring(module);
    bind_memory(module);
    bind_processes(module);
    bind_message(module);
    bind_verbs(module);
}
