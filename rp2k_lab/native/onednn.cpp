#include "onednn.h"

#include <dlfcn.h>

#include <string>

namespace rp2k::onednn {

Library real;

const char *load(const char *path) {
    static std::string reason;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        reason = dlerror();
        return reason.c_str();
    }
    auto version_of = reinterpret_cast<decltype(&::dnnl_version)>(dlsym(library, "dnnl_version"));
    const dnnl_version_t *version = version_of ? version_of() : nullptr;
    if (!version || version->major != 3 || version->minor != 10) {
        const std::string found = version ? std::to_string(version->major) + "." + std::to_string(version->minor) : "none";
        reason = "written for oneDNN 3.10, MindSpore has " + found;
        return reason.c_str();
    }
#define RP2K_LOAD(name)                                                                   \
    real.name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name));               \
    if (!real.name) return "MindSpore's oneDNN has no function " #name;
    RP2K_ONEDNN_FUNCTIONS(RP2K_LOAD)
#undef RP2K_LOAD
    return nullptr;
}

float *data_of(int key, int count, const dnnl_exec_arg_t *arguments) {
    for (int i = 0; i < count; i++) {
        if (arguments[i].arg != key || !arguments[i].memory) continue;
        void *data = nullptr;
        real.dnnl_memory_get_data_handle_v2(arguments[i].memory, &data, 0);
        return static_cast<float *>(data);
    }
    return nullptr;
}

}  // namespace rp2k::onednn
