// The way back through the steps of stream.cu. Sums over rows are made in two stages: a block adds up its own rows, and
// `sum_columns` the blocks'.

// The way back through `rms_norm`, given the gradient of what it gave. For every row of x,
//   stream[row] = (adds ? stream[row] : 0) + the gradient of x[row],  rounded[row] = the same as elements,
//   gradient[place] = what `rms_norm` gave, where `again`: the products that made the gradient are done with it,
//   partial[block] = the sum over the block's rows of the gradient of the weight, where there is `partial`.
// `place` is places[row], or the row itself where there are no `places`; a row with place NONE was not read. `stream` may be x.
// A block has rows_per_block rows.
KERNEL(norm_backward, THREADS, const float* x, const element* weight, const float* scales, const uint32_t* places,
       element* gradient, float* stream, element* rounded, float* partial, uint32_t rows, uint32_t rows_per_block, uint32_t adds,
       uint32_t again) {
    __shared__ float room[33];
    float sums[EACH][8];
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int k = 0; k < 8; k++) sums[e][k] = 0.0f;
    uint32_t first = blockIdx.x * rows_per_block;
    for (uint32_t row = first; row < smaller(first + rows_per_block, rows); row++) {
        uint64_t at = (uint64_t)row * HIDDEN;
        uint32_t place = places ? places[row] : row;
        float values[EACH][8], slopes[EACH][8];
        float along = 0.0f, scale = 0.0f;
        if (place != NONE) {
            scale = scales[place];
            uint64_t from = (uint64_t)place * HIDDEN;
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                uint32_t i = (e * blockDim.x + threadIdx.x) * 8;
                if (i >= HIDDEN) break;
                load_floats(values[e], x + at + i);
                eight g = load_eight(gradient + from + i), w = load_eight(weight + i), normed;
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    float slope = to_float(g.of[k]);
                    slopes[e][k] = slope * to_float(w.of[k]);
                    along += slopes[e][k] * values[e][k];
                    sums[e][k] = fmaf(values[e][k] * scale, slope, sums[e][k]);
                    normed.of[k] = to_element(values[e][k] * scale * to_float(w.of[k]));
                }
                if (again) store_eight(gradient + from + i, normed);
            }
        }
        // All threads of the block have the same place.
        float pull = place == NONE ? 0.0f : block_sum(along, room) * scale * scale * scale / HIDDEN;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            uint32_t i = (e * blockDim.x + threadIdx.x) * 8;
            if (i >= HIDDEN) break;
            float to[8];
            eight narrow;
            if (adds) {
                load_floats(to, stream + at + i);
            } else {
#pragma unroll
                for (int k = 0; k < 8; k++) to[k] = 0.0f;
            }
#pragma unroll
            for (int k = 0; k < 8; k++) {
                if (place != NONE) to[k] += fmaf(slopes[e][k], scale, -(values[e][k] * pull));
                narrow.of[k] = to_element(to[k]);
            }
            store_floats(stream + at + i, to);
            store_eight(rounded + at + i, narrow);
        }
    }
    if (!partial) return;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        uint32_t i = (e * blockDim.x + threadIdx.x) * 8;
        if (i < HIDDEN) store_floats(partial + (uint64_t)blockIdx.x * HIDDEN + i, sums[e]);
    }
}

// partial[block][column] = the sum over the block's rows, as floats: grid x over parts of `rows_per_block` rows, y over columns; a
// thread has eight. `width` is a multiple of 8.
KERNEL(sum_rows, 256, const element* rows_of, float* partial, uint32_t width, uint32_t rows, uint32_t rows_per_block) {
    uint32_t i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    uint32_t first = blockIdx.x * rows_per_block;
    for (uint32_t row = first; row < smaller(first + rows_per_block, rows); row++) {
        eight x = load_eight(rows_of + (uint64_t)row * width + i);
#pragma unroll
        for (int k = 0; k < 8; k++) sums[k] += to_float(x.of[k]);
    }
    store_floats(partial + (uint64_t)blockIdx.x * width + i, sums);
}

#define COLUMNS 32
#define GROUPS 8

// to[column] = (adds ? to[column] : 0) + Σ partial[i][column] for i below `count`; a block has COLUMNS columns.
KERNEL(sum_columns, COLUMNS* GROUPS, const float* partial, float* to, uint32_t width, uint32_t count, uint32_t adds) {
    __shared__ float room[GROUPS][COLUMNS];
    uint32_t lane = threadIdx.x % COLUMNS, group = threadIdx.x / COLUMNS;
    uint32_t column = blockIdx.x * COLUMNS + lane;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (uint32_t i = group; i < count; i += GROUPS) sum += partial[(uint64_t)i * width + column];
    }
    room[group][lane] = sum;
    __syncthreads();
    if (group > 0 || column >= width) return;
#pragma unroll
    for (int g = 1; g < GROUPS; g++) sum += room[g][lane];
    to[column] = adds ? to[column] + sum : sum;
}

// The way back through `swiglu`, given the gradient of what it gave, which becomes what it gave; `input` becomes its gradient.
// Grid x over rows, y over parts of a row; a thread has eight.
KERNEL(swiglu_backward, 256, element* input, element* gradient, uint32_t width) {
    uint32_t i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    element* gates = input + (uint64_t)blockIdx.x * 2 * width + i;
    element* ups = gates + width;
    element* active = gradient + (uint64_t)blockIdx.x * width + i;
    eight gate = load_eight(gates), up = load_eight(ups), given = load_eight(active);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float g = to_float(gate.of[k]), u = to_float(up.of[k]), slope = to_float(given.of[k]);
        float share = sigmoid(g), silu = g * share;
        given.of[k] = to_element(silu * u);
        // d silu / d gate = share + silu (1 - share)
        gate.of[k] = to_element(slope * u * fmaf(silu, 1.0f - share, share));
        up.of[k] = to_element(slope * silu);
    }
    store_eight(gates, gate);
    store_eight(ups, up);
    store_eight(active, given);
}

// The same for `squared_relu`.
KERNEL(squared_relu_backward, 256, element* input, element* gradient, uint32_t width) {
    uint32_t i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    uint64_t at = (uint64_t)blockIdx.x * width + i;
    eight x = load_eight(input + at), given = load_eight(gradient + at);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float y = fmaxf(to_float(x.of[k]), 0.0f);
        x.of[k] = to_element(2.0f * y * to_float(given.of[k]));
        given.of[k] = to_element(y * y);
    }
    store_eight(input + at, x);
    store_eight(gradient + at, given);
}

// gradient[tokens[i]] += Σ stream[places[j]] over the places of the i-th token, which end at ends[i]. Grid x over tokens, all of
// them different, y over parts of a row; a thread has four columns.
KERNEL(embed_backward, 64, const float* stream, const uint32_t* tokens, const uint32_t* ends, const uint32_t* places,
       float* gradient) {
    uint32_t i = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
    if (i >= HIDDEN) return;
    float* to = gradient + (uint64_t)tokens[blockIdx.x] * HIDDEN + i;
    four sum = load_four(to);
    for (uint32_t j = blockIdx.x > 0 ? ends[blockIdx.x - 1] : 0; j < ends[blockIdx.x]; j++) {
        four x = load_four(stream + (uint64_t)places[j] * HIDDEN + i);
#pragma unroll
        for (int k = 0; k < 4; k++) sum.of[k] += x.of[k];
    }
    store_four(to, sum);
}

// to[i] = factor · from[i], as elements.
KERNEL(scaled, 256, const float* from, element* to, float factor, uint32_t count) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) to[i] = to_element(factor * from[i]);
}
