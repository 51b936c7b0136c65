// Batch normalization of plain float32 (batch, channels, height, width), vectorized; oneDNN's kernel for it is not.
#pragma once

#include <initializer_list>
#include <memory>

#include "kernel.h"

namespace rp2k {

// Return the kernel for a batch norm of oneDNN's arguments, or null where it is another one than MindSpore's.
//
// flags: `onednn::NormFlag`.  is_backward: gradients of all parameters.
// tensors: all of the source's shape.
std::shared_ptr<const Kernel> make_batch_norm(
    std::initializer_list<const_dnnl_memory_desc_t> tensors, float epsilon, unsigned flags, bool is_backward);

}  // namespace rp2k
