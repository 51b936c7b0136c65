// Transposition between rows of plain memory and oneDNN's inner blocks of 8 or 16 values.
#pragma once

namespace rp2k {

// Where block r of the blocked side begins (floats): `period` blocks in a row at distance `near`, then the next group at
// `far`, in two levels: r = (i · height + y) · width + x is at i · step + y · row + x · column.
struct BlockPlaces {
    long height, width, step, row, column;
};

// blocked[place of c][r] = plain[r · stride + c] for c of 0 … columns - 1; values of r from `rows` to `block` are 0.
//
// block: 8 or 16.  stride: floats from a plain row to the next.
void to_blocks(int block, const float *plain, long stride, int rows, long columns, float *blocked, const BlockPlaces &);

// The inverse; values of r from `rows` on are not read.
void from_blocks(int block, const float *blocked, const BlockPlaces &, float *plain, long stride, int rows, long columns);

}  // namespace rp2k
