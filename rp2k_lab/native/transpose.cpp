#include "transpose.h"

#include <immintrin.h>

#include <cstring>
#include <initializer_list>

namespace rp2k {
namespace {

#define AVX2 __attribute__((target("avx2")))

// Transpose 8 × 8 floats in registers: pairs, then fours, then halves.
AVX2 inline void transpose_8x8(__m256 *r) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    __m256 u[8];
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

// The offsets of eight blocks in a row, from block c on.
inline void places_of(const BlockPlaces &p, long c, long *places) {
    const long area = p.height * p.width;
    long x = c % p.width, y = c / p.width % p.height, i = c / area;
    for (int k = 0; k < 8; k++) {
        places[k] = i * p.step + y * p.row + x * p.column;
        if (++x == p.width) {
            x = 0;
            if (++y == p.height) y = 0, i++;
        }
    }
}

inline long place_of(const BlockPlaces &p, long c) {
    return c / (p.height * p.width) * p.step + c / p.width % p.height * p.row + c % p.width * p.column;
}

AVX2 inline void tile_to_blocks(const float *plain, long stride, float *blocked, const long *places) {
    __m256 r[8];
    for (int k = 0; k < 8; k++) r[k] = _mm256_loadu_ps(plain + k * stride);
    transpose_8x8(r);
    for (int k = 0; k < 8; k++) _mm256_storeu_ps(blocked + places[k], r[k]);
}

AVX2 inline void tile_from_blocks(const float *blocked, const long *places, float *plain, long stride) {
    __m256 r[8];
    for (int k = 0; k < 8; k++) r[k] = _mm256_loadu_ps(blocked + places[k]);
    transpose_8x8(r);
    for (int k = 0; k < 8; k++) _mm256_storeu_ps(plain + k * stride, r[k]);
}

// Call tile(first row, first column, places) for tiles of 8 × 8 that cover whole eights of rows and all columns; the
// last tile of a row overlaps the one before it.  16 columns, a cache line of a plain row, come one after the other.
template <class Tile>
AVX2 inline void for_tiles(int rows, long columns, const BlockPlaces &p, Tile tile) {
    long places[2][8];
    for (long c = 0; c < columns; c += 16) {
        const long first = c + 8 <= columns ? c : columns - 8, second = c + 16 <= columns ? c + 8 : columns - 8;
        const bool both = c + 8 < columns;
        places_of(p, first, places[0]);
        if (both) places_of(p, second, places[1]);
        for (int r = 0; r + 8 <= rows; r += 8) {
            tile(r, first, places[0]);
            if (both) tile(r, second, places[1]);
        }
    }
}

// The part of rows that tiles cover: none of maps narrower than a tile.
inline int covered(int rows, long columns) { return columns >= 8 ? rows / 8 * 8 : columns >= 4 ? rows / 4 * 4 : 0; }

// The same for columns of 4 to 7, with tiles of 4 × 4.
template <class Tile>
inline void for_narrow_tiles(int rows, long columns, const BlockPlaces &p, Tile tile) {
    long places[8];
    for (long c : {0L, columns - 4}) {
        places_of(p, c, places);
        for (int r = 0; r + 4 <= rows; r += 4) tile(r, c, places);
        if (columns == 4) return;
    }
}

inline void narrow_tile_to_blocks(const float *plain, long stride, float *blocked, const long *places) {
    __m128 r[4];
    for (int k = 0; k < 4; k++) r[k] = _mm_loadu_ps(plain + k * stride);
    _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
    for (int k = 0; k < 4; k++) _mm_storeu_ps(blocked + places[k], r[k]);
}

inline void narrow_tile_from_blocks(const float *blocked, const long *places, float *plain, long stride) {
    __m128 r[4];
    for (int k = 0; k < 4; k++) r[k] = _mm_loadu_ps(blocked + places[k]);
    _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
    for (int k = 0; k < 4; k++) _mm_storeu_ps(plain + k * stride, r[k]);
}

}  // namespace

AVX2 void to_blocks(
    int block, const float *plain, long stride, int rows, long columns, float *blocked, const BlockPlaces &p) {
    if (columns == 1 && stride == 1 && rows == block) {
        std::memcpy(blocked, plain, block * sizeof(float));
        return;
    }
    const int whole = covered(rows, columns);
    if (columns >= 8) {
        for_tiles(whole, columns, p, [&](int r, long c, const long *places) __attribute__((target("avx2"))) {
            tile_to_blocks(plain + r * stride + c, stride, blocked + r, places);
        });
    } else if (columns >= 4) {
        for_narrow_tiles(whole, columns, p, [&](int r, long c, const long *places) {
            narrow_tile_to_blocks(plain + r * stride + c, stride, blocked + r, places);
        });
    }
    if (whole == block) return;
    for (long c = 0; c < columns; c++) {
        float *to = blocked + place_of(p, c);
        for (int r = whole; r < rows; r++) to[r] = plain[r * stride + c];
        for (int r = rows; r < block; r++) to[r] = 0;
    }
}

AVX2 void from_blocks(
    int block, const float *blocked, const BlockPlaces &p, float *plain, long stride, int rows, long columns) {
    if (columns == 1 && stride == 1 && rows == block) {
        std::memcpy(plain, blocked, block * sizeof(float));
        return;
    }
    const int whole = covered(rows, columns);
    if (columns >= 8) {
        for_tiles(whole, columns, p, [&](int r, long c, const long *places) __attribute__((target("avx2"))) {
            tile_from_blocks(blocked + r, places, plain + r * stride + c, stride);
        });
    } else if (columns >= 4) {
        for_narrow_tiles(whole, columns, p, [&](int r, long c, const long *places) {
            narrow_tile_from_blocks(blocked + r, places, plain + r * stride + c, stride);
        });
    }
    if (whole == rows) return;
    for (long c = 0; c < columns; c++) {
        const float *from = blocked + place_of(p, c);
        for (int r = whole; r < rows; r++) plain[r * stride + c] = from[r];
    }
}

}  // namespace rp2k
