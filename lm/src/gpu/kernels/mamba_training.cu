// The selective state space of Mamba-2 in training: samples from a state of zero, forward and back.
//
// A sample is cut into chunks of CHUNK tokens. Inside a chunk the recurrence is a product of matrices, as in attention: with steps Δ,
// L(t) the logarithm of the decay from the chunk's start up to token t, and S the state before the chunk,
//
//   y(u) = Σ over s ≤ u of exp(L(u) - L(s)) Δ(s) (C(u)·B(s)) x(s) + exp(L(u)) S C(u) + D x(u)
//
// Only from chunk to chunk the state is passed on in order, and on the way back, in the other order, its gradient E. All sums are
// floats; what products read are elements, the states too.
//
// Compiled for a model: MAMBA_HEADS, MAMBA_DIM, GROUPS, STATE, TAPS; MAMBA_DIM and STATE are even and 128 at most.

#define INNER (MAMBA_HEADS * MAMBA_DIM)
#define CHANNELS (INNER + 2 * GROUPS * STATE)
#define MAMBA_ROW (INNER + CHANNELS + MAMBA_HEADS)
#define SERVED (MAMBA_HEADS / GROUPS)
#define CHUNK 64
// Elements of a head and of a state with the zeros that make them whole tiles, and from one row in shared memory to the next.
#define DIM ((MAMBA_DIM + 15) / 16 * 16)
#define WIDE ((STATE + 15) / 16 * 16)
#define DIM_STRIDE (DIM + 8)
#define STATE_STRIDE (WIDE + 8)

// Tokens of a sample that follow one another, and where the sample begins and ends.
struct Chunk {
    uint32_t row, rows, begin, end;
};

// What `vectors` holds, a number per head each.
#define STEP_BIAS 0
#define A_LOG MAMBA_HEADS
#define D_SHARE (2 * MAMBA_HEADS)

// Rows of `WIDTH` elements at most, `width` here, to shared memory; rows from `there` on and columns beyond are zeros. What is copied
// without waiting is there after wait_for_copies and a barrier.
template <int WIDTH, int STRIDE, int THREADS>
DEVICE void copy_rows(element* to, const element* from, uint64_t stride, uint32_t rows, uint32_t there, uint32_t width) {
    constexpr bool IS_WHOLE = MAMBA_DIM % 8 == 0 && STATE % 8 == 0;
    constexpr uint32_t EACH = IS_WHOLE ? 8 : 1;
    // Unrolled, it would keep all its addresses in registers from head to head.
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < rows * (WIDTH / EACH); i += THREADS) {
        uint32_t row = i / (WIDTH / EACH), column = i % (WIDTH / EACH) * EACH;
        bool is_there = row < there && column < width;
        const element* at = from + row * stride + column;
        if (IS_WHOLE) {
            copy_async(to + row * STRIDE + column, is_there ? at : from, is_there);
        } else {
            to[row * STRIDE + column] = is_there ? *at : to_element(0.0f);
        }
    }
}

// A state of a head, which is stored with its zeros.
template <int THREADS>
DEVICE void copy_state(element* to, const element* states, uint32_t chunk, uint32_t head) {
    const element* from = states + ((uint64_t)chunk * MAMBA_HEADS + head) * (DIM * WIDE);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < DIM * (WIDE / 8); i += THREADS) {
        copy_async(to + i / (WIDE / 8) * STATE_STRIDE + i % (WIDE / 8) * 8, from + i * 8, true);
    }
}

// Room for four floats behind a row's elements, where no tile is read.
template <int STRIDE>
DEVICE float* beside(element* rows, uint32_t row) {
    return reinterpret_cast<float*>(rows + (row + 1) * STRIDE - 8);
}

// The left operand whose rows are the part's columns.
template <int STRIDE>
DEVICE void load_left_transposed(pair (&a)[4], const element* tile) {
    uint32_t lane = threadIdx.x % WARP;
    load_tiles_transposed(a, tile + (lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8);
}

DEVICE pair scaled_pair(pair p, float x, float y) { return to_pair(first(p) * x, second(p) * y); }

// The sum over the four threads that hold a row of a tile.
DEVICE float row_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + logf(1.0f + exp_(-fabsf(x))); }

// The input of a channel in a row of the chunk's sample; before the sample, zero.
DEVICE float input_of(const element* projected, const Chunk& chunk, int64_t row, uint32_t channel) {
    return row < (int64_t)chunk.begin ? 0.0f : to_float(projected[row * MAMBA_ROW + INNER + channel]);
}

// active = silu(convolution): a thread per channel (x) and chunk (y).
KERNEL(convolve, 256, const element* projected, const element* taps, const element* bias, const Chunk* chunks, element* active) {
    const Chunk chunk = chunks[blockIdx.y];
    uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= CHANNELS) return;
    float weights[TAPS], window[TAPS];
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) weights[tap] = to_float(taps[(uint64_t)channel * TAPS + tap]);
#pragma unroll
    for (int tap = 1; tap < TAPS; tap++) window[tap] = input_of(projected, chunk, (int64_t)chunk.row - TAPS + tap, channel);
    float start = bias ? to_float(bias[channel]) : 0.0f;
#pragma unroll 4
    for (uint32_t row = chunk.row; row < chunk.row + chunk.rows; row++) {
        float sum = start;
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            window[tap] = tap + 1 < TAPS ? window[(tap + 1) % TAPS] : input_of(projected, chunk, row, channel);
            sum += weights[tap] * window[tap];
        }
        active[(uint64_t)row * CHANNELS + channel] = to_element(sum * sigmoid(sum));
    }
}

// The way back, given the gradient of what `convolve` gave: the gradient of its input at its place in the rows of the projection,
// and in partial[chunk], where there is such, the sums over the chunk for the weight, [channel][tap], and then for the bias.
KERNEL(convolve_backward, 256, const element* projected, const element* taps, const element* bias, const element* gradient,
       const Chunk* chunks, element* projected_gradient, float* partial) {
    const Chunk chunk = chunks[blockIdx.y];
    uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= CHANNELS) return;
    // The slopes of the convolution's sums in the last TAPS rows.
    float weights[TAPS], window[TAPS], slopes[TAPS], sums[TAPS], bias_sum = 0.0f;
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) {
        weights[tap] = to_float(taps[(uint64_t)channel * TAPS + tap]);
        slopes[tap] = sums[tap] = 0.0f;
    }
#pragma unroll
    for (int tap = 1; tap < TAPS; tap++) window[tap] = input_of(projected, chunk, (int64_t)chunk.row - TAPS + tap, channel);
    float start = bias ? to_float(bias[channel]) : 0.0f;
    uint32_t end = chunk.row + chunk.rows;
    // An input is read by its own row and the TAPS - 1 after it.
#pragma unroll 4
    for (uint32_t row = chunk.row; row < end + TAPS - 1; row++) {
        bool is_there = row < chunk.end;
        float sum = start, slope = 0.0f;
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            window[tap] = tap + 1 < TAPS ? window[(tap + 1) % TAPS] : is_there ? input_of(projected, chunk, row, channel) : 0.0f;
            sum += weights[tap] * window[tap];
        }
        if (is_there) {
            float share = sigmoid(sum);
            slope = to_float(gradient[(uint64_t)row * CHANNELS + channel]) * share * fmaf(sum, 1.0f - share, 1.0f);
        }
        float to = 0.0f;
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            slopes[tap] = tap + 1 < TAPS ? slopes[(tap + 1) % TAPS] : slope;
            to += weights[TAPS - 1 - tap] * slopes[tap];
            if (row < end) sums[tap] += slope * window[tap];
        }
        if (row < end) bias_sum += slope;
        if (row + 1 >= chunk.row + TAPS) {
            uint64_t at = (uint64_t)(row + 1 - TAPS) * MAMBA_ROW + INNER + channel;
            projected_gradient[at] = to_element(to);
        }
    }
    if (!partial) return;
    float* there = partial + (uint64_t)blockIdx.y * (CHANNELS * (bias ? TAPS + 1 : TAPS));
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) there[channel * TAPS + tap] = sums[tap];
    if (bias) there[CHANNELS * TAPS + channel] = bias_sum;
}

// Per chunk (x) and head (y, and a thread each) the steps of the tokens, steps[chunk][head][0], and the base-2 logarithms of the decay
// from the chunk's start up to each, steps[chunk][head][1]. Beyond the chunk's rows steps are 0.
KERNEL(decays, 128, const element* projected, const float* vectors, const Chunk* chunks, float* steps, float least, float most) {
    const Chunk chunk = chunks[blockIdx.x];
    uint32_t head = blockIdx.y * blockDim.x + threadIdx.x;
    if (head >= MAMBA_HEADS) return;
    float a = -exp_(vectors[A_LOG + head]) * LOG2_E, bias = vectors[STEP_BIAS + head], sum = 0.0f;
    float* to = steps + ((uint64_t)blockIdx.x * MAMBA_HEADS + head) * (2 * CHUNK);
    const element* raw = projected + (uint64_t)chunk.row * MAMBA_ROW + INNER + CHANNELS + head;
#pragma unroll 4
    for (uint32_t i = 0; i < CHUNK; i++) {
        float step = 0.0f;
        if (i < chunk.rows) step = fminf(fmaxf(softplus(to_float(raw[(uint64_t)i * MAMBA_ROW]) + bias), least), most);
        sum += step * a;
        to[i] = step;
        to[CHUNK + i] = sum;
    }
}

// Columns of the state that a block passes on, 16 for each of its warps.
#define PART 64
#define PART_STRIDE (PART + 8)
#define STAGE (CHUNK * (DIM_STRIDE + PART_STRIDE))

// The state before every chunk, states[chunk][head][DIM][WIDE]: from chunk to chunk
//   S = exp(L(last)) S + Σ exp(L(last) - L(s)) Δ(s) x(s) B(s)ᵀ
// or, `backward`, the gradient of the state after every chunk, from the last one to the first:
//   E = exp(L(last)) E + Σ exp(L(u)) g(u) C(u)ᵀ
// with the rows x or g of `left`, whose rows are `left_stride` apart, and B or C of `active`. A block per head (x), sample (y) and part
// of the state's columns (z); samples[2 i] and the next are the sample's first chunk and the one after its last.
KERNEL(pass_states, 128, const element* left, uint32_t left_stride, const element* active, const float* steps, const Chunk* chunks,
       const uint32_t* samples, element* states, uint32_t backward) {
    DYNAMIC_SHARED(memory);
    __shared__ float weights[2][CHUNK], shrinks[2];
    element* stages = reinterpret_cast<element*>(memory);
    uint32_t head = blockIdx.x, first_chunk = samples[2 * blockIdx.y], end_chunk = samples[2 * blockIdx.y + 1];
    uint32_t count = end_chunk - first_chunk, part = blockIdx.z * PART;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, column = part + warp * 16;
    const element* right = active + INNER + (backward ? GROUPS * STATE : 0) + head / SERVED * STATE + part;

    auto chunk_at = [&](uint32_t i) { return backward ? end_chunk - 1 - i : first_chunk + i; };
    auto begin = [&](uint32_t i) {
        uint32_t number = chunk_at(i);
        const Chunk chunk = chunks[number];
        element* to = stages + i % 2 * STAGE;
        const element* from = left + (uint64_t)chunk.row * left_stride + head * MAMBA_DIM;
        copy_rows<DIM, DIM_STRIDE, 128>(to, from, left_stride, CHUNK, chunk.rows, MAMBA_DIM);
        from = right + (uint64_t)chunk.row * CHANNELS;
        copy_rows<PART, PART_STRIDE, 128>(to + CHUNK * DIM_STRIDE, from, CHANNELS, CHUNK, chunk.rows, STATE - part);
        close_copies();
        const float* step = steps + ((uint64_t)number * MAMBA_HEADS + head) * (2 * CHUNK);
        if (threadIdx.x < CHUNK) {
            float sum = step[CHUNK + threadIdx.x], last = step[2 * CHUNK - 1];
            weights[i % 2][threadIdx.x] = backward ? exp2_(sum) : exp2_(last - sum) * step[threadIdx.x];
            if (threadIdx.x == 0) shrinks[i % 2] = exp2_(last);
        }
    };

    float sums[DIM / 16][2][4] = {};
    begin(0);
    for (uint32_t i = 0; i < count; i++) {
        wait_for_copies<0>();
        __syncthreads();
        if (i + 1 < count) begin(i + 1);
        if (column >= WIDE) continue;
        element* to = states + (((uint64_t)chunk_at(i) * MAMBA_HEADS + head) * DIM + lane / 4) * WIDE + column + lane % 4 * 2;
        float shrink = shrinks[i % 2];
#pragma unroll
        for (int m = 0; m < DIM / 16; m++) {
#pragma unroll
            for (int n = 0; n < 2; n++) {
                float(&sum)[4] = sums[m][n];
                *reinterpret_cast<pair*>(to + m * 16 * WIDE + n * 8) = to_pair(sum[0], sum[1]);
                *reinterpret_cast<pair*>(to + (m * 16 + 8) * WIDE + n * 8) = to_pair(sum[2], sum[3]);
#pragma unroll
                for (int k = 0; k < 4; k++) sum[k] *= shrink;
            }
        }
        const element* rows = stages + i % 2 * STAGE;
#pragma unroll
        for (int k = 0; k < CHUNK / 16; k++) {
            pair b[4];
            load_columns<PART_STRIDE>(b, rows + CHUNK * DIM_STRIDE + k * 16 * PART_STRIDE + warp * 16);
            const float* weight = weights[i % 2] + k * 16 + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < 4; j++) b[j] = scaled_pair(b[j], weight[j % 2 * 8], weight[j % 2 * 8 + 1]);
#pragma unroll
            for (int m = 0; m < DIM / 16; m++) {
                pair a[4];
                load_left_transposed<DIM_STRIDE>(a, rows + k * 16 * DIM_STRIDE + m * 16);
                multiply_two(sums[m], a, b);
            }
        }
    }
}

// The state-space outputs y of a chunk (x) for the heads of a group (y), one after the other; a warp has 16 of the rows.
KERNEL(scan, 128, const element* active, const float* steps, const float* vectors, const element* states, const Chunk* chunks,
       element* y) {
    DYNAMIC_SHARED(memory);
    __shared__ float step[CHUNK], sum[CHUNK];
    const Chunk chunk = chunks[blockIdx.x];
    uint32_t group = blockIdx.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    element* cs = reinterpret_cast<element*>(memory);
    element* bs = cs + CHUNK * STATE_STRIDE;
    element* xs = bs + CHUNK * STATE_STRIDE;
    element* state = xs + CHUNK * DIM_STRIDE;
    const element* rows = active + (uint64_t)chunk.row * CHANNELS;
    copy_rows<WIDE, STATE_STRIDE, 128>(bs, rows + INNER + group * STATE, CHANNELS, CHUNK, chunk.rows, STATE);
    copy_rows<WIDE, STATE_STRIDE, 128>(cs, rows + INNER + (GROUPS + group) * STATE, CHANNELS, CHUNK, chunk.rows, STATE);
    close_copies();
    wait_for_copies<0>();
    __syncthreads();
    // C(u)·B(s), the same for all heads.
    float products[CHUNK / 8][4] = {};
#pragma unroll
    for (int k = 0; k < WIDE / 16; k++) {
        pair a[4];
        load_left<STATE_STRIDE>(a, cs + warp * 16 * STATE_STRIDE + k * 16);
#pragma unroll
        for (int n = 0; n < CHUNK / 16; n++) {
            if (n > (int)warp) continue;
            pair b[4];
            load_rows<STATE_STRIDE>(b, bs + n * 16 * STATE_STRIDE + k * 16);
            multiply_two(products + 2 * n, a, b);
        }
    }
    uint32_t own[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
    for (uint32_t head = group * SERVED; head < (group + 1) * SERVED; head++) {
        __syncthreads();
        copy_rows<DIM, DIM_STRIDE, 128>(xs, rows + head * MAMBA_DIM, CHANNELS, CHUNK, chunk.rows, MAMBA_DIM);
        copy_state<128>(state, states, blockIdx.x, head);
        close_copies();
        const float* from = steps + ((uint64_t)blockIdx.x * MAMBA_HEADS + head) * (2 * CHUNK);
        if (threadIdx.x < CHUNK) step[threadIdx.x] = from[threadIdx.x];
        else sum[threadIdx.x - CHUNK] = from[threadIdx.x];
        wait_for_copies<0>();
        __syncthreads();
        float out[DIM / 8][4] = {};
#pragma unroll
        for (int k = 0; k < WIDE / 16; k++) {
            pair a[4];
            load_left<STATE_STRIDE>(a, cs + warp * 16 * STATE_STRIDE + k * 16);
#pragma unroll
            for (int n = 0; n < DIM / 16; n++) {
                pair b[4];
                load_rows<STATE_STRIDE>(b, state + n * 16 * STATE_STRIDE + k * 16);
                multiply_two(out + 2 * n, a, b);
            }
        }
        float mine[2] = {sum[own[0]], sum[own[1]]};
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[n][i] *= exp2_(mine[i / 2]);
#pragma unroll
        for (int k = 0; k < CHUNK / 16; k++) {
            if (k > (int)warp) continue;
            float weights[2][4];
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t s = k * 16 + n * 8 + lane % 4 * 2 + i % 2;
                    float decay = exp2_(mine[i / 2] - sum[s]) * step[s];
                    weights[n][i] = s <= own[i / 2] ? products[2 * k + n][i] * decay : 0.0f;
                }
            pair a[4];
            as_left(a, weights);
#pragma unroll
            for (int n = 0; n < DIM / 16; n++) {
                pair b[4];
                load_columns<DIM_STRIDE>(b, xs + k * 16 * DIM_STRIDE + n * 16);
                multiply_two(out + 2 * n, a, b);
            }
        }
        float passed = vectors[D_SHARE + head];
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t column = n * 8 + lane % 4 * 2;
                if (own[half] >= chunk.rows || column >= MAMBA_DIM) continue;
                pair x = *reinterpret_cast<const pair*>(xs + own[half] * DIM_STRIDE + column);
                element* to = y + (uint64_t)(chunk.row + own[half]) * INNER + head * MAMBA_DIM + column;
                *reinterpret_cast<pair*>(to) =
                    to_pair(fmaf(passed, first(x), out[n][2 * half]), fmaf(passed, second(x), out[n][2 * half + 1]));
            }
    }
}

// The way back through `scan` and `decays` for a chunk (x) and the heads of a group (y), given the gradient g of y, the states before
// the chunk and the gradients E of those after it (`ends`). The rows of `active` become their gradients, raw steps get theirs at
// their places in rows of the projection, and partial[chunk][3][head] the sums over the chunk for step bias, A_log and D.
//
// The first four warps have the outputs' rows u, and the gradients of C; the others the inputs' rows s, and the gradients of B
// and x; a warp has 16 of them. Those of B and C are summed over the heads in registers. With T(u, s) the share of y(u)·g(u) that goes
// from s to u by the state, the gradient of the logarithm of the decay at t is the sum over all s < t ≤ u, where the state before the
// chunk counts as an input before all others, and E as an output after all others.
KERNEL(scan_backward, 256, element* active, const element* gradient, const float* steps, const float* vectors, const element* states,
       const element* ends, const Chunk* chunks, const element* projected, element* projected_gradient, float* partial, float least,
       float most) {
    DYNAMIC_SHARED(memory);
    __shared__ float room[33], totals[2][3];
    const Chunk chunk = chunks[blockIdx.x];
    uint32_t group = blockIdx.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % 4;
    bool has_outputs = threadIdx.x < 4 * WARP;
    element* bs = reinterpret_cast<element*>(memory);
    element* cs = bs + CHUNK * STATE_STRIDE;
    element* xs = cs + CHUNK * STATE_STRIDE;
    element* gs = xs + CHUNK * DIM_STRIDE;
    element* start = gs + CHUNK * DIM_STRIDE;
    element* end = start + DIM * STATE_STRIDE;
    // Numbers that go with a token.
    auto step = [&](uint32_t t) -> float& { return beside<DIM_STRIDE>(xs, t)[0]; };
    auto sum = [&](uint32_t t) -> float& { return beside<DIM_STRIDE>(xs, t)[1]; };
    auto reads = [&](uint32_t t) -> float& { return beside<STATE_STRIDE>(cs, t)[0]; };
    auto slopes = [&](uint32_t t) -> float& { return beside<STATE_STRIDE>(cs, t)[1]; };
    auto diagonal = [&](uint32_t t) -> float& { return beside<STATE_STRIDE>(cs, t)[2]; };
    auto part = [&](uint32_t of_warp, uint32_t t) -> float& { return beside<STATE_STRIDE>(bs, t)[of_warp]; };
    element* rows = active + (uint64_t)chunk.row * CHANNELS;
    copy_rows<WIDE, STATE_STRIDE, 256>(bs, rows + INNER + group * STATE, CHANNELS, CHUNK, chunk.rows, STATE);
    copy_rows<WIDE, STATE_STRIDE, 256>(cs, rows + INNER + (GROUPS + group) * STATE, CHANNELS, CHUNK, chunk.rows, STATE);
    close_copies();
    wait_for_copies<0>();
    __syncthreads();
    const element* own_bs = bs + warp * 16 * STATE_STRIDE;
    const element* own_xs = xs + warp * 16 * DIM_STRIDE;
    const element* own_gs = gs + warp * 16 * DIM_STRIDE;
    uint32_t own[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8}, column = lane % 4 * 2;
    // B(s)·C(u), the same for all heads.
    float products[CHUNK / 8][4] = {};
    if (!has_outputs) {
#pragma unroll
        for (int k = 0; k < WIDE / 16; k++) {
            pair a[4];
            load_left<STATE_STRIDE>(a, own_bs + k * 16);
#pragma unroll
            for (int n = 0; n < CHUNK / 16; n++) {
                if (n < (int)warp) continue;
                pair b[4];
                load_rows<STATE_STRIDE>(b, cs + n * 16 * STATE_STRIDE + k * 16);
                multiply_two(products + 2 * n, a, b);
            }
        }
    }
    // The gradients of C or B.
    float sums[WIDE / 8][4] = {};
    for (uint32_t head = group * SERVED; head < (group + 1) * SERVED; head++) {
        __syncthreads();
        copy_rows<DIM, DIM_STRIDE, 256>(xs, rows + head * MAMBA_DIM, CHANNELS, CHUNK, chunk.rows, MAMBA_DIM);
        const element* from = gradient + (uint64_t)chunk.row * INNER + head * MAMBA_DIM;
        copy_rows<DIM, DIM_STRIDE, 256>(gs, from, INNER, CHUNK, chunk.rows, MAMBA_DIM);
        copy_state<256>(start, states, blockIdx.x, head);
        copy_state<256>(end, ends, blockIdx.x, head);
        close_copies();
        const float* numbers = steps + ((uint64_t)blockIdx.x * MAMBA_HEADS + head) * (2 * CHUNK);
        if (threadIdx.x < CHUNK) step(threadIdx.x) = numbers[threadIdx.x];
        else if (threadIdx.x < 2 * CHUNK) sum(threadIdx.x - CHUNK) = numbers[threadIdx.x];
        wait_for_copies<0>();
        __syncthreads();
        float last = sum(CHUNK - 1), mine[2] = {sum(own[0]), sum(own[1])};
        if (has_outputs) {
            float decay[2] = {exp2_(mine[0]), exp2_(mine[1])}, read[2] = {0.0f, 0.0f};
            pair left[DIM / 16][4];
#pragma unroll
            for (int k = 0; k < DIM / 16; k++) load_left<DIM_STRIDE>(left[k], own_gs + k * 16);
            // By the state before the chunk.
#pragma unroll
            for (int n = 0; n < WIDE / 16; n++) {
                float through[2][4] = {};
#pragma unroll
                for (int k = 0; k < DIM / 16; k++) {
                    pair b[4];
                    load_columns<STATE_STRIDE>(b, start + k * 16 * STATE_STRIDE + n * 16);
                    multiply_two(through, left[k], b);
                }
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const element* at = cs + own[half] * STATE_STRIDE + n * 16 + j * 8 + column;
                        pair c = *reinterpret_cast<const pair*>(at);
                        float x = through[j][2 * half] * decay[half], y = through[j][2 * half + 1] * decay[half];
                        read[half] += x * first(c) + y * second(c);
                        sums[2 * n + j][2 * half] += x;
                        sums[2 * n + j][2 * half + 1] += y;
                    }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float all = row_sum(read[half]);
                if (lane % 4 == 0) reads(own[half]) = all;
            }
            // By the tokens of the chunk.
#pragma unroll
            for (int k = 0; k < CHUNK / 16; k++) {
                if (k > (int)warp) continue;
                float weights[2][4] = {};
#pragma unroll
                for (int i = 0; i < DIM / 16; i++) {
                    pair b[4];
                    load_rows<DIM_STRIDE>(b, xs + k * 16 * DIM_STRIDE + i * 16);
                    multiply_two(weights, left[i], b);
                }
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t s = k * 16 + n * 8 + column + i % 2;
                        float factor = exp2_(mine[i / 2] - sum(s)) * step(s);
                        weights[n][i] = s <= own[i / 2] ? weights[n][i] * factor : 0.0f;
                    }
                pair a[4];
                as_left(a, weights);
#pragma unroll
                for (int n = 0; n < WIDE / 16; n++) {
                    pair b[4];
                    load_columns<STATE_STRIDE>(b, bs + k * 16 * STATE_STRIDE + n * 16);
                    multiply_two(sums + 2 * n, a, b);
                }
            }
        } else {
            float mine_step[2] = {step(own[0]), step(own[1])}, decay[2] = {exp2_(last - mine[0]), exp2_(last - mine[1])};
            // By the state after the chunk.
            pair left[DIM / 16][4];
#pragma unroll
            for (int k = 0; k < DIM / 16; k++) load_left<DIM_STRIDE>(left[k], own_xs + k * 16);
#pragma unroll
            for (int n = 0; n < WIDE / 16; n++) {
                float through[2][4] = {};
#pragma unroll
                for (int k = 0; k < DIM / 16; k++) {
                    pair b[4];
                    load_columns<STATE_STRIDE>(b, end + k * 16 * STATE_STRIDE + n * 16);
                    multiply_two(through, left[k], b);
                }
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) sums[2 * n + j][i] += through[j][i] * (decay[i / 2] * mine_step[i / 2]);
            }
            // The gradient of Δ(s) x(s).
            float inputs[DIM / 8][4] = {};
#pragma unroll
            for (int k = 0; k < WIDE / 16; k++) {
                pair a[4];
                load_left<STATE_STRIDE>(a, own_bs + k * 16);
#pragma unroll
                for (int n = 0; n < DIM / 16; n++) {
                    pair b[4];
                    load_rows<STATE_STRIDE>(b, end + n * 16 * STATE_STRIDE + k * 16);
                    multiply_two(inputs + 2 * n, a, b);
                }
            }
            // Of the row, what goes to t and beyond: to begin with, to the state after the chunk.
            float beyond[2] = {0.0f, 0.0f};
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    pair x = *reinterpret_cast<const pair*>(xs + own[half] * DIM_STRIDE + n * 8 + column);
                    inputs[n][2 * half] *= decay[half];
                    inputs[n][2 * half + 1] *= decay[half];
                    beyond[half] += inputs[n][2 * half] * first(x) + inputs[n][2 * half + 1] * second(x);
                }
#pragma unroll
            for (int half = 0; half < 2; half++) beyond[half] = row_sum(beyond[half]) * mine_step[half];
            // By the outputs of the chunk, the last ones first.
#pragma unroll
            for (int k = CHUNK / 16 - 1; k >= 0; k--) {
                if (k < (int)warp) continue;
                float along[2][4] = {}, to_x[2][4], to_b[2][4];
#pragma unroll
                for (int i = 0; i < DIM / 16; i++) {
                    // Read again: there are no registers to hold it in.
                    pair a[4], b[4];
                    load_left<DIM_STRIDE>(a, own_xs + i * 16);
                    load_rows<DIM_STRIDE>(b, gs + k * 16 * DIM_STRIDE + i * 16);
                    multiply_two(along, a, b);
                }
#pragma unroll
                for (int n = 1; n >= 0; n--) {
                    float shares[4], columns[2] = {0.0f, 0.0f};
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t u = k * 16 + n * 8 + column + i % 2;
                        float factor = u >= own[i / 2] ? exp2_(sum(u) - mine[i / 2]) : 0.0f;
                        to_x[n][i] = products[2 * k + n][i] * factor;
                        to_b[n][i] = along[n][i] * factor * mine_step[i / 2];
                        shares[i] = to_x[n][i] * along[n][i] * mine_step[i / 2];
                        if (u == own[i / 2]) diagonal(u) = along[n][i];
                    }
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        // Shares to the columns from a thread's own on, over the threads of the row and then the columns after.
                        float two = shares[2 * half] + shares[2 * half + 1], after = beyond[half];
                        float next = shuffle_xor(two, 1), four = two + next, others = shuffle_xor(four, 2);
                        if (lane % 2 == 0) after += next;
                        if (lane % 4 < 2) after += others;
                        uint32_t t = k * 16 + n * 8 + column;
                        if (t + 1 > own[half]) columns[1] += after + shares[2 * half + 1];
                        if (t > own[half]) columns[0] += after + two;
                        beyond[half] += four + others;
                    }
#pragma unroll
                    for (int i = 0; i < 2; i++) {
#pragma unroll
                        for (int mask = 4; mask < WARP; mask *= 2) columns[i] += shuffle_xor(columns[i], mask);
                        if (lane < 4) part(warp, k * 16 + n * 8 + column + i) = columns[i];
                    }
                }
                pair a[4];
                as_left(a, to_x);
#pragma unroll
                for (int n = 0; n < DIM / 16; n++) {
                    pair b[4];
                    load_columns<DIM_STRIDE>(b, gs + k * 16 * DIM_STRIDE + n * 16);
                    multiply_two(inputs + 2 * n, a, b);
                }
                as_left(a, to_b);
#pragma unroll
                for (int n = 0; n < WIDE / 16; n++) {
                    pair b[4];
                    load_columns<STATE_STRIDE>(b, cs + k * 16 * STATE_STRIDE + n * 16);
                    multiply_two(sums + 2 * n, a, b);
                }
            }
            float along[2] = {0.0f, 0.0f}, passed = vectors[D_SHARE + head];
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    uint32_t place = own[half] * DIM_STRIDE + n * 8 + column;
                    pair x = *reinterpret_cast<const pair*>(xs + place), g = *reinterpret_cast<const pair*>(gs + place);
                    float low = inputs[n][2 * half], high = inputs[n][2 * half + 1];
                    along[half] += low * first(x) + high * second(x);
                    if (own[half] >= chunk.rows || n * 8 + column >= MAMBA_DIM) continue;
                    element* to = rows + (uint64_t)own[half] * CHANNELS + head * MAMBA_DIM + n * 8 + column;
                    *reinterpret_cast<pair*>(to) = to_pair(fmaf(passed, first(g), low * mine_step[half]),
                                                           fmaf(passed, second(g), high * mine_step[half]));
                }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float all = row_sum(along[half]);
                if (lane % 4 == 0) slopes(own[half]) = all;
            }
        }
        // From the state before the chunk to that after it.
        float passing = 0.0f;
        for (uint32_t i = threadIdx.x; i < DIM * (WIDE / 8); i += 256) {
            uint32_t place = i / (WIDE / 8) * STATE_STRIDE + i % (WIDE / 8) * 8;
            eight s = load_eight(start + place), e = load_eight(end + place);
#pragma unroll
            for (int k = 0; k < 8; k++) passing += to_float(s.of[k]) * to_float(e.of[k]);
        }
        passing = block_sum(passing, room) * exp2_(last);
        if (threadIdx.x < CHUNK) {
            uint32_t t = threadIdx.x;
            float to_bias = 0.0f, to_a = 0.0f, to_d = 0.0f;
            if (t < chunk.rows) {
                float decay = passing, a = -exp_(vectors[A_LOG + head]);
                for (uint32_t u = t; u < CHUNK; u++) decay += reads(u);
                for (uint32_t w = 0; w <= t / 16; w++) decay += part(w, t);
                uint64_t at = (uint64_t)(chunk.row + t) * MAMBA_ROW + INNER + CHANNELS + head;
                float raw = to_float(projected[at]) + vectors[STEP_BIAS + head], free = softplus(raw);
                if (free >= least && free <= most) to_bias = fmaf(a, decay, slopes(t)) * sigmoid(raw);
                projected_gradient[at] = to_element(to_bias);
                to_a = decay * step(t) * a;
                to_d = diagonal(t);
            }
            to_bias = warp_sum(to_bias);
            to_a = warp_sum(to_a);
            to_d = warp_sum(to_d);
            if (lane == 0) {
                totals[t / WARP][0] = to_bias;
                totals[t / WARP][1] = to_a;
                totals[t / WARP][2] = to_d;
            }
        }
        if (partial) {
            __syncthreads();
            if (threadIdx.x < 3) {
                float total = totals[0][threadIdx.x] + totals[1][threadIdx.x];
                partial[((uint64_t)blockIdx.x * 3 + threadIdx.x) * MAMBA_HEADS + head] = total;
            }
        }
    }
    element* to = rows + INNER + ((has_outputs ? GROUPS : 0) + group) * STATE + column;
#pragma unroll
    for (int n = 0; n < WIDE / 8; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (own[half] >= chunk.rows || n * 8 + column >= STATE) continue;
            *reinterpret_cast<pair*>(to + (uint64_t)own[half] * CHANNELS + n * 8) =
                to_pair(sums[n][2 * half], sums[n][2 * half + 1]);
        }
}

// Elements that are normalised together, and pairs of them that a thread has.
#define NORMED (INNER / GROUPS)
#define PAIRS ((NORMED / 2 + 255) / 256)

// gated = y · silu(gate), normalised within its group: a block per row (x) and group (y).
KERNEL(gate, 256, const element* y, const element* projected, const element* weight, element* gated, float epsilon) {
    __shared__ float room[33];
    uint64_t row = blockIdx.x, first_column = blockIdx.y * NORMED;
    float values[PAIRS][2], sum = 0.0f;
#pragma unroll
    for (int e = 0; e < PAIRS; e++) {
        uint32_t i = (e * 256 + threadIdx.x) * 2;
        if (i >= NORMED) break;
        pair gates = *reinterpret_cast<const pair*>(projected + row * MAMBA_ROW + first_column + i);
        pair given = *reinterpret_cast<const pair*>(y + row * INNER + first_column + i);
        values[e][0] = first(given) * first(gates) * sigmoid(first(gates));
        values[e][1] = second(given) * second(gates) * sigmoid(second(gates));
        sum += values[e][0] * values[e][0] + values[e][1] * values[e][1];
    }
    float scale = rsqrtf(block_sum(sum, room) / NORMED + epsilon);
#pragma unroll
    for (int e = 0; e < PAIRS; e++) {
        uint32_t i = (e * 256 + threadIdx.x) * 2;
        if (i >= NORMED) break;
        pair w = *reinterpret_cast<const pair*>(weight + first_column + i);
        *reinterpret_cast<pair*>(gated + row * INNER + first_column + i) =
            to_pair(values[e][0] * scale * first(w), values[e][1] * scale * second(w));
    }
}

// The way back through `gate`, given the gradient of what it gave, which becomes what it gave; y becomes its gradient, the gates get
// theirs at their places in rows of the projection, and partial[block], where there is such, the sum over the block's rows for the
// weight. A block per part of `rows_per_block` rows (x) and group (y).
KERNEL(gate_backward, 256, element* y, const element* projected, const element* weight, element* gradient, element* projected_gradient,
       float* partial, uint32_t rows, uint32_t rows_per_block, float epsilon) {
    __shared__ float room[33], other_room[33];
    uint32_t first_column = blockIdx.y * NORMED, first_row = blockIdx.x * rows_per_block;
    float sums[PAIRS][2] = {};
    for (uint64_t row = first_row; row < smaller(first_row + rows_per_block, rows); row++) {
        float values[PAIRS][2], slopes[PAIRS][2], square = 0.0f, along = 0.0f;
#pragma unroll
        for (int e = 0; e < PAIRS; e++) {
            uint32_t i = (e * 256 + threadIdx.x) * 2;
            if (i >= NORMED) break;
            pair gates = *reinterpret_cast<const pair*>(projected + row * MAMBA_ROW + first_column + i);
            pair given = *reinterpret_cast<const pair*>(y + row * INNER + first_column + i);
            pair slope = *reinterpret_cast<const pair*>(gradient + row * INNER + first_column + i);
            pair w = *reinterpret_cast<const pair*>(weight + first_column + i);
            values[e][0] = first(given) * first(gates) * sigmoid(first(gates));
            values[e][1] = second(given) * second(gates) * sigmoid(second(gates));
            slopes[e][0] = first(slope) * first(w);
            slopes[e][1] = second(slope) * second(w);
            square += values[e][0] * values[e][0] + values[e][1] * values[e][1];
            along += values[e][0] * slopes[e][0] + values[e][1] * slopes[e][1];
        }
        float scale = rsqrtf(block_sum(square, room) / NORMED + epsilon);
        float pull = block_sum(along, other_room) * scale * scale * scale / NORMED;
#pragma unroll
        for (int e = 0; e < PAIRS; e++) {
            uint32_t i = (e * 256 + threadIdx.x) * 2;
            if (i >= NORMED) break;
            pair gates = *reinterpret_cast<const pair*>(projected + row * MAMBA_ROW + first_column + i);
            pair w = *reinterpret_cast<const pair*>(weight + first_column + i);
            pair* to = reinterpret_cast<pair*>(y + row * INNER + first_column + i);
            pair* normed = reinterpret_cast<pair*>(gradient + row * INNER + first_column + i);
            float given[2] = {first(*to), second(*to)}, g[2] = {first(gates), second(gates)}, to_y[2], to_gate[2];
            float slope[2] = {first(*normed), second(*normed)};
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float share = sigmoid(g[k]), silu = g[k] * share;
                float to_value = fmaf(slopes[e][k], scale, -(values[e][k] * pull));
                sums[e][k] = fmaf(values[e][k] * scale, slope[k], sums[e][k]);
                to_y[k] = to_value * silu;
                to_gate[k] = to_value * given[k] * fmaf(silu, 1.0f - share, share);
            }
            *to = to_pair(to_y[0], to_y[1]);
            *normed = to_pair(values[e][0] * scale * first(w), values[e][1] * scale * second(w));
            *reinterpret_cast<pair*>(projected_gradient + row * MAMBA_ROW + first_column + i) = to_pair(to_gate[0], to_gate[1]);
        }
    }
    if (!partial) return;
#pragma unroll
    for (int e = 0; e < PAIRS; e++) {
        uint32_t i = (e * 256 + threadIdx.x) * 2;
        if (i >= NORMED) break;
        float* to = partial + (uint64_t)blockIdx.x * INNER + first_column + i;
        to[0] = sums[e][0];
        to[1] = sums[e][1];
    }
}
