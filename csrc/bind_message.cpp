// Messages as Python objects: the common case of `spoke.wire.decode` in one step.
//
// Rules: what is not exactly one plain message of the table is None, and the caller looks closer;
// no Python object outlives the call but the result.
#include <Python.h>
#include <nanobind/nanobind.h>

#include "bind_message.h"
#include "message.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using spoke::Token;
using spoke::TokenKind;
using spoke::TokenReader;

constexpr int kDepth = 32;  // deeper ones go the long way

PyObject* build(TokenReader& reader, int depth);

PyObject* build_list(TokenReader& reader, uint64_t size, int depth) {
    PyObject* list = PyList_New(static_cast<Py_ssize_t>(size));
    for (uint64_t i = 0; list != nullptr && i < size; ++i) {
        PyObject* item = build(reader, depth + 1);
        if (item == nullptr) Py_CLEAR(list);
        else PyList_SET_ITEM(list, static_cast<Py_ssize_t>(i), item);
    }
    return list;
}

PyObject* build_dict(TokenReader& reader, uint64_t size, int depth) {
    PyObject* dict = PyDict_New();
    for (uint64_t i = 0; dict != nullptr && i < size; ++i) {
        PyObject* key = build(reader, depth + 1);
        PyObject* value = key == nullptr ? nullptr : build(reader, depth + 1);
        if (value == nullptr || PyDict_SetItem(dict, key, value) != 0) Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return dict;
}

// One value; null, with or without a Python error, where there is none.
PyObject* build(TokenReader& reader, int depth) {
    Token token;
    if (depth > kDepth || !reader.next(token)) return nullptr;
    const auto size = static_cast<Py_ssize_t>(token.size);
    switch (token.kind) {
        case TokenKind::kNil: Py_RETURN_NONE;
        case TokenKind::kBool: return PyBool_FromLong(static_cast<long>(token.number));
        case TokenKind::kInt: return PyLong_FromLongLong(token.number);
        case TokenKind::kUint: return PyLong_FromUnsignedLongLong(token.size);
        case TokenKind::kFloat: return PyFloat_FromDouble(token.real);
        case TokenKind::kText: return PyUnicode_DecodeUTF8(token.data, size, nullptr);
        case TokenKind::kBytes: return PyBytes_FromStringAndSize(token.data, size);
        case TokenKind::kArray: return build_list(reader, token.size, depth);
        case TokenKind::kMap: return build_dict(reader, token.size, depth);
    }
    return nullptr;
}

bool allowed(PyObject* value, PyObject* types) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types); ++i) {
        PyObject* type = PyTuple_GET_ITEM(types, i);
        if (type == reinterpret_cast<PyObject*>(Py_TYPE(value))) return true;
        if (type == reinterpret_cast<PyObject*>(&PyBaseObject_Type)) return true;
    }
    return false;
}

// Whether the list is a message of the table: its kind, the number of its fields, their types.
bool fits(PyObject* message, const nb::dict& signatures) {
    if (PyList_GET_SIZE(message) == 0) return false;
    PyObject* kind = PyList_GET_ITEM(message, 0);
    if (!PyLong_CheckExact(kind)) return false;
    PyObject* signature = PyDict_GetItemWithError(signatures.ptr(), kind);
    if (signature == nullptr || PyTuple_GET_SIZE(signature) + 1 != PyList_GET_SIZE(message)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(signature); ++i)
        if (!allowed(PyList_GET_ITEM(message, i + 1), PyTuple_GET_ITEM(signature, i))) return false;
    return true;
}

nb::object decode(const nb::bytes& meta, const nb::dict& signatures) {
    const auto* begin = static_cast<const char*>(meta.data());
    // Lists only: anything else is no message.
    const bool list = meta.size() != 0 && ((static_cast<unsigned char>(*begin) & 0xf0U) == 0x90U);
    if (list) {
        TokenReader reader(begin, meta.size());
        const nb::object message = nb::steal(build(reader, 0));
        if (message.is_valid() && reader.at_end() && fits(message.ptr(), signatures)) return message;
    }
    PyErr_Clear();
    return nb::none();
}

}  // namespace

void bind_message(nb::module_& module) { module.def("decode", &decode, "meta"_a, "signatures"_a); }
