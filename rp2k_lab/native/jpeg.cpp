#include "jpeg.h"

#include <dlfcn.h>

#include <csetjmp>
#include <cstddef>
#include <cstring>

namespace rp2k::jpeg {
namespace {

// The binary interface of libjpeg 6b, which libjpeg-turbo keeps.  The library compares version and size with its own.
constexpr int INTERFACE_VERSION = 62;
constexpr size_t INTERFACE_SIZE = 632;
constexpr int RGB = 2;

struct Decoder;

struct Errors {
    void (*exit)(Decoder *);
    void (*message)(Decoder *, int level);  // level -1: a warning
    void *others[3];
    int code;
    char parameters[80];
    int trace_level;
    long warnings;
    const void *tables[2][2];
};

struct Decoder {
    Errors *errors;
    void *memory, *progress, *client;
    int is_decompressor, state;
    void *source;
    unsigned width, height;
    int components, color_space, output_color_space;
    unsigned scale, scale_divisor;
    double gamma;
    int buffered, raw, dct, fancy_upsampling, block_smoothing, quantize, dither, two_pass, colors, quantizers[3];
    unsigned output_width, output_height;
    int output_components[4];
    void *colormap;
    unsigned output_row;
    char others[INTERFACE_SIZE - 172];
};
static_assert(sizeof(Decoder) == INTERFACE_SIZE && offsetof(Decoder, output_row) == 168);
static_assert(sizeof(Errors) == 168 && offsetof(Errors, warnings) == 128);

struct Library {
    Errors *(*jpeg_std_error)(Errors *);
    void (*jpeg_CreateDecompress)(Decoder *, int, size_t);
    void (*jpeg_mem_src)(Decoder *, const uint8_t *, unsigned long);
    int (*jpeg_read_header)(Decoder *, int);
    int (*jpeg_start_decompress)(Decoder *);
    unsigned (*jpeg_read_scanlines)(Decoder *, uint8_t **, unsigned);
    int (*jpeg_finish_decompress)(Decoder *);
    void (*jpeg_destroy_decompress)(Decoder *);
} library;

struct Session {
    Decoder decoder;
    Errors errors;
    std::jmp_buf stop;
};

void stop(Decoder *decoder) { std::longjmp(static_cast<Session *>(decoder->client)->stop, 1); }

void stop_at_warning(Decoder *decoder, int level) {
    if (level < 0) stop(decoder);
}

int two_bytes(const uint8_t *at) { return at[0] << 8 | at[1]; }

// Whether EXIF (TIFF from `tiff` on) leaves the image as it is stored.
bool is_upright(const uint8_t *tiff, int64_t size) {
    if (size < 8) return false;
    const bool little = tiff[0] == 'I' && tiff[1] == 'I';
    if (!little && !(tiff[0] == 'M' && tiff[1] == 'M')) return false;
    auto number = [&](int64_t at, int bytes) {
        int64_t value = 0;
        for (int i = 0; i < bytes; ++i) value |= int64_t{tiff[at + i]} << 8 * (little ? i : bytes - 1 - i);
        return value;
    };
    const int64_t first = number(4, 4);
    if (first + 2 > size) return false;
    const int64_t end = first + 2 + 12 * number(first, 2);
    if (end > size) return false;
    for (int64_t at = first + 2; at < end; at += 12)
        if (number(at, 2) == 0x0112) return number(at + 8, 2) == 1;
    return true;
}

// Whether the components of a frame (3 bytes each) are gray, or colors with one of the usual subsamplings.
bool is_usual(const uint8_t *components, int count) {
    if (count == 1) return true;
    return count == 3 && components[4] == 0x11 && components[7] == 0x11 &&
           (components[1] == 0x11 || components[1] == 0x21 || components[1] == 0x22);
}

}  // namespace

const char *load(const char *path) {
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return "libjpeg-turbo cannot be loaded";
    bool is_complete = true;
#define FIND(name)                                                         \
    library.name = reinterpret_cast<decltype(library.name)>(dlsym(handle, #name)); \
    is_complete = is_complete && library.name;
    FIND(jpeg_std_error)
    FIND(jpeg_CreateDecompress)
    FIND(jpeg_mem_src)
    FIND(jpeg_read_header)
    FIND(jpeg_start_decompress)
    FIND(jpeg_read_scanlines)
    FIND(jpeg_finish_decompress)
    FIND(jpeg_destroy_decompress)
#undef FIND
    if (!is_complete) return "libjpeg-turbo lacks a function";
    Session session{};
    session.decoder.errors = library.jpeg_std_error(&session.errors);
    session.errors.exit = stop;
    // libjpeg clears all but these two before it can fail, so the check of the interface needs its own way out.
    session.decoder.client = &session;
    if (setjmp(session.stop)) return "libjpeg-turbo has another binary interface";
    library.jpeg_CreateDecompress(&session.decoder, INTERFACE_VERSION, sizeof(Decoder));
    library.jpeg_destroy_decompress(&session.decoder);
    return nullptr;
}

Frame frame_of(const uint8_t *data, int64_t size) {
    if (size < 4 || std::memcmp(data, "\xff\xd8\xff", 3)) return {};
    for (int64_t at = 2; at + 19 <= size && data[at] == 0xff;) {
        const int marker = data[at + 1];
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
            const auto *exif = static_cast<const uint8_t *>(memmem(data + 2, at - 2, "Exif\0", 6));
            if (exif && !is_upright(exif + 6, data + at - (exif + 6))) return {};
            if (marker > 0xc2 || data[at + 4] != 8 || !is_usual(data + at + 10, data[at + 9])) return {};
            return {two_bytes(data + at + 5), two_bytes(data + at + 7)};
        }
        at += marker == 0xff ? 1 : 2 + two_bytes(data + at + 2);
    }
    return {};
}

bool decode(const uint8_t *data, int64_t size, int reduction, Target target) {
    Session session;
    Decoder &decoder = session.decoder;
    decoder.errors = library.jpeg_std_error(&session.errors);
    session.errors.exit = stop;
    session.errors.message = stop_at_warning;
    decoder.client = &session;
    volatile bool is_whole = false;
    if (!setjmp(session.stop)) {
        library.jpeg_CreateDecompress(&decoder, INTERFACE_VERSION, sizeof(Decoder));
        library.jpeg_mem_src(&decoder, data, size);
        library.jpeg_read_header(&decoder, 1);
        decoder.output_color_space = RGB;
        decoder.scale = 1;
        decoder.scale_divisor = reduction;
        library.jpeg_start_decompress(&decoder);
        if (static_cast<int>(decoder.output_height) == target.height &&
            static_cast<int>(decoder.output_width) == target.width) {
            while (decoder.output_row < decoder.output_height) {
                uint8_t *row = target.data + decoder.output_row * target.stride;
                library.jpeg_read_scanlines(&decoder, &row, 1);
            }
            library.jpeg_finish_decompress(&decoder);
            is_whole = true;
        }
    }
    library.jpeg_destroy_decompress(&decoder);
    return is_whole;
}

}  // namespace rp2k::jpeg
