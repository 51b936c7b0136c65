// Depthwise convolutions of float32 arrays in plain NCHW layout: no reorders through memory.
#pragma once

namespace rp2k {

struct DepthwiseShape {  // pixels; dilation 1; where the output reaches over the input's edges, the input is 0
    long batch, channels, in_height, in_width, out_height, out_width;
    long kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
};

// Whether the processor has AVX-512 or AVX2 with FMA, all sizes are positive and the pads not negative.
bool depthwise_supports(const DepthwiseShape &);

// Whether forward takes less time than oneDNN's kernel with its reorders, which are cheap where the input stays in the
// second-level cache.  The gradients do at the sizes of training.  Measured with kernels of 3, 5 and 7 pixels.
bool depthwise_forward_pays(const DepthwiseShape &);

// Work on the channels [first_channel, last_channel) of whole arrays: input (batch, channels, in_height, in_width),
// output (batch, channels, out_height, out_width), weights (channels, 1, 1, kernel_height, kernel_width).
//
// A channel's bits do not depend on the range, so callers may split channels over threads: best by multiples of 16.
// Memory is kept by each thread for its next call.  Throws std::bad_alloc.
void depthwise_forward(const DepthwiseShape &, const float *input, const float *weights, float *output,
                       int first_channel, int last_channel);
void depthwise_backward_data(const DepthwiseShape &, const float *output_gradient, const float *weights,
                             float *input_gradient, int first_channel, int last_channel);
void depthwise_backward_weights(const DepthwiseShape &, const float *input, const float *output_gradient,
                                float *weight_gradient, int first_channel, int last_channel);

}  // namespace rp2k
