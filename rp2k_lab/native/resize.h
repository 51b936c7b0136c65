// Bilinear scaling of RGB images of 8 bits, bit for bit as OpenCV's INTER_LINEAR.
#pragma once

#include <cstdint>

namespace rp2k {

// Rows of RGB pixels without gaps inside of a row; `stride` bytes from row to row.
template <typename Byte>
struct View {
    Byte *data;
    int64_t stride;
    int height, width;
};
using Image = View<const uint8_t>;
using Target = View<uint8_t>;

// Whether `resize` gives OpenCV's bits and reads inside of the image alone.  OpenCV averages areas where both sides
// shrink to half.
inline bool can_resize(int height, int width, int target_height, int target_width) {
    return height > 0 && width >= 6 && height < 2 * target_height && width < 2 * target_width;
}

struct Size {
    int32_t height, width;
};

// Scale `source` to `size`, and write the part of it from `top` and `left` on.
void resize(Image source, Size size, Target part, int top = 0, int left = 0);

}  // namespace rp2k
