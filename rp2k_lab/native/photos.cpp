// Reads and crops a batch of photos outside of Python's lock.  Called by photos.py; every unusual photo is left to the
// loader's own libraries.  The functions that follow a Python function give the same numbers.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "jpeg.h"
#include "resize.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace rp2k {
namespace {

// A rectangle of the canvas around a photo.
struct Box {
    int32_t top, left, height, width;
};

// As `_Batch` of photos.py.
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

// What the file of entries holds for each photo (dataset/image_cache.py).
struct Entry {
    uint64_t checksum;
    uint32_t height, width;
};

int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

// The part of a photo's side inside of a box, and its place in the target (`_overlap` of aug/geometry.py).
struct Overlap {
    int first, length, begin, target_length;
};

Overlap overlap(int start, int length, int photo_length, int target_length) {
    const int first = std::max(0, start), last = std::min(photo_length, start + length);
    if (last <= first) return {};
    const double scale = static_cast<double>(target_length) / length;
    const int begin = std::min(target_length - 1, rounded((first - start) * scale));
    return {first, last - first, begin, std::max(begin + 1, rounded((last - start) * scale)) - begin};
}

struct Crop {
    Overlap y, x;
    Size size;

    Crop(Size photo, Size canvas, Box box, Size size)
        : y(overlap(box.top - (canvas.height - photo.height) / 2, box.height, photo.height, size.height)),
          x(overlap(box.left - (canvas.width - photo.width) / 2, box.width, photo.width, size.width)),
          size(size) {}

    bool is_empty() const { return !y.length || !x.length; }
    bool is_possible() const { return is_empty() || can_resize(y.length, x.length, y.target_length, x.target_length); }

    // Scale the part of the photo from `part` on into rows without gaps, black outside of the photo.
    void write(const uint8_t *part, int64_t stride, uint8_t *target) const {
        const int64_t row = 3 * int64_t{size.width}, bytes = row * size.height;
        if (is_empty()) {
            std::memset(target, 0, bytes);
            return;
        }
        uint8_t *first = target + row * y.begin, *end = first + row * y.target_length;
        const int64_t left = 3 * x.begin, right = left + 3 * x.target_length;
        std::memset(target, 0, first - target);
        for (uint8_t *at = first; at < end; at += row) {
            std::memset(at, 0, left);
            std::memset(at + right, 0, row - right);
        }
        std::memset(end, 0, target + bytes - end);
        const Target place{first + left, row, y.target_length, x.target_length};
        resize({part, stride, y.length, x.length}, {place.height, place.width}, place);
    }
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

// `_reduction` of dataset/image.py.
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

// `fit` of dataset/image.py.
Size fitted(Size image, Size size) {
    const double scale =
        std::min(static_cast<double>(size.height) / image.height, static_cast<double>(size.width) / image.width);
    return {std::min(size.height, std::max(1, rounded(image.height * scale))),
            std::min(size.width, std::max(1, rounded(image.width * scale)))};
}

bool crop_file(const Batch &batch, int i, uint8_t *target) {
    thread_local std::vector<uint8_t> data, image, part;  // at most 4 MB, 12 MB and the canvas
    if (!read_file(batch.paths[i], data)) return false;
    const jpeg::Frame frame = jpeg::frame_of(data.data(), data.size());
    // simplejpeg takes still smaller scales of tiny images.
    if (std::min(frame.height, frame.width) < 16) return false;
    const int reduction = reduction_of(frame, batch.canvas, batch.is_stretch);
    const Size reduced{(frame.height + reduction - 1) / reduction, (frame.width + reduction - 1) / reduction};
    const Size photo = batch.is_stretch ? batch.canvas : fitted(reduced, batch.canvas);
    const Crop crop(photo, batch.canvas, batch.boxes[i], batch.size);
    if (int64_t{reduced.height} * reduced.width > jpeg::MOST_PIXELS || !crop.is_possible() ||
        !can_resize(reduced.height, reduced.width, photo.height, photo.width))
        return false;
    const int64_t row = 3 * int64_t{reduced.width}, part_row = 3 * int64_t{crop.x.length};
    image.resize(row * reduced.height);
    if (!jpeg::decode(data.data(), data.size(), reduction, {image.data(), row, reduced.height, reduced.width}))
        return false;
    part.resize(part_row * crop.y.length);
    if (!crop.is_empty())
        resize({image.data(), row, reduced.height, reduced.width}, {photo.height, photo.width},
               {part.data(), part_row, crop.y.length, crop.x.length}, crop.y.first, crop.x.first);
    crop.write(part.data(), part_row, target);
    return true;
}

// `_entry` of dataset/image_cache.py.
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

bool crop_slot(const Batch &batch, int i, uint8_t *target) {
    thread_local std::vector<uint8_t> image;
    Entry entry;
    const int64_t slot = batch.slots[i];
    if (pread(batch.entries, &entry, sizeof entry, slot * sizeof entry) != sizeof entry) return false;
    if (entry.height > 0xffff || entry.width > 0xffff) return false;
    const Size photo{static_cast<int>(entry.height), static_cast<int>(entry.width)};
    const int64_t row = 3 * int64_t{photo.width}, bytes = row * photo.height;
    if (bytes == 0 || bytes > batch.slot_bytes) return false;
    const Crop crop(photo, batch.canvas, batch.boxes[i], batch.size);
    if (!crop.is_possible()) return false;
    image.resize(bytes);
    if (pread(batch.images, image.data(), bytes, slot * batch.slot_bytes) != bytes) return false;
    if (checksum(image.data(), bytes, entry) != entry.checksum) return false;
    crop.write(image.data() + row * crop.y.first + 3 * crop.x.first, row, target);
    return true;
}

}  // namespace
}  // namespace rp2k

using namespace rp2k;

// Returns nullptr when it works, else the reason.
EXPORT const char *rp2k_native_photos_start(const char *path_of_libjpeg) {
    return __builtin_cpu_supports("avx2") ? jpeg::load(path_of_libjpeg) : "the processor has no AVX2";
}

// Read and crop each photo of a batch; `done`, all false before, says of which that worked.
EXPORT void rp2k_native_read_crops(const Batch *batch) try {
    const int64_t bytes = 3 * int64_t{batch->size.height} * batch->size.width;
    for (int i = 0; i < batch->count; ++i) {
        uint8_t *target = batch->targets + i * bytes;
        batch->done[i] = batch->images < 0 ? crop_file(*batch, i, target) : crop_slot(*batch, i, target);
    }
} catch (const std::bad_alloc &) {  // the photos from there on are not done
}
