// Queries and keys on their way from a projection to attention, in training: biases, normalisation of heads, rotation; and back.
//
// Compiled for a model: HEAD_DIM (a multiple of 16), HEADS, KEY_HEADS. A row holds queries, then keys, then values.

#define HALF (HEAD_DIM / 2)
#define TURNED (HEADS + KEY_HEADS)
#define ROW ((TURNED + KEY_HEADS) * HEAD_DIM)
// Elements of a head that a lane holds.
#define HELD ((HEAD_DIM + WARP - 1) / WARP)

// Adds a bias, where there is one, to all of a row; then turns its queries and keys by their position, forward with sign 1 and
// back with -1. A block per row. A thread turns eight pairs at a time.
KERNEL(turn, 256, element* qkv, const element* bias, const float* frequencies, const uint32_t* positions, float sign) {
    __shared__ float cosines[HALF], sines[HALF];
    element* row = qkv + (uint64_t)blockIdx.x * ROW;
    float position = (float)positions[blockIdx.x];
    for (uint32_t i = threadIdx.x; i < HALF; i += blockDim.x) {
        float angle = position * frequencies[i];
        cosines[i] = cosf(angle);
        sines[i] = sign * sinf(angle);
    }
    __syncthreads();
    for (uint32_t part = threadIdx.x; part < TURNED * (HALF / 8); part += blockDim.x) {
        uint32_t i = part % (HALF / 8) * 8, at = part / (HALF / 8) * HEAD_DIM + i;
        eight low = load_eight(row + at), high = load_eight(row + at + HALF), low_bias, high_bias;
        if (bias) {
            low_bias = load_eight(bias + at);
            high_bias = load_eight(bias + at + HALF);
        }
#pragma unroll
        for (int k = 0; k < 8; k++) {
            float a = to_float(low.of[k]), b = to_float(high.of[k]), cosine = cosines[i + k], sine = sines[i + k];
            if (bias) {
                a += to_float(low_bias.of[k]);
                b += to_float(high_bias.of[k]);
            }
            low.of[k] = to_element(fmaf(a, cosine, -(b * sine)));
            high.of[k] = to_element(fmaf(b, cosine, a * sine));
        }
        store_eight(row + at, low);
        store_eight(row + at + HALF, high);
    }
    if (!bias) return;
    for (uint32_t i = TURNED * HEAD_DIM + threadIdx.x * 8; i < ROW; i += blockDim.x * 8) {
        eight value = load_eight(row + i), more = load_eight(bias + i);
#pragma unroll
        for (int k = 0; k < 8; k++) value.of[k] = to_element(to_float(value.of[k]) + to_float(more.of[k]));
        store_eight(row + i, value);
    }
}

// to[row] = from[row] with every query head and every key head divided by its root mean square and scaled by a weight; what they
// were multiplied by is kept in scales[row][head]. A block per row, a warp per head.
KERNEL(head_norm, 256, const element* from, element* to, const element* query_weight, const element* key_weight, float* scales,
       float epsilon) {
    uint64_t row = (uint64_t)blockIdx.x * ROW;
    uint32_t lane = threadIdx.x % WARP;
    for (uint32_t head = threadIdx.x / WARP; head < TURNED; head += blockDim.x / WARP) {
        const element* x = from + row + head * HEAD_DIM;
        const element* weight = head < HEADS ? query_weight : key_weight;
        float values[HELD];
        float squares = 0.0f;
#pragma unroll
        for (int k = 0; k < HELD; k++) {
            uint32_t i = k * WARP + lane;
            values[k] = i < HEAD_DIM ? to_float(x[i]) : 0.0f;
            squares += values[k] * values[k];
        }
        float scale = rsqrtf(warp_sum(squares) / HEAD_DIM + epsilon);
        if (lane == 0) scales[(uint64_t)blockIdx.x * TURNED + head] = scale;
#pragma unroll
        for (int k = 0; k < HELD; k++) {
            uint32_t i = k * WARP + lane;
            if (i < HEAD_DIM) to[row + head * HEAD_DIM + i] = to_element(values[k] * scale * to_float(weight[i]));
        }
    }
    for (uint32_t i = TURNED * HEAD_DIM + threadIdx.x * 8; i < ROW; i += blockDim.x * 8)
        store_eight(to + row + i, load_eight(from + row + i));
}

#define WARPS 8

// The way back: turns the gradient of what `head_norm` gave into that of what it was given, x; partial[block] gets the sums over
// the block's rows of the gradients of the queries' weight, then of the keys', where there is `partial`.
KERNEL(head_norm_backward, WARPS* WARP, const element* x, const element* query_weight, const element* key_weight,
       const float* scales, element* gradient, float* partial, uint32_t rows, uint32_t rows_per_block) {
    __shared__ float room[WARPS][HEAD_DIM];
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float query_sums[HELD], key_sums[HELD];
#pragma unroll
    for (int k = 0; k < HELD; k++) query_sums[k] = key_sums[k] = 0.0f;
    uint32_t first = blockIdx.x * rows_per_block;
    for (uint32_t row = first; row < smaller(first + rows_per_block, rows); row++) {
        for (uint32_t head = warp; head < TURNED; head += WARPS) {
            uint64_t at = (uint64_t)row * ROW + head * HEAD_DIM;
            const element* weight = head < HEADS ? query_weight : key_weight;
            float scale = scales[(uint64_t)row * TURNED + head];
            float values[HELD], slopes[HELD];
            float along = 0.0f;
#pragma unroll
            for (int k = 0; k < HELD; k++) {
                uint32_t i = k * WARP + lane;
                values[k] = slopes[k] = 0.0f;
                if (i < HEAD_DIM) {
                    float slope = to_float(gradient[at + i]);
                    values[k] = to_float(x[at + i]);
                    slopes[k] = slope * to_float(weight[i]);
                    along += slopes[k] * values[k];
                    float term = values[k] * scale * slope;
                    query_sums[k] += head < HEADS ? term : 0.0f;
                    key_sums[k] += head < HEADS ? 0.0f : term;
                }
            }
            float pull = warp_sum(along) * scale * scale * scale / HEAD_DIM;
#pragma unroll
            for (int k = 0; k < HELD; k++) {
                uint32_t i = k * WARP + lane;
                if (i < HEAD_DIM) gradient[at + i] = to_element(fmaf(slopes[k], scale, -(values[k] * pull)));
            }
        }
    }
    if (!partial) return;
    for (int kind = 0; kind < 2; kind++) {
#pragma unroll
        for (int k = 0; k < HELD; k++) {
            uint32_t i = k * WARP + lane;
            if (i < HEAD_DIM) room[warp][i] = kind == 0 ? query_sums[k] : key_sums[k];
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < HEAD_DIM; i += blockDim.x) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += room[w][i];
            partial[((uint64_t)blockIdx.x * 2 + kind) * HEAD_DIM + i] = sum;
        }
        __syncthreads();
    }
}
