// The residual stream, a row of floats per token, and the small steps between products: embedding, normalisation, rotation,
// activations.

// x[row] = embedding[tokens[row]]; a block per row.
KERNEL(embed, 256, const element* embedding, const uint32_t* tokens, float* x, uint32_t hidden) {
    const element* from = embedding + (uint64_t)tokens[blockIdx.x] * hidden;
    float* to = x + (uint64_t)blockIdx.x * hidden;
    for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) to[i] = to_float(from[i]);
}

// out[row] = x[row] · scale · weight with scale = 1 / √(mean x² + epsilon), kept in scales[row] where there is such; a block per
// row.
KERNEL(rms_norm, 256, const float* x, const element* weight, element* out, float* scales, uint32_t hidden, float epsilon) {
    __shared__ float room[33];
    const float* from = x + (uint64_t)blockIdx.x * hidden;
    element* to = out + (uint64_t)blockIdx.x * hidden;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) sum += from[i] * from[i];
    float scale = rsqrtf(block_sum(sum, room) / hidden + epsilon);
    if (scales && threadIdx.x == 0) scales[blockIdx.x] = scale;
    for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) to[i] = to_element(from[i] * scale * to_float(weight[i]));
}

// out = silu(gate) · up, where a row of `input` is the gates followed by the ups, `width` each; a thread per eight of out.
KERNEL(swiglu, 256, const element* input, element* out, uint32_t width) {
    uint32_t i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    const element* row = input + (uint64_t)blockIdx.y * 2 * width;
    eight gate = load_eight(row + i), up = load_eight(row + width + i), active;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float g = to_float(gate.of[k]);
        active.of[k] = to_element(g * sigmoid(g) * to_float(up.of[k]));
    }
    store_eight(out + (uint64_t)blockIdx.y * width + i, active);
}

// out = max(x, 0)²; a thread per eight.
KERNEL(squared_relu, 256, const element* input, element* out, uint32_t width) {
    uint32_t i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    uint64_t at = (uint64_t)blockIdx.y * width + i;
    eight x = load_eight(input + at);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float y = fmaxf(to_float(x.of[k]), 0.0f);
        x.of[k] = to_element(y * y);
    }
    store_eight(out + at, x);
}
