// Depthwise convolutions of float32 arrays in plain NCHW layout, one thread, without reorders through memory.
#pragma once

namespace rp2k {

struct DepthwiseShape {  // [pixels], dilation 1; what the output reaches below and to the right of the input is zero
  long batch, channels, in_height, in_width, out_height, out_width;
  long kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
};

// Whether the processor has AVX-512 or AVX2 with FMA and the sizes are valid: positive, pads not negative.
bool depthwise_supports(const DepthwiseShape &shape);

// Each works on the channels [first_channel, last_channel) of whole arrays: input (batch, channels, in_height,
// in_width), output (batch, channels, out_height, out_width), weights (channels, 1, 1, kernel_height, kernel_width).
// A channel's bits do not depend on the range: callers may split channels over threads as they like.
void depthwise_forward(const DepthwiseShape &shape, const float *input, const float *weights, float *output,
                       int first_channel, int last_channel);
void depthwise_backward_data(const DepthwiseShape &shape, const float *output_gradient, const float *weights,
                             float *input_gradient, int first_channel, int last_channel);
void depthwise_backward_weights(const DepthwiseShape &shape, const float *input, const float *output_gradient,
                                float *weight_gradient, int first_channel, int last_channel);

}  // namespace rp2k
