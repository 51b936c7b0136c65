// Copies of float32 tensors between MindSpore's plain layouts and those that oneDNN chose.
#pragma once

#include <memory>

#include "onednn.h"

namespace rp2k {

class Reorder {
  public:
    virtual ~Reorder() = default;

    // Copy between the plain and the inner tensor, in the direction that `make_reorder` was told.
    virtual dnnl_status_t run(dnnl_stream_t, dnnl_memory_t plain, dnnl_memory_t inner) const = 0;
};

// Return the copy of a tensor from `plain` to `inner`, or back.  Null: there is none.
std::unique_ptr<Reorder> make_reorder(
    const_dnnl_memory_desc_t plain, const_dnnl_memory_desc_t inner, bool to_inner, dnnl_engine_t);

}  // namespace rp2k
