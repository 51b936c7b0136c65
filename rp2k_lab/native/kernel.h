// What this library does in place of one of oneDNN's primitives.
#pragma once

#include "onednn.h"

namespace rp2k {

class Kernel {
  public:
    virtual ~Kernel() = default;

    // Do the primitive's work on arguments in MindSpore's plain layouts.
    virtual dnnl_status_t execute(
        const_dnnl_primitive_t, dnnl_stream_t, int count, const dnnl_exec_arg_t *arguments) const = 0;
};

}  // namespace rp2k
