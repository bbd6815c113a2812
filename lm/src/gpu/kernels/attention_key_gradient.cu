// The way back through attention to keys and values: a block has a tile of a key head's keys and goes through the queries that see
// them, from the tile's first row to the sample's last, of one query head after the other. Here keys are the rows of products and
// queries the columns, so that what a key gets from all queries is summed in registers, always in the same order.
//
// Defined beside what attention.cuh names: STEP queries are gone through at a time, and PARTS warps share out the columns of the same
// keys, as the sums of large heads need more registers than one has.

#define THREADS (WARPS * WARP)
#define KEYS (WARPS / PARTS * 16)
#define QUERIES STEP
// A stage holds a tile of queries and the tile of the gradients of what they gave.
#define STAGE (2 * QUERIES * STRIDE)
// Steps of 16 columns that a warp has.
#define OWN_STEPS ((STEPS + PARTS - 1) / PARTS)
static_assert(STRIPS == 1, "a warp has one strip of keys");

// A block per tile of keys and key head; a tile's rows are those up to the end of its sample. `outer` is the gradient of what
// attention gave, `means` what query_gradient has written.
KERNEL(key_gradient, THREADS, const element* qkv, const element* outer, const float* log_sums, const float* means,
       const Tile* tiles, element* qkv_gradient, uint32_t rows, float scale) {
    DYNAMIC_SHARED(memory);
    element* tile_keys = reinterpret_cast<element*>(memory);
    element* tile_values = tile_keys + KEYS * STRIDE;
    element* stages = tile_values + KEYS * STRIDE;
    // Of each stage the queries' logarithms of sums, then their means.
    float* numbers = reinterpret_cast<float*>(stages + 2 * STAGE);
    const Tile tile = tiles[blockIdx.x / KEY_HEADS];
    uint32_t key_head = blockIdx.x % KEY_HEADS, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // The warp's first key and its columns. Keys and queries are counted from the tile's first row.
    uint32_t own = warp / PARTS * 16, first_step = warp % PARTS * OWN_STEPS;
    uint32_t steps = (tile.rows + QUERIES - 1) / QUERIES;

    auto begin = [&](uint32_t step) {
        uint32_t head = key_head * GROUP + step / steps, first = step % steps * QUERIES, there = tile.rows - first;
        uint64_t row = tile.row + first, place = head * (uint64_t)rows + row;
        element* to = stages + step % 2 * STAGE;
        copy_rows<QUERIES, THREADS>(to, qkv + row * ROW + head * HEAD_DIM, ROW, there, threadIdx.x);
        to += QUERIES * STRIDE;
        copy_rows<QUERIES, THREADS>(to, outer + row * OUT_ROW + head * HEAD_DIM, OUT_ROW, there, threadIdx.x);
        float* number = numbers + step % 2 * 2 * QUERIES;
        for (uint32_t i = threadIdx.x; i < QUERIES; i += THREADS) {
            copy_async(number + i, log_sums + place + i, i < there);
            copy_async(number + QUERIES + i, means + place + i, i < there);
        }
        close_copies();
    };
    const element* from = qkv + (uint64_t)tile.row * ROW + (HEADS + key_head) * HEAD_DIM;
    copy_rows<KEYS, THREADS>(tile_keys, from, ROW, tile.rows, threadIdx.x);
    copy_rows<KEYS, THREADS>(tile_values, from + KEY_HEADS * HEAD_DIM, ROW, tile.rows, threadIdx.x);
    close_copies();
    begin(0);
    wait_for_copies<1>();
    __syncthreads();

    Left keys, values;
    take_left(keys, tile_keys + own * STRIDE);
    take_left(values, tile_values + own * STRIDE);
    float key_sums[2 * OWN_STEPS][4] = {}, value_sums[2 * OWN_STEPS][4] = {};
    for (uint32_t step = 0; step < GROUP * steps; step++) {
        wait_for_copies<0>();
        // All have got this tile, and are done with the one before, whose place the next one takes.
        __syncthreads();
        if (step + 1 < GROUP * steps) begin(step + 1);
        const element* tile_queries = stages + step % 2 * STAGE;
        const element* tile_outer = tile_queries + QUERIES * STRIDE;
        const float* number = numbers + step % 2 * 2 * QUERIES + lane % 4 * 2;
        uint32_t first = step % steps * QUERIES;
#pragma unroll
        for (uint32_t part = 0; part < QUERIES; part += 16) {
            // Queries before all of the warp's keys, or beyond the sample.
            if (first + part < own || first + part >= tile.rows) continue;
            float scores[2][4] = {}, gradients[2][4] = {};
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                pair a[4], b[4];
                use_left(a, keys, k);
                load_rows<STRIDE>(b, tile_queries + part * STRIDE + k * 16);
                multiply_two(scores, a, b);
                use_left(a, values, k);
                load_rows<STRIDE>(b, tile_outer + part * STRIDE + k * 16);
                multiply_two(gradients, a, b);
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t query = n * 8 + i % 2;
                    float weight = exp2_(scores[n][i] * scale - number[part + query]);
                    bool unseen = first + part + query + lane % 4 * 2 < own + lane / 4 + i / 2 * 8;
                    if (unseen) weight = 0.0f;
                    scores[n][i] = weight;
                    gradients[n][i] = weight * (gradients[n][i] - number[QUERIES + part + query]);
                }
            }
            pair weights[4], slopes[4];
            as_left(weights, scores);
            as_left(slopes, gradients);
#pragma unroll
            for (int n = 0; n < OWN_STEPS; n++) {
                // The last warp may have less.
                if (PARTS * OWN_STEPS > STEPS && first_step + n >= STEPS) break;
                pair b[4];
                load_columns<STRIDE>(b, tile_outer + part * STRIDE + (first_step + n) * 16);
                multiply_two(value_sums + 2 * n, weights, b);
                load_columns<STRIDE>(b, tile_queries + part * STRIDE + (first_step + n) * 16);
                multiply_two(key_sums + 2 * n, slopes, b);
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t row = own + half * 8 + lane / 4;
        if (row >= tile.rows) continue;
        element* to = qkv_gradient + (uint64_t)(tile.row + row) * ROW + (HEADS + key_head) * HEAD_DIM + first_step * 16;
#pragma unroll
        for (int n = 0; n < OWN_STEPS; n++) {
            if (PARTS * OWN_STEPS > STEPS && first_step + n >= STEPS) break;
            store_row<2>(to + n * 16, key_sums + 2 * n, half, scale / LOG2_E);
            store_row<2>(to + KEY_HEADS * HEAD_DIM + n * 16, value_sums + 2 * n, half, 1.0f);
        }
    }
}
