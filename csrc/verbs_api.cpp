#include "verbs_api.h"

#include <dlfcn.h>

#include <mutex>

namespace spoke {
namespace {

struct Loaded {
    VerbsApi api{};
    std::string why;
    bool usable = false;
};

template <typename Function>
bool resolve(void* library, Function& place, const char* name) {
    place = reinterpret_cast<Function>(::dlsym(library, name));
    return place != nullptr;
}

bool resolve_all(void* library, VerbsApi& api, std::string& missing) {
    const auto need = [&](auto& place, const char* name) {
        if (!resolve(library, place, name) && missing.empty()) missing = name;
    };
    need(api.get_device_list, "ibv_get_device_list");
    need(api.free_device_list, "ibv_free_device_list");
    need(api.get_device_name, "ibv_get_device_name");
    need(api.open_device, "ibv_open_device");
    need(api.close_device, "ibv_close_device");
    need(api.query_device, "ibv_query_device");
    need(api.query_port, "ibv_query_port");
    need(api.query_gid_table, "_ibv_query_gid_table");
    need(api.alloc_pd, "ibv_alloc_pd");
    need(api.dealloc_pd, "ibv_dealloc_pd");
    need(api.reg_mr, "ibv_reg_mr");
    need(api.dereg_mr, "ibv_dereg_mr");
    need(api.create_comp_channel, "ibv_create_comp_channel");
    need(api.destroy_comp_channel, "ibv_destroy_comp_channel");
    need(api.create_cq, "ibv_create_cq");
    need(api.destroy_cq, "ibv_destroy_cq");
    need(api.get_cq_event, "ibv_get_cq_event");
    need(api.ack_cq_events, "ibv_ack_cq_events");
    need(api.create_qp, "ibv_create_qp");
    need(api.modify_qp, "ibv_modify_qp");
    need(api.destroy_qp, "ibv_destroy_qp");
    need(api.get_async_event, "ibv_get_async_event");
    need(api.ack_async_event, "ibv_ack_async_event");
    need(api.fork_init, "ibv_fork_init");
    need(api.wc_status_str, "ibv_wc_status_str");
    resolve(library, api.reg_mr_iova2, "ibv_reg_mr_iova2");
    resolve(library, api.reg_dmabuf_mr, "ibv_reg_dmabuf_mr");
    resolve(library, api.is_fork_initialized, "ibv_is_fork_initialized");
    return missing.empty();
}

// Before any registration: a kernel that copies pinned pages on fork needs nothing, an older one
// must be told, and then every child that touches a registered page dies of it (so nobody forks).
bool fork_safe(const VerbsApi& api) {
    if (api.is_fork_initialized != nullptr && api.is_fork_initialized() != ib::kForkDisabled) return true;
    return api.fork_init() == 0;
}

Loaded load() {
    Loaded loaded;
    // Never closed: the library keeps state of the process, and its providers are libraries too.
    void* library = ::dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* error = ::dlerror();
        loaded.why = std::string("libibverbs cannot be loaded: ") + (error != nullptr ? error : "unknown error");
        return loaded;
    }
    std::string missing;
    if (!resolve_all(library, loaded.api, missing)) {
        loaded.why = "libibverbs is too old: it has no " + missing;
    } else if (!fork_safe(loaded.api)) {
        loaded.why = "ibv_fork_init failed: memory was registered by another library before";
    } else {
        loaded.usable = true;
    }
    return loaded;
}

}  // namespace

const VerbsApi* load_verbs(std::string& why) {
    static const Loaded loaded = load();
    why = loaded.why;
    return loaded.usable ? &loaded.api : nullptr;
}

}  // namespace spoke
