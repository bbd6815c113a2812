// Attention of many tokens of a sequence: a block has a tile of a head's queries and goes through the keys up to the last of them.
//
// Defined beside what attention.cuh names: STEP keys are gone through at a time, and a page has PAGE tokens.

#define THREADS (WARPS * WARP)
#define QUERIES (WARPS * STRIPS * 16)
#define KEYS STEP
// A stage holds a tile of keys and the tile of their values.
#define STAGE (2 * KEYS * STRIDE)
static_assert(QUERIES <= 2 * KEYS, "queries pass through a stage");
static_assert(PAGE % KEYS == 0, "a tile of keys lies in one page");

// A block per tile of queries and head. Rows of queries are `query_stride` apart. Keys and values are either those of all rows, ROW
// apart, and a tile's sequence is its first row; or, where there are tables, those of pages, [page][key head][token][element], and a
// tile's sequence is its seat, whose pages the table names in order.
//
// log_sums[head][row] (where there are such) gets the base-2 logarithm of the sum of exponentials that the row's weights were divided
// by. `scale` is log2(e) / √HEAD_DIM.
KERNEL(attend, THREADS, const element* queries, uint32_t query_stride, const element* keys, const element* values,
       const uint32_t* tables, uint32_t pages_per_seat, const Tile* tiles, element* out, float* log_sums, uint32_t rows,
       float scale) {
    DYNAMIC_SHARED(memory);
    element* stages = reinterpret_cast<element*>(memory);
    const Tile tile = tiles[blockIdx.x / HEADS];
    uint32_t head = blockIdx.x % HEADS, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t key_head = head / GROUP;
    // Keys that any of the queries sees, and where the first query of the warp stands.
    uint32_t length = tile.position + smaller(tile.rows, QUERIES);
    uint32_t own = tile.position + warp * STRIPS * 16;

    auto begin = [&](uint32_t first) {
        uint64_t at, stride;
        if (tables) {
            uint64_t page = tables[(uint64_t)tile.sequence * pages_per_seat + first / PAGE];
            at = ((page * KEY_HEADS + key_head) * PAGE + first % PAGE) * HEAD_DIM;
            stride = HEAD_DIM;
        } else {
            at = (uint64_t)(tile.sequence + first) * ROW + key_head * HEAD_DIM;
            stride = ROW;
        }
        element* to = stages + first / KEYS % 2 * STAGE;
        copy_rows<KEYS, THREADS>(to, keys + at, stride, length - first, threadIdx.x);
        copy_rows<KEYS, THREADS>(to + KEYS * STRIDE, values + at, stride, length - first, threadIdx.x);
        close_copies();
    };

    // The queries pass through the stage that is not yet needed.
    const element* from = queries + (uint64_t)tile.row * query_stride + head * HEAD_DIM;
    copy_rows<QUERIES, THREADS>(stages + STAGE, from, query_stride, tile.rows, threadIdx.x);
    close_copies();
    begin(0);
    wait_for_copies<1>();
    __syncthreads();
    pair q[STRIPS][STEPS][4];
    Sums sums[STRIPS];
    Softmax softmax[STRIPS];
#pragma unroll
    for (int s = 0; s < STRIPS; s++) {
        softmax[s] = no_softmax();
        sums[s] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) load_left<STRIDE>(q[s][k], stages + STAGE + (warp * STRIPS + s) * 16 * STRIDE + k * 16);
    }

    for (uint32_t first = 0; first < length; first += KEYS) {
        wait_for_copies<0>();
        // All have got this tile, and are done with the one before, whose place the next one takes.
        __syncthreads();
        if (first + KEYS < length) begin(first + KEYS);
        if (first >= own + STRIPS * 16) continue;
        const element* tile_keys = stages + first / KEYS % 2 * STAGE;
        const element* tile_values = tile_keys + KEYS * STRIDE;

        float scores[STRIPS][KEYS / 8][4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                pair b[4];
                load_rows<STRIDE>(b, tile_keys + n * 16 * STRIDE + k * 16);
#pragma unroll
                for (int s = 0; s < STRIPS; s++) multiply_two(scores[s] + 2 * n, q[s][k], b);
            }
        }
        if (first + KEYS > own + 1) {
#pragma unroll
            for (int s = 0; s < STRIPS; s++) {
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t key = first + n * 8 + lane % 4 * 2 + i % 2, query = own + s * 16 + lane / 4 + i / 2 * 8;
                        if (key > query) scores[s][n][i] = LOWEST;
                    }
                }
            }
        }
#pragma unroll
        for (int s = 0; s < STRIPS; s++) soften<KEYS>(softmax[s], scores[s], sums[s], scale);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            pair weights[STRIPS][4];
#pragma unroll
            for (int s = 0; s < STRIPS; s++) as_left(weights[s], scores[s] + 2 * k);
#pragma unroll
            for (int n = 0; n < STEPS; n++) {
                pair b[4];
                load_columns<STRIDE>(b, tile_values + k * 16 * STRIDE + n * 16);
#pragma unroll
                for (int s = 0; s < STRIPS; s++) multiply_two(sums[s].of + 2 * n, weights[s], b);
            }
        }
    }

#pragma unroll
    for (int s = 0; s < STRIPS; s++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = row_sum(softmax[s].sum[half]);
            uint32_t row = (warp * STRIPS + s) * 16 + half * 8 + lane / 4;
            if (row >= tile.rows) continue;
            element* to = out + (uint64_t)(tile.row + row) * OUT_ROW + head * HEAD_DIM;
            store_row<HEAD_DIM / 8>(to, sums[s].of, half, 1.0f / sum);
            if (log_sums && lane % 4 == 0) {
                log_sums[(uint64_t)head * rows + tile.row + row] = softmax[s].largest[half] * scale + log2f(sum);
            }
        }
    }
}
