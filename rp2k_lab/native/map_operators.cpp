// Operators of convolutional networks on maps (batch, channels, height, width): SiLU, mean over positions, gates, a pool.

#include <algorithm>
#include <vector>

#include "operators.h"

namespace rp2k {
namespace {

RP2K_WIDE void silu(const float *__restrict x, float *__restrict y, int64_t size) {
    for (int64_t i = 0; i < size; ++i) y[i] = x[i] * logistic(x[i]);
}

RP2K_WIDE void silu_gradient(const float *__restrict x, const float *__restrict dy, float *__restrict dx,
                                 int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
        const float s = logistic(x[i]);
        dx[i] = dy[i] * (s * (1.0f + x[i] * (1.0f - s)));
    }
}

RP2K_WIDE_SUMS void means(const float *__restrict x, float *__restrict mean, int64_t maps, int64_t area) {
    for (int64_t i = 0; i < maps; ++i, x += area) {
        float sum = 0.0f;
        for (int64_t j = 0; j < area; ++j) sum += x[j];
        mean[i] = sum / area;
    }
}

RP2K_WIDE void spread(const float *__restrict values, float factor, float *__restrict y, int64_t maps, int64_t area) {
    for (int64_t i = 0; i < maps; ++i, y += area) {
        const float value = values[i] * factor;
        for (int64_t j = 0; j < area; ++j) y[j] = value;
    }
}

RP2K_WIDE void scale(const float *__restrict x, const float *__restrict gate, float *__restrict y, int64_t maps,
                         int64_t area) {
    for (int64_t i = 0; i < maps; ++i, x += area, y += area)
        for (int64_t j = 0; j < area; ++j) y[j] = x[j] * gate[i];
}

RP2K_WIDE_SUMS void scale_gradient(const float *__restrict x, const float *__restrict gate, const float *__restrict dy,
                                       float *__restrict dx, float *__restrict dgate, int64_t maps, int64_t area) {
    for (int64_t i = 0; i < maps; ++i, x += area, dy += area, dx += area) {
        const float factor = gate[i];
        float sum = 0.0f;
        for (int64_t j = 0; j < area; ++j) {
            sum += x[j] * dy[j];
            dx[j] = dy[j] * factor;
        }
        dgate[i] = sum;
    }
}

// A max pool of 3×3 places around every other one, of values that are not negative: the border is 0.
RP2K_WIDE void pool(const float *__restrict x, float *__restrict y, float *__restrict line, int64_t height,
                    int64_t width) {
    const int64_t columns = (width + 1) / 2;
    line[0] = line[width + 1] = 0.0f;
    for (int64_t i = 0; i < height; i += 2, y += columns) {
        const float *__restrict middle = x + i * width;
        const float *__restrict above = i > 0 ? middle - width : middle;
        const float *__restrict below = i + 1 < height ? middle + width : middle;
        for (int64_t j = 0; j < width; ++j) {
            const float larger = above[j] > below[j] ? above[j] : below[j];
            line[j + 1] = larger > middle[j] ? larger : middle[j];
        }
        for (int64_t j = 0; j < columns; ++j) {
            const float larger = line[2 * j] > line[2 * j + 2] ? line[2 * j] : line[2 * j + 2];
            y[j] = larger > line[2 * j + 1] ? larger : line[2 * j + 1];
        }
    }
}

// Lines of a pool's gradient: the columns of a row of x, the even ones and the odd ones, and what they get.
struct PoolLines {
    std::vector<float> even, odd, to_even, to_odd, rest;  // odd[j] is column 2j - 1; rest: slopes not yet given

    explicit PoolLines(int64_t columns)
        : even(columns), odd(columns + 1), to_even(columns), to_odd(columns + 1), rest(columns) {}
};

// Reads a row of `width` columns; beyond it is -1, which no maximum is.
RP2K_WIDE void split(const float *__restrict row, float *__restrict even, float *__restrict odd, int64_t width) {
    odd[0] = odd[(width + 1) / 2] = -1.0f;
    for (int64_t j = 0; j < width / 2; ++j) {
        even[j] = row[2 * j];
        odd[j + 1] = row[2 * j + 1];
    }
    if (width % 2) even[width / 2] = row[width - 1];
}

// Gives the slopes to their places in a row that have the maximum, from left to right; what is given, rest loses.
RP2K_WIDE void give(const float *__restrict even, const float *__restrict odd, const float *__restrict y,
                    float *__restrict rest, float *__restrict to_even, float *__restrict to_odd, int64_t columns) {
    for (int64_t j = 0; j < columns; ++j) {
        const bool is_left = odd[j] == y[j];
        to_odd[j] = is_left ? rest[j] : 0.0f;
        rest[j] = is_left ? 0.0f : rest[j];
    }
    to_odd[columns] = 0.0f;
    for (int64_t j = 0; j < columns; ++j) {
        const bool is_middle = even[j] == y[j], is_right = odd[j + 1] == y[j];
        const float left = is_middle ? 0.0f : rest[j];
        to_even[j] = is_middle ? rest[j] : 0.0f;
        to_odd[j + 1] += is_right ? left : 0.0f;
        rest[j] = is_right ? 0.0f : left;
    }
}

RP2K_WIDE void join(const float *__restrict even, const float *__restrict odd, float *__restrict row, int64_t width) {
    for (int64_t j = 0; j < width / 2; ++j) {
        row[2 * j] += even[j];
        row[2 * j + 1] += odd[j + 1];
    }
    if (width % 2) row[width - 1] += even[width / 2];
}

// Adds each slope to the first of its places that has the maximum.
void add_pool_gradient(PoolLines &lines, const float *x, const float *y, const float *dy, float *dx, int64_t height,
                       int64_t width) {
    const int64_t columns = (width + 1) / 2;
    float *even = lines.even.data(), *odd = lines.odd.data();
    float *to_even = lines.to_even.data(), *to_odd = lines.to_odd.data();
    for (int64_t i = 0; i < height; i += 2, y += columns, dy += columns) {
        std::copy_n(dy, columns, lines.rest.data());
        for (int64_t row = std::max<int64_t>(i - 1, 0); row < std::min(i + 2, height); ++row) {
            split(x + row * width, even, odd, width);
            give(even, odd, y, lines.rest.data(), to_even, to_odd, columns);
            join(to_even, to_odd, dx + row * width, width);
        }
    }
}

// Calls run(begin, end) for parts of a tensor's maps.
void over_maps(const Array &x, int64_t area, const std::function<void(int64_t, int64_t)> &run) {
    const int64_t maps = area ? x.size() / area : 0;
    in_parts(maps, parts_of(maps, WORTH_A_TASK / area + 1), [&](int, int64_t begin, int64_t end) { run(begin, end); });
}

int64_t area_of(const Array &x) { return x.shape[2] * x.shape[3]; }

}  // namespace

// x to y = x / (1 + exp(-x))
RP2K_OPERATOR(silu, "ff") {
    over_maps(all[0], 1, [&](int64_t begin, int64_t end) {
        silu(all[0].data + begin, all[1].data + begin, end - begin);
    });
}

// x, dy to dx
RP2K_OPERATOR(silu_gradient, "fff") {
    over_maps(all[0], 1, [&](int64_t begin, int64_t end) {
        silu_gradient(all[0].data + begin, all[1].data + begin, all[2].data + begin, end - begin);
    });
}

// x to means (batch, channels)
RP2K_OPERATOR(map_means, "ff") {
    const int64_t area = area_of(all[0]);
    over_maps(all[0], area, [&](int64_t begin, int64_t end) {
        means(all[0].data + begin * area, all[1].data + begin, end - begin, area);
    });
}

// x (its shape counts), slopes of the means (batch, channels) to dx
RP2K_OPERATOR(map_means_gradient, "fff") {
    const int64_t area = area_of(all[2]);
    over_maps(all[2], area, [&](int64_t begin, int64_t end) {
        spread(all[1].data + begin, 1.0f / area, all[2].data + begin * area, end - begin, area);
    });
}

// x, gate (batch, channels) to x · gate
RP2K_OPERATOR(scale_maps, "fff") {
    const int64_t area = area_of(all[0]);
    over_maps(all[0], area, [&](int64_t begin, int64_t end) {
        scale(all[0].data + begin * area, all[1].data + begin, all[2].data + begin * area, end - begin, area);
    });
}

// x, gate, dy to dx, dgate
RP2K_OPERATOR(scale_maps_gradient, "fffff") {
    const int64_t area = area_of(all[0]);
    over_maps(all[0], area, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * area;
        scale_gradient(all[0].data + first, all[1].data + begin, all[2].data + first, all[3].data + first,
                       all[4].data + begin, end - begin, area);
    });
}

// x to y (batch, channels, ⌈height / 2⌉, ⌈width / 2⌉)
RP2K_OPERATOR(max_pool, "ff") {
    const Array x = all[0], y = all[1];
    const int64_t height = x.shape[2], width = x.shape[3];
    over_maps(x, height * width, [&](int64_t begin, int64_t end) {
        std::vector<float> line(width + 3);
        for (int64_t i = begin; i < end; ++i)
            pool(x.data + i * height * width, y.data + i * area_of(y), line.data(), height, width);
    });
}

// x, y, dy to dx
RP2K_OPERATOR(max_pool_gradient, "ffff") {
    const Array x = all[0], y = all[1], dy = all[2], dx = all[3];
    const int64_t area = area_of(x);
    over_maps(x, area, [&](int64_t begin, int64_t end) {
        PoolLines lines(y.last());
        for (int64_t i = begin; i < end; ++i) {
            const int64_t first = i * area_of(y);
            std::fill_n(dx.data + i * area, area, 0.0f);
            add_pool_gradient(
                lines, x.data + i * area, y.data + first, dy.data + first, dx.data + i * area, x.shape[2], x.shape[3]);
        }
    });
}

}  // namespace rp2k
