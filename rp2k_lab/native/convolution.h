// Convolutions in the layouts that oneDNN likes best.
#pragma once

#include <functional>
#include <memory>

#include "kernel.h"

namespace rp2k {

enum class Direction { forward, backward_data, backward_weights };

// A convolution as MindSpore asks for it; descriptors of source, weights and target also stand for their gradients.
struct ConvolutionRequest {
    Direction direction;
    dnnl_engine_t engine;
    const_dnnl_memory_desc_t source, weights, bias, target;
    const int64_t *strides, *dilations, *padding_left;
    const_dnnl_primitive_attr_t attributes;
};

// Whether a convolution is a plain two-dimensional one of float32 and nothing more; others are oneDNN's affair alone.
bool is_supported(const ConvolutionRequest &);

// Calls oneDNN's function that describes the primitive, with other layouts of source, weights and target.
using Describe = std::function<dnnl_status_t(
    dnnl_primitive_desc_t *, const_dnnl_memory_desc_t, const_dnnl_memory_desc_t, const_dnnl_memory_desc_t)>;

// Describe a convolution in the layouts of a static rule, so that a shape has the same bits in every run.
//
// desc: the result, as oneDNN's function gives it.  Returns its status.  kernel: null if oneDNN's primitive does all.
dnnl_status_t describe_convolution(
    const ConvolutionRequest &, const Describe &, dnnl_primitive_desc_t *desc, std::shared_ptr<const Kernel> *kernel);

}  // namespace rp2k
