// Plain JPEG files, decoded by a libjpeg-turbo that is there anyway.
#pragma once

#include <cstdint>

#include "resize.h"

namespace rp2k::jpeg {

// Load the library; nullptr when it works, else the reason.
const char *load(const char *path);

// The largest file [bytes] and decoded image [pixels] that are read here: with more, Python's lock costs nothing.
constexpr int64_t MOST_BYTES = 1 << 22, MOST_PIXELS = 1 << 22;

struct Frame {
    int height = 0, width = 0;  // 0: no plain JPEG
};

// The size of an upright JPEG of 8 bits, gray or with the usual subsampling of colors.
Frame frame_of(const uint8_t *data, int64_t size);

// Decode at 1/`reduction` (1, 2, 4 or 8) of the size, into rows without gaps; false where anything in it is unusual.
bool decode(const uint8_t *data, int64_t size, int reduction, Target target);

}  // namespace rp2k::jpeg
