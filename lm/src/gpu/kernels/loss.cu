// Cross entropy of a chunk of logits, and its gradient in their place.

// losses[row] = -ln p(tokens[row]) with p the softmax of row `row` of the logits, whose rows start `stride` floats apart, a
// multiple of 4. Where there is `gradient`, that of scale · loss by the logits is written there as elements, in rows that start
// gradient_stride apart. It is the memory of the logits themselves, and an element takes at most the room of a float: what is
// written has been read. A block per row; a thread has four logits at a time.
KERNEL(cross_entropy, 1024, const float* logits, const uint32_t* tokens, float* losses, element* gradient, uint32_t vocabulary,
       uint32_t stride, uint32_t gradient_stride, float scale) {
    __shared__ float room[33], more_room[33];
    const float* row = logits + (uint64_t)blockIdx.x * stride;
    uint32_t token = tokens[blockIdx.x];
    float largest = LOWEST, sum = 0.0f;
    for (uint32_t i = threadIdx.x * 4; i < vocabulary; i += blockDim.x * 4) {
        four x = load_four(row + i);
        float peak = largest;
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (i + k < vocabulary) peak = fmaxf(peak, x.of[k]);
        sum *= exp_(largest - peak);
        largest = peak;
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (i + k < vocabulary) sum += exp_(x.of[k] - largest);
    }
    float peak = block_max(largest, room);
    float total = block_sum(sum * exp_(largest - peak), more_room);
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(total) + (peak - row[token]);
    if (!gradient) return;
    float share = scale / total;
    element* to = gradient + (uint64_t)blockIdx.x * gradient_stride;
    // In whole rounds: no thread writes before all have read what lies there.
    for (uint32_t start = 0; start < vocabulary; start += blockDim.x * 4) {
        uint32_t i = start + threadIdx.x * 4;
        four x = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (i < vocabulary) x = load_four(row + i);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (i + k < vocabulary) {
                float slope = share * exp_(x.of[k] - peak);
                to[i + k] = to_element(i + k == token ? slope - scale : slope);
            }
        }
    }
}
