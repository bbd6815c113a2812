// The residual stream, a row of floats per token, and the small steps between products: embedding, normalisation, rotation,
// activations.

// x[row] = embedding[tokens[row]]; a block per row. Where that is no token, and only there, the row's is the one in its seat.
KERNEL(embed, 256, const element* embedding, const uint32_t* tokens, const uint32_t* seats, const uint32_t* seated, float* x,
       uint32_t hidden) {
    uint32_t token = tokens[blockIdx.x];
    if (token == NONE) token = seated[seats[blockIdx.x]];
    const element* from = embedding + (uint64_t)token * hidden;
    float* to = x + (uint64_t)blockIdx.x * hidden;
    for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) to[i] = to_float(from[i]);
}

// out[row] = x[from] · scale · weight with scale = 1 / √(mean x² + epsilon), which is kept in scales[row] where there are
// `scales`; `from` is rows[row], or the row itself where there are no `rows`. `copy`, where there is such, gets the row of x. A
// block per row.
KERNEL(rms_norm, THREADS, const float* x, const uint32_t* rows, const element* weight, element* out, float* scales, float* copy,
       float epsilon) {
    __shared__ float room[33];
    uint64_t to = (uint64_t)blockIdx.x * HIDDEN;
    uint64_t from = rows ? (uint64_t)rows[blockIdx.x] * HIDDEN : to;
    float values[EACH][8];
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        uint32_t i = (e * blockDim.x + threadIdx.x) * 8;
        if (i >= HIDDEN) break;
        load_floats(values[e], x + from + i);
#pragma unroll
        for (int k = 0; k < 8; k++) sum += values[e][k] * values[e][k];
    }
    float scale = rsqrtf(block_sum(sum, room) / HIDDEN + epsilon);
    if (scales && threadIdx.x == 0) scales[blockIdx.x] = scale;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        uint32_t i = (e * blockDim.x + threadIdx.x) * 8;
        if (i >= HIDDEN) break;
        eight w = load_eight(weight + i), normed;
#pragma unroll
        for (int k = 0; k < 8; k++) normed.of[k] = to_element(values[e][k] * scale * to_float(w.of[k]));
        store_eight(out + to + i, normed);
        if (copy) store_floats(copy + to + i, values[e]);
    }
}

// out = silu(gate) · up, where a row of `input` is the gates followed by the ups, `width` each. Grid x over rows, y over parts of a
// row; a thread has eight.
KERNEL(swiglu, 256, const element* input, element* out, uint32_t width) {
    uint32_t i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    const element* row = input + (uint64_t)blockIdx.x * 2 * width;
    eight gate = load_eight(row + i), up = load_eight(row + width + i), active;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float g = to_float(gate.of[k]);
        active.of[k] = to_element(g * sigmoid(g) * to_float(up.of[k]));
    }
    store_eight(out + (uint64_t)blockIdx.x * width + i, active);
}

// The same for out = max(x, 0)².
KERNEL(squared_relu, 256, const element* input, element* out, uint32_t width) {
    uint32_t i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    uint64_t at = (uint64_t)blockIdx.x * width + i;
    eight x = load_eight(input + at);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float y = fmaxf(to_float(x.of[k]), 0.0f);
        x.of[k] = to_element(y * y);
    }
    store_eight(out + at, x);
}
