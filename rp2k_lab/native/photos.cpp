// What the loader does with a batch of photos outside of Python's lock.  Called by photos.py, which leaves every unusual
// photo to the loader's own libraries.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "jpeg.h"
#include "resize.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace rp2k {
namespace {

struct Size {
    int32_t height, width;
};

// A file of the image cache has one of these for each photo (dataset/image_cache.py).
struct Entry {
    uint64_t checksum;
    uint32_t height, width;
};

bool read_file(const char *path, std::vector<uint8_t> &data) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    struct stat info;
    bool is_whole = !fstat(file, &info) && S_ISREG(info.st_mode) && info.st_size <= jpeg::MOST_BYTES;
    if (is_whole) {
        data.resize(info.st_size);
        is_whole = read(file, data.data(), data.size()) == info.st_size;
    }
    close(file);
    return is_whole;
}

// As `_reduction` of dataset/image.py.
int reduction_of(jpeg::Frame frame, Size size, bool is_stretch) {
    auto needed = [&](double height, double width) {
        return is_stretch ? std::max(size.height / height, size.width / width)
                          : std::min(size.height / height, size.width / width);
    };
    const double scale = std::max(needed(frame.height, frame.width), needed(frame.width, frame.height));
    for (int reduction : {8, 4, 2})
        if (scale * reduction <= 1) return reduction;
    return 1;
}

// As `fit` of dataset/image.py.
Size fitted(Size image, Size size) {
    const double scale =
        std::min(static_cast<double>(size.height) / image.height, static_cast<double>(size.width) / image.width);
    auto side = [&](int length, int most) {
        return std::min(most, std::max(1, static_cast<int>(std::nearbyint(length * scale))));
    };
    return {side(image.height, size.height), side(image.width, size.width)};
}

Target rows(std::vector<uint8_t> &pixels, Size size) {
    pixels.resize(3 * int64_t{size.height} * size.width);
    return {pixels.data(), 3 * int64_t{size.width}, size.height, size.width};
}

// Read a JPEG into `target`, scaled to fit or to fill a size; returns the size of what it then holds, or {0, 0}.
Size read_resized(const char *path, Size size, bool is_stretch, std::vector<uint8_t> &target) {
    thread_local std::vector<uint8_t> data, pixels;  // at most 4 and 12 MB
    if (!read_file(path, data)) return {};
    const jpeg::Frame frame = jpeg::frame_of(data.data(), data.size());
    // simplejpeg takes still smaller scales of tiny images.
    if (std::min(frame.height, frame.width) < 16) return {};
    const int reduction = reduction_of(frame, size, is_stretch);
    const Size reduced{(frame.height + reduction - 1) / reduction, (frame.width + reduction - 1) / reduction};
    const Size result = is_stretch ? size : fitted(reduced, size);
    if (int64_t{reduced.height} * reduced.width > jpeg::MOST_PIXELS) return {};
    if (!can_resize(reduced.height, reduced.width, result.height, result.width)) return {};
    const Target decoded = rows(pixels, reduced);
    if (!jpeg::decode(data.data(), data.size(), reduction, decoded)) return {};
    resize({decoded.data, decoded.stride, decoded.height, decoded.width}, rows(target, result));
    return result;
}

// As `_entry` of dataset/image_cache.py.
uint64_t checksum(const uint8_t *bytes, int64_t count, const Entry &entry) {
    uint64_t sum = entry.height * 0x9E3779B97F4A7C15u + entry.width * 0xC2B2AE3D27D4EB4Fu;
    int64_t at = 0;
    for (; at + 8 <= count; at += 8) {
        uint64_t word;
        std::memcpy(&word, bytes + at, sizeof word);
        sum += word;
    }
    for (; at < count; ++at) sum += bytes[at];
    return sum;
}

// Read a slot of the image cache into `target`; returns the size of its image, or {0, 0}.
Size read_slot(int images, int entries, int64_t slot, int64_t slot_bytes, std::vector<uint8_t> &target) {
    Entry entry;
    if (pread(entries, &entry, sizeof entry, slot * sizeof entry) != sizeof entry) return {};
    if (entry.height > 0xffff || entry.width > 0xffff) return {};
    const int64_t bytes = 3 * int64_t{entry.height} * entry.width;
    if (bytes == 0 || bytes > slot_bytes) return {};
    target.resize(bytes);
    if (pread(images, target.data(), bytes, slot * slot_bytes) != bytes) return {};
    if (checksum(target.data(), bytes, entry) != entry.checksum) return {};
    return {static_cast<int>(entry.height), static_cast<int>(entry.width)};
}

// The part of an image's side inside of a crop, and its place in the target: as `_overlap` of aug/geometry.py.
struct Overlap {
    int first, length, begin, target_length;
};

Overlap overlap(int start, int length, int image_length, int target_length) {
    const int first = std::max(0, start), last = std::min(image_length, start + length);
    if (last <= first) return {};
    const double scale = static_cast<double>(target_length) / length;
    auto place = [&](int at) { return static_cast<int>(std::nearbyint((at - start) * scale)); };
    const int begin = std::min(target_length - 1, place(first));
    return {first, last - first, begin, std::max(begin + 1, place(last)) - begin};
}

// A rectangle of the canvas around an image.
struct Box {
    int32_t top, left, height, width;
};

// Scale the box to `size`, into rows without gaps; black outside of the image.
bool crop(const std::vector<uint8_t> &pixels, Size image, Size canvas, Box box, Size size, uint8_t *target) {
    const int top = box.top - (canvas.height - image.height) / 2, left = box.left - (canvas.width - image.width) / 2;
    const Overlap y = overlap(top, box.height, image.height, size.height);
    const Overlap x = overlap(left, box.width, image.width, size.width);
    if (!can_resize(y.length, x.length, y.target_length, x.target_length)) return false;
    const int64_t row = 3 * int64_t{size.width}, image_row = 3 * int64_t{image.width};
    uint8_t *first = target + row * y.begin, *end = first + row * y.target_length;
    std::memset(target, 0, first - target);
    for (uint8_t *at = first; at < end; at += row) {
        std::memset(at, 0, 3 * x.begin);
        std::memset(at + 3 * (x.begin + x.target_length), 0, row - 3 * (x.begin + x.target_length));
    }
    std::memset(end, 0, target + row * size.height - end);
    resize({pixels.data() + y.first * image_row + 3 * x.first, image_row, y.length, x.length},
           {first + 3 * x.begin, row, y.target_length, x.target_length});
    return true;
}

// As `Batch` of photos.py.
struct Batch {
    int32_t count;
    Size canvas, size;
    int32_t is_stretch;
    int32_t images, entries;  // descriptors of the image cache; -1: none
    int64_t slot_bytes;
    const int64_t *slots;
    const char *const *paths;
    const Box *boxes;
    uint8_t *targets;
    uint8_t *done;
};

bool read_crop(const Batch &batch, int i) {
    thread_local std::vector<uint8_t> pixels;
    const Size image =
        batch.images < 0
            ? read_resized(batch.paths[i], batch.canvas, batch.is_stretch, pixels)
            : read_slot(batch.images, batch.entries, batch.slots[i], batch.slot_bytes, pixels);
    const int64_t bytes = 3 * int64_t{batch.size.height} * batch.size.width;
    return image.height && crop(pixels, image, batch.canvas, batch.boxes[i], batch.size, batch.targets + i * bytes);
}

}  // namespace
}  // namespace rp2k

using namespace rp2k;

// Returns nullptr when it works, else the reason.
EXPORT const char *rp2k_native_photos_start(const char *path_of_libjpeg) {
    return __builtin_cpu_supports("avx2") ? jpeg::load(path_of_libjpeg) : "the processor has no AVX2";
}

// Read and crop each photo of a batch; `done` says of which that worked.
EXPORT void rp2k_native_read_crops(const Batch *batch) try {
    for (int i = 0; i < batch->count; ++i) batch->done[i] = read_crop(*batch, i);
} catch (const std::bad_alloc &) {  // the photos from there on are not done
}
