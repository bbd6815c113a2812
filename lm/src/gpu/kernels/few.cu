// Products of a few rows with a matrix that has a row per output: y[row][output] = Σ x[row][i] · weights[output][i].
//
// With few rows a product is as fast as its weights are read, and libraries made for large products do not read them at the
// memory's speed. Here a block has OUTPUTS outputs; its warps share the inputs out, 16 bytes a thread, and all of a warp's reads are
// under way before the first is used. What is read of x is used for all outputs. x may be computed on the way, which saves the
// launch that would compute it first: a normalised row, whose scale is a factor of the sum and so is found in the same loop, or
// a gated one.

#define OUTPUTS 4
#define WARPS 4

// What a row of x is: elements; floats to be normalised, with a weight each; gates, and as many values that they let through.
#define ELEMENTS 0
#define NORMED 1
#define GATED 2

// What becomes of a result.
#define AS_ELEMENT 0
#define AS_FLOAT 1
#define ADDED 2

template <int ROWS, int INPUT>
DEVICE void few(const element* x, const float* stream, const element* norm, float epsilon, const element* weights,
                element* elements, float* floats, uint32_t rows, uint32_t outputs, uint32_t inputs, uint32_t to) {
    __shared__ float partial[WARPS][OUTPUTS][ROWS];
    __shared__ float squares[WARPS][ROWS];
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t output = blockIdx.x * OUTPUTS;
    const element* from[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
        // Beyond the last output the last one is read again, and the result thrown away.
        from[o] = weights + (uint64_t)smaller(output + o, outputs - 1) * inputs;
    }
    float sums[OUTPUTS][ROWS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[o][r] = 0.0f;
    float square[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) square[r] = 0.0f;

#pragma unroll 2
    for (uint32_t i = threadIdx.x * 8; i < inputs; i += WARPS * WARP * 8) {
        eight w[OUTPUTS];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) w[o] = load_eight(from[o] + i);
        eight scale;
        if (INPUT == NORMED) scale = load_eight(norm + i);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            uint64_t row = smaller(r, rows - 1);
            float values[8];
            if (INPUT == NORMED) {
                load_floats(values, stream + row * inputs + i);
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    square[r] += values[k] * values[k];
                    values[k] *= to_float(scale.of[k]);
                }
            } else if (INPUT == GATED) {
                eight gate = load_eight(x + row * 2 * inputs + i), up = load_eight(x + (row * 2 + 1) * inputs + i);
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    float g = to_float(gate.of[k]);
                    values[k] = g * sigmoid(g) * to_float(up.of[k]);
                }
            } else {
                eight v = load_eight(x + row * inputs + i);
#pragma unroll
                for (int k = 0; k < 8; k++) values[k] = to_float(v.of[k]);
            }
#pragma unroll
            for (int k = 0; k < 8; k++) {
                float value = values[k];
#pragma unroll
                for (int o = 0; o < OUTPUTS; o++) sums[o][r] += to_float(w[o].of[k]) * value;
            }
        }
    }
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(sums[o][r]);
            if (lane == 0) partial[warp][o][r] = sum;
        }
    if (INPUT == NORMED) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(square[r]);
            if (lane == 0) squares[warp][r] = sum;
        }
    }
    __syncthreads();
    if (threadIdx.x < OUTPUTS * ROWS) {
        uint32_t o = threadIdx.x % OUTPUTS, r = threadIdx.x / OUTPUTS;
        if (output + o < outputs && r < rows) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += partial[w][o][r];
            if (INPUT == NORMED) {
                float all = 0.0f;
#pragma unroll
                for (int w = 0; w < WARPS; w++) all += squares[w][r];
                sum *= rsqrtf(all / inputs + epsilon);
            }
            uint64_t at = (uint64_t)r * outputs + output + o;
            if (to == AS_ELEMENT) {
                elements[at] = to_element(sum);
            } else {
                floats[at] = to == ADDED ? floats[at] + sum : sum;
            }
        }
    }
}

#define FEW(ROWS)                                                                                                        \
    KERNEL(few_##ROWS, WARPS* WARP, const element* x, const element* weights, element* elements, float* floats,          \
           uint32_t rows, uint32_t outputs, uint32_t inputs, uint32_t to) {                                              \
        few<ROWS, ELEMENTS>(x, 0, 0, 0.0f, weights, elements, floats, rows, outputs, inputs, to);                        \
    }                                                                                                                    \
    KERNEL(few_normed_##ROWS, WARPS* WARP, const float* x, const element* norm, float epsilon, const element* weights,   \
           element* elements, float* floats, uint32_t rows, uint32_t outputs, uint32_t inputs, uint32_t to) {            \
        few<ROWS, NORMED>(0, x, norm, epsilon, weights, elements, floats, rows, outputs, inputs, to);                    \
    }                                                                                                                    \
    KERNEL(few_gated_##ROWS, WARPS* WARP, const element* x, const element* weights, element* elements, float* floats,    \
           uint32_t rows, uint32_t outputs, uint32_t inputs, uint32_t to) {                                              \
        few<ROWS, GATED>(x, 0, 0, 0.0f, weights, elements, floats, rows, outputs, inputs, to);                           \
    }

FEW(1)
FEW(2)
FEW(4)
FEW(8)
