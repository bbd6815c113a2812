// Products of a few rows with a matrix that has a row per output: y[row][output] = Σ x[row][i] · weights[output][i].
//
// With few rows a product is as fast as its weights are read, and libraries made for large products do not read them at the
// memory's speed. Here a block has OUTPUTS outputs; its warps share the inputs out, 16 bytes a thread, and all of a warp's reads are
// under way before the first is used. What is read of x is used for all outputs.

#define OUTPUTS 4
#define WARPS 4

// What becomes of a result.
#define AS_ELEMENT 0
#define AS_FLOAT 1
#define ADDED 2

template <int ROWS>
DEVICE void few(const element* x, const element* weights, element* elements, float* floats, uint32_t rows, uint32_t outputs,
                uint32_t inputs, uint32_t stride, uint32_t to) {
    __shared__ float partial[WARPS][OUTPUTS][ROWS];
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

#pragma unroll 2
    for (uint32_t i = threadIdx.x * 8; i < inputs; i += WARPS * WARP * 8) {
        eight w[OUTPUTS];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) w[o] = load_eight(from[o] + i);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            eight v = load_eight(x + (uint64_t)smaller(r, rows - 1) * inputs + i);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                float value = to_float(v.of[k]);
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
    __syncthreads();
    if (threadIdx.x < OUTPUTS * ROWS) {
        uint32_t o = threadIdx.x % OUTPUTS, r = threadIdx.x / OUTPUTS;
        if (output + o < outputs && r < rows) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += partial[w][o][r];
            uint64_t at = (uint64_t)r * stride + output + o;
            if (to == AS_ELEMENT) {
                elements[at] = to_element(sum);
            } else {
                floats[at] = to == ADDED ? floats[at] + sum : sum;
            }
        }
    }
}

#define FEW(ROWS)                                                                                                          \
    KERNEL(few_##ROWS, WARPS* WARP, const element* x, const element* weights, element* elements, float* floats,            \
           uint32_t rows, uint32_t outputs, uint32_t inputs, uint32_t stride, uint32_t to) {                               \
        few<ROWS>(x, weights, elements, floats, rows, outputs, inputs, stride, to);                                        \
    }

FEW(1)
FEW(2)
FEW(4)
FEW(8)
