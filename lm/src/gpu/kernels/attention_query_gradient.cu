// The way back through attention to queries: a block has a tile of a head's queries and goes through the keys up to the last of them,
// as on the way there. Weights are computed again from the sums that were kept.
//
// Defined beside what attention.cuh names: STEP keys are gone through at a time.

#define THREADS (WARPS * WARP)
#define QUERIES (WARPS * STRIPS * 16)
#define KEYS STEP
// A stage holds a tile of keys and the tile of their values.
#define STAGE (2 * KEYS * STRIDE)

// A block per tile of queries and head. `outer` is the gradient of `out`. means[head][row] gets the sum of their products, which is
// the mean of the gradients of a row's weights and which key_gradient reads.
KERNEL(query_gradient, THREADS, const element* qkv, const element* out, const element* outer, const float* log_sums, float* means,
       const Tile* tiles, element* qkv_gradient, uint32_t rows, float scale) {
    DYNAMIC_SHARED(memory);
    element* tile_queries = reinterpret_cast<element*>(memory);
    element* tile_outer = tile_queries + QUERIES * STRIDE;
    element* stages = tile_outer + QUERIES * STRIDE;
    const Tile tile = tiles[blockIdx.x / HEADS];
    uint32_t head = blockIdx.x % HEADS, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t length = tile.position + smaller(tile.rows, QUERIES);
    uint32_t own = tile.position + warp * STRIPS * 16;

    auto begin = [&](uint32_t first) {
        const element* from = qkv + (uint64_t)(tile.sequence + first) * ROW + (HEADS + head / GROUP) * HEAD_DIM;
        element* to = stages + first / KEYS % 2 * STAGE;
        copy_rows<KEYS, THREADS>(to, from, ROW, length - first, threadIdx.x);
        copy_rows<KEYS, THREADS>(to + KEYS * STRIDE, from + KEY_HEADS * HEAD_DIM, ROW, length - first, threadIdx.x);
        close_copies();
    };
    const element* out_rows = out + (uint64_t)tile.row * OUT_ROW + head * HEAD_DIM;
    const element* outer_rows = outer + (uint64_t)tile.row * OUT_ROW + head * HEAD_DIM;
    copy_rows<QUERIES, THREADS>(tile_queries, qkv + (uint64_t)tile.row * ROW + head * HEAD_DIM, ROW, tile.rows, threadIdx.x);
    copy_rows<QUERIES, THREADS>(tile_outer, outer_rows, OUT_ROW, tile.rows, threadIdx.x);
    close_copies();
    begin(0);
    wait_for_copies<1>();
    __syncthreads();

    Left queries[STRIPS], outers[STRIPS];
    Sums sums[STRIPS];
    float log_sum[STRIPS][2], mean[STRIPS][2];
#pragma unroll
    for (int s = 0; s < STRIPS; s++) {
        uint32_t strip = (warp * STRIPS + s) * 16;
        take_left(queries[s], tile_queries + strip * STRIDE);
        take_left(outers[s], tile_outer + strip * STRIDE);
        sums[s] = {};
        mean[s][0] = mean[s][1] = 0.0f;
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            pair a[4];
            use_left(a, outers[s], k);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t row = strip + lane / 4 + i % 2 * 8, column = k * 16 + lane % 4 * 2 + i / 2 * 8;
                if (row >= tile.rows) continue;
                pair o = *reinterpret_cast<const pair*>(out_rows + (uint64_t)row * OUT_ROW + column);
                mean[s][i % 2] += first(a[i]) * first(o) + second(a[i]) * second(o);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t row = strip + lane / 4 + half * 8;
            uint64_t place = (uint64_t)head * rows + tile.row + row;
            mean[s][half] = row_sum(mean[s][half]);
            log_sum[s][half] = row < tile.rows ? log_sums[place] : 0.0f;
            if (row < tile.rows && lane % 4 == 0) means[place] = mean[s][half];
        }
    }

    for (uint32_t first = 0; first < length; first += KEYS) {
        wait_for_copies<0>();
        // All have got this tile, and are done with the one before, whose place the next one takes.
        __syncthreads();
        if (first + KEYS < length) begin(first + KEYS);
        const element* tile_keys = stages + first / KEYS % 2 * STAGE;
        const element* tile_values = tile_keys + KEYS * STRIDE;
#pragma unroll
        for (uint32_t part = 0; part < KEYS; part += 16) {
            if (first + part >= own + STRIPS * 16) break;
            float scores[STRIPS][2][4] = {}, gradients[STRIPS][2][4] = {};
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                pair key[4], value[4];
                load_rows<STRIDE>(key, tile_keys + part * STRIDE + k * 16);
                load_rows<STRIDE>(value, tile_values + part * STRIDE + k * 16);
#pragma unroll
                for (int s = 0; s < STRIPS; s++) {
                    pair a[4];
                    use_left(a, queries[s], k);
                    multiply_two(scores[s], a, key);
                    use_left(a, outers[s], k);
                    multiply_two(gradients[s], a, value);
                }
            }
            pair left[STRIPS][4];
#pragma unroll
            for (int s = 0; s < STRIPS; s++) {
#pragma unroll
                for (int n = 0; n < 2; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t key = first + part + n * 8 + lane % 4 * 2 + i % 2, query = own + s * 16 + lane / 4 + i / 2 * 8;
                        float weight = exp2_(scores[s][n][i] * scale - log_sum[s][i / 2]);
                        if (key > query) weight = 0.0f;
                        gradients[s][n][i] = weight * (gradients[s][n][i] - mean[s][i / 2]);
                    }
                }
                as_left(left[s], gradients[s]);
            }
#pragma unroll
            for (int n = 0; n < STEPS; n++) {
                pair key[4];
                load_columns<STRIDE>(key, tile_keys + part * STRIDE + n * 16);
#pragma unroll
                for (int s = 0; s < STRIPS; s++) multiply_two(sums[s].of + 2 * n, left[s], key);
            }
        }
    }

#pragma unroll
    for (int s = 0; s < STRIPS; s++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t row = (warp * STRIPS + s) * 16 + half * 8 + lane / 4;
            if (row >= tile.rows) continue;
            element* to = qkv_gradient + (uint64_t)(tile.row + row) * ROW + head * HEAD_DIM;
            store_row<HEAD_DIM / 8>(to, sums[s].of, half, scale / LOG2_E);
        }
    }
}
