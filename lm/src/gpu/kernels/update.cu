// The weights that are trained, and their update.
//
// A weight is a 32-bit float that is kept as two numbers of 16 bits: the nearest element, which all products read, and what the
// float's bits are beyond that element's. A float half way between two elements goes to the one further from zero, so that the rest
// fits 16 bits with a sign. Where elements are floats already, the rest is not used.

#ifdef ELEMENT_IS_FLOAT
DEVICE element nearest(float x) { return to_element(x); }
DEVICE int16_t rest(float) { return 0; }
DEVICE float whole(element x, int16_t) { return to_float(x); }
#else
DEVICE uint32_t nearest_bits(float x) { return (__float_as_uint(x) + 0x8000u) >> 16; }
DEVICE element nearest(float x) { return {(uint16_t)nearest_bits(x)}; }
DEVICE int16_t rest(float x) { return (int16_t)(uint16_t)(__float_as_uint(x) - (nearest_bits(x) << 16)); }
DEVICE float whole(element x, int16_t rest) { return __uint_as_float(((uint32_t)x.bits << 16) + (uint32_t)(int32_t)rest); }
#endif

struct alignas(4 * sizeof(element)) elements {
    element of[4];
};

struct alignas(8) rests {
    int16_t of[4];
};

// Takes floats apart; `low` may be missing. `count` is in fours.
KERNEL(split, 256, const float* from, element* high, int16_t* low, uint32_t count) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    four x = load_four(from + (uint64_t)i * 4);
    elements kept;
    rests beyond;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        kept.of[k] = nearest(x.of[k]);
        beyond.of[k] = rest(x.of[k]);
    }
    reinterpret_cast<elements*>(high)[i] = kept;
    if (low) reinterpret_cast<rests*>(low)[i] = beyond;
}

// Puts them together again.
KERNEL(join, 256, const element* high, const int16_t* low, float* to, uint32_t count) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    elements kept = reinterpret_cast<const elements*>(high)[i];
    rests beyond = reinterpret_cast<const rests*>(low)[i];
    four x;
#pragma unroll
    for (int k = 0; k < 4; k++) x.of[k] = whole(kept.of[k], beyond.of[k]);
    store_four(to + (uint64_t)i * 4, x);
}

// partial[block] = Σ x² over the block's `each` fours of `count`.
KERNEL(squares, 256, const float* x, float* partial, uint32_t count, uint32_t each) {
    __shared__ float room[33];
    uint32_t first = blockIdx.x * each, end = smaller(first + each, count);
    float sum = 0.0f;
#pragma unroll 4
    for (uint32_t i = first + threadIdx.x; i < end; i += blockDim.x) {
        four values = load_four(x + (uint64_t)i * 4);
#pragma unroll
        for (int k = 0; k < 4; k++) sum = fmaf(values.of[k], values.of[k], sum);
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One step of AdamW. `parts` holds of every block where its weights start, how many there are (both in fours), and whether they
// decay. The corrections of both means are in `rate` and `epsilon`.
KERNEL(adamw, 256, element* high, int16_t* low, const float* gradients, float* first, float* second, const uint32_t* parts,
       float scale, float beta1, float beta2, float decay, float rate, float epsilon) {
    uint32_t start = parts[blockIdx.x * 3], count = parts[blockIdx.x * 3 + 1];
    float kept = parts[blockIdx.x * 3 + 2] ? decay : 1.0f;
    for (uint32_t j = threadIdx.x; j < count; j += blockDim.x) {
        uint64_t i = (uint64_t)start + j;
        elements weights = reinterpret_cast<const elements*>(high)[i];
        rests beyond = reinterpret_cast<const rests*>(low)[i];
        four gradient = load_four(gradients + i * 4), mean = load_four(first + i * 4), square = load_four(second + i * 4);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float slope = gradient.of[k] * scale;
            mean.of[k] = fmaf(beta1, mean.of[k], (1.0f - beta1) * slope);
            square.of[k] = fmaf(beta2, square.of[k], (1.0f - beta2) * slope * slope);
            float step = rate * mean.of[k] / (sqrtf(square.of[k]) + epsilon);
            float weight = fmaf(whole(weights.of[k], beyond.of[k]), kept, -step);
            weights.of[k] = nearest(weight);
            beyond.of[k] = rest(weight);
        }
        reinterpret_cast<elements*>(high)[i] = weights;
        reinterpret_cast<rests*>(low)[i] = beyond;
        store_four(first + i * 4, mean);
        store_four(second + i * 4, square);
    }
}
