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
