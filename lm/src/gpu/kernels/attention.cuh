// What the kernels of attention share: tiles of one head's rows in shared memory, products of 16 rows with them, and a softmax over
// tiles of keys as they come.
//
// Compiled for a model's HEAD_DIM, its HEADS of queries and its KEY_HEADS of keys and values, and for the shape of a block: WARPS
// warps with STRIPS strips of 16 rows each.

// Query heads that a key head serves.
#define GROUP (HEADS / KEY_HEADS)
// Elements of a row of queries, keys and values, and of a row of what attention gives.
#define ROW ((HEADS + 2 * KEY_HEADS) * HEAD_DIM)
#define OUT_ROW (HEADS * HEAD_DIM)
// Steps of 16 elements along a head.
#define STEPS (HEAD_DIM / 16)
// Elements from one row of a tile to the next: 16 bytes more than a row has, so that the eight rows of a matrix, which are read at
// once, lie in different banks.
#define STRIDE (HEAD_DIM + 8)

// Rows of a sequence for a block to start with.
struct Tile {
    // The first of them among all rows, and how many the sequence has from there on: fewer than a block's, or more.
    uint32_t row, rows;
    // Where the first stands in its sequence.
    uint32_t position;
    // The sequence: its first row among all rows, or its seat.
    uint32_t sequence;
};

// Begins to copy a tile of ROWS rows of a head; those from `there` on are zeros.
template <int ROWS, int THREADS>
DEVICE void copy_rows(element* to, const element* from, uint64_t stride, uint32_t there, uint32_t thread) {
    constexpr uint32_t CHUNKS = HEAD_DIM / 8;
#pragma unroll
    for (uint32_t i = thread; i < ROWS * CHUNKS; i += THREADS) {
        uint32_t row = i / CHUNKS, column = i % CHUNKS * 8;
        copy_async(to + row * STRIDE + column, from + row * stride + column, row < there);
    }
}

// A strip's left operands. They stay in registers where these suffice, and else are read at every use.
#define HELD (HEAD_DIM <= 128)
struct Left {
    pair held[HELD ? STEPS : 1][4];
    const element* tile;
};

DEVICE void take_left(Left& left, const element* tile) {
    left.tile = tile;
    if (HELD) {
#pragma unroll
        for (int k = 0; k < STEPS; k++) load_left<STRIDE>(left.held[k], tile + k * 16);
    }
}

DEVICE void use_left(pair (&a)[4], const Left& left, int k) {
    if (HELD) {
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = left.held[k][i];
    } else {
        load_left<STRIDE>(a, left.tile + k * 16);
    }
}

// Sums of a strip of 16 rows, as multiply_tile lays them out, for the columns of a head.
struct Sums {
    float of[HEAD_DIM / 8][4];
};

// The sum over the four threads that hold a row.
DEVICE float row_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

// Writes 8 · BLOCKS columns of a row of sums, that of half 0 or 1 of a strip, times `scale`.
template <int BLOCKS>
DEVICE void store_row(element* to, const float (*sums)[4], int half, float scale) {
    to += threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < BLOCKS; n++) {
        *reinterpret_cast<pair*>(to + n * 8) = to_pair(sums[n][2 * half] * scale, sums[n][2 * half + 1] * scale);
    }
}

// What is known of the softmax of a thread's two rows of a strip: the largest score, and the thread's part of the sum of all
// exponentials of what is above it or below.
struct Softmax {
    float largest[2], sum[2];
};

DEVICE Softmax no_softmax() { return {{LOWEST, LOWEST}, {0.0f, 0.0f}}; }

// Takes COLUMNS more scores of each row, which become weights; `sums`, of the values weighed so far, is brought to the new largest
// score. `scale` includes the base-2 logarithm of e.
template <int COLUMNS>
DEVICE void soften(Softmax& softmax, float (&scores)[COLUMNS / 8][4], Sums& sums, float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = softmax.largest[half];
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        }
        largest = fmaxf(largest, shuffle_xor(largest, 1));
        largest = fmaxf(largest, shuffle_xor(largest, 2));
        float shrink = exp2_((softmax.largest[half] - largest) * scale), base = largest * scale, sum = 0.0f;
        softmax.largest[half] = largest;
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = exp2_(scores[n][i] * scale - base);
                sum += scores[n][i];
            }
        }
        softmax.sum[half] = softmax.sum[half] * shrink + sum;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            sums.of[n][2 * half] *= shrink;
            sums.of[n][2 * half + 1] *= shrink;
        }
    }
}
