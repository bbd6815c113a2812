// Attention of one new token of each of many sequences over the pages of their keys and values.
//
// Reading these is all the work there is. So a block has all query heads of a key head (up to 16, the rows of a product) and
// reads every key and value once. Each warp goes its own way through keys that no other warp reads, STAGES steps of 16 of which are
// on their way from memory or in use; the warps meet only at the end. Where sequences are few, several blocks share one out, and
// another kernel joins what they found.
//
// Defined beside what attention.cuh names: STAGES, and PAGE (tokens).

#define THREADS (WARPS * WARP)
// Blocks among which the query heads of a key head are shared out.
#define BUNDLES ((GROUP + 15) / 16)
#define KEYS 16
// A stage holds keys and their values.
#define STAGE (2 * KEYS * STRIDE)
// Floats of a head that a warp leaves for the others: its sums, the largest score and the sum of exponentials.
#define FOUND (HEAD_DIM + 8)
static_assert(PAGE % KEYS == 0, "a step's keys lie in one page");
static_assert(STAGES >= 2, "what the warps leave fits the room of the stages");

// Blocks in x for key heads and bundles, in y for rows, in z for the parts that keys are shared out in. Row r is the token at
// lengths[r] - 1 of seat seats[r], whose key and value are there already; one of length 0 gets zeros. Rows of queries are
// `query_stride` apart.
//
// Where there are `parts`, [row][head][part][HEAD_DIM + 2], they get sums, the largest score and the sum of exponentials instead of
// `out`. `scale` is log2(e) / √HEAD_DIM.
KERNEL(decode, THREADS, const element* queries, uint32_t query_stride, const element* keys, const element* values,
       const uint32_t* tables, uint32_t pages_per_seat, const uint32_t* seats, const uint32_t* lengths, element* out, float* parts,
       float scale) {
    DYNAMIC_SHARED(memory);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row = blockIdx.y;
    uint32_t key_head = blockIdx.x / BUNDLES, first_head = key_head * GROUP + blockIdx.x % BUNDLES * 16;
    uint32_t heads = smaller(16, (key_head + 1) * GROUP - first_head);
    // The block's part is a number of whole pages, of which each warp has every so many keys.
    uint32_t length = lengths[row], pages = (length + PAGE - 1) / PAGE;
    uint32_t part = (pages + gridDim.z - 1) / gridDim.z * PAGE, start = blockIdx.z * part;
    uint32_t end = smaller(start + part, length), own = start + warp * KEYS;
    const uint32_t* table = tables + (uint64_t)seats[row] * pages_per_seat;
    element* stages = reinterpret_cast<element*>(memory) + warp * STAGES * STAGE;

    auto begin = [&](uint32_t step) {
        uint32_t first = own + step * WARPS * KEYS;
        if (first < end) {
            uint64_t page = table[first / PAGE];
            uint64_t at = ((page * KEY_HEADS + key_head) * PAGE + first % PAGE) * HEAD_DIM;
            element* to = stages + step % STAGES * STAGE;
            copy_rows<KEYS, WARP>(to, keys + at, HEAD_DIM, end - first, lane);
            copy_rows<KEYS, WARP>(to + KEYS * STRIDE, values + at, HEAD_DIM, end - first, lane);
        }
        close_copies();
    };
#pragma unroll 1
    for (uint32_t step = 0; step < STAGES - 1; step++) begin(step);

    const element* query = queries + (uint64_t)row * query_stride + first_head * HEAD_DIM;
    pair q[STEPS][4];
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t head = lane / 4 + i % 2 * 8, column = k * 16 + lane % 4 * 2 + i / 2 * 8;
            q[k][i] = to_pair(0.0f, 0.0f);
            if (head < heads) q[k][i] = *reinterpret_cast<const pair*>(query + head * HEAD_DIM + column);
        }
    }

    Sums sums = {};
    Softmax softmax = no_softmax();
    for (uint32_t step = 0; own + step * WARPS * KEYS < end; step++) {
        uint32_t first = own + step * WARPS * KEYS;
        wait_for_copies<STAGES - 2>();
        // All lanes have got this step's, and are done with the step before, whose place the next one takes.
        synchronise_warp();
        begin(step + STAGES - 1);
        const element* step_keys = stages + step % STAGES * STAGE;

        float scores[2][4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            pair b[4];
            load_rows<STRIDE>(b, step_keys + k * 16);
            multiply_two(scores, q[k], b);
        }
        if (first + KEYS > end) {
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (first + n * 8 + lane % 4 * 2 + i % 2 >= end) scores[n][i] = LOWEST;
                }
            }
        }
        soften<KEYS>(softmax, scores, sums, scale);
        pair weights[4];
        as_left(weights, scores);
#pragma unroll
        for (int n = 0; n < STEPS; n++) {
            pair b[4];
            load_columns<STRIDE>(b, step_keys + KEYS * STRIDE + n * 16);
            multiply_two(sums.of + 2 * n, weights, b);
        }
    }

    // All warps are done with the stages, whose room is used again: [warp][head][FOUND].
    __syncthreads();
    float* found = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = row_sum(softmax.sum[half]);
        uint32_t head = half * 8 + lane / 4;
        if (head >= heads) continue;
        float* to = found + (warp * 16 + head) * FOUND;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) to[n * 8 + lane % 4 * 2 + i] = sums.of[n][2 * half + i];
        }
        if (lane % 4 == 0) {
            to[HEAD_DIM] = softmax.largest[half];
            to[HEAD_DIM + 1] = sum;
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < heads * HEAD_DIM; i += THREADS) {
        uint32_t head = i / HEAD_DIM, column = i % HEAD_DIM;
        float largest = LOWEST, value = 0.0f, sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, found[(w * 16 + head) * FOUND + HEAD_DIM]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float* of = found + (w * 16 + head) * FOUND;
            float weight = exp2_((of[HEAD_DIM] - largest) * scale);
            value += weight * of[column];
            sum += weight * of[HEAD_DIM + 1];
        }
        uint64_t place = (uint64_t)row * HEADS + first_head + head;
        if (parts) {
            float* to = parts + (place * gridDim.z + blockIdx.z) * (HEAD_DIM + 2);
            to[column] = value;
            if (column == 0) {
                to[HEAD_DIM] = largest;
                to[HEAD_DIM + 1] = sum;
            }
        } else {
            out[place * HEAD_DIM + column] = to_element(sum > 0.0f ? value / sum : 0.0f);
        }
    }
}

// Joins the parts, at most 32, of `count` heads of all rows: a warp per head.
KERNEL(join, THREADS, const float* parts, element* out, uint32_t count, uint32_t each, float scale) {
    uint32_t place = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (place >= count) return;
    const float* of = parts + (uint64_t)place * each * (HEAD_DIM + 2);
    float largest = LOWEST, sum = 0.0f;
    if (lane < each) {
        largest = of[lane * (HEAD_DIM + 2) + HEAD_DIM];
        sum = of[lane * (HEAD_DIM + 2) + HEAD_DIM + 1];
    }
    float weight = exp2_((largest - warp_max(largest)) * scale);
    sum = warp_sum(weight * sum);
#pragma unroll
    for (uint32_t first = 0; first < HEAD_DIM; first += WARP) {
        uint32_t column = first + lane;
        float value = 0.0f;
        for (uint32_t p = 0; p < each; p++) {
            float share = shuffle_from(weight, p);
            if (column < HEAD_DIM) value += share * of[p * (HEAD_DIM + 2) + column];
        }
        if (column < HEAD_DIM) out[(uint64_t)place * HEAD_DIM + column] = to_element(sum > 0.0f ? value / sum : 0.0f);
    }
}
