// The selective state space of Mamba-2, for generation: tokens advance the states of their sequences, one after the other.
//
// A turn is some rows that follow one another in a sequence. Turns are listed as {first row, rows, position of the first, seat};
// without a list every row is a turn of one token, the last of the first lengths[row] of seat seats[row], and those of length 0
// are not used. A sequence's first token, at position 0, begins with zeros, whatever its seat holds.
//
// Compiled for a model: MAMBA_HEADS, MAMBA_DIM, GROUPS, STATE, TAPS.

#define INNER (MAMBA_HEADS * MAMBA_DIM)
#define CHANNELS (INNER + 2 * GROUPS * STATE)
#define MAMBA_ROW (INNER + CHANNELS + MAMBA_HEADS)
// What a sequence's past leaves to the convolution.
#define PAST (TAPS - 1)
// Rows of one thread of the convolution.
#define STRETCH 64

struct Turn {
    uint32_t row, rows, position, seat;
};

DEVICE Turn turn_of(uint32_t index, const uint32_t* turns, const uint32_t* seats, const uint32_t* lengths) {
    if (turns) return {turns[4 * index], turns[4 * index + 1], turns[4 * index + 2], turns[4 * index + 3]};
    uint32_t length = lengths[index];
    if (length == 0) return {index, 0, 0, 0};
    return {index, 1, length - 1, seats[index]};
}

// The input of a channel, `index` rows after the first of the turn; before it, what the seat remembers.
DEVICE float input_of(const Turn& turn, int index, uint32_t channel, const element* projected, const element* history) {
    if (index >= 0) return to_float(projected[(uint64_t)(turn.row + index) * MAMBA_ROW + INNER + channel]);
    if (turn.position == 0) return 0.0f;
    return to_float(history[((uint64_t)turn.seat * PAST + (PAST + index)) * CHANNELS + channel]);
}

DEVICE void remember_channel(const Turn& turn, uint32_t channel, const element* projected, element* history) {
    element kept[PAST > 0 ? PAST : 1];
#pragma unroll
    for (int i = 0; i < PAST; i++) kept[i] = to_element(input_of(turn, (int)turn.rows - PAST + i, channel, projected, history));
#pragma unroll
    for (int i = 0; i < PAST; i++) history[((uint64_t)turn.seat * PAST + i) * CHANNELS + channel] = kept[i];
}

// active = silu(convolution): a thread per channel (x), a turn (y), and a stretch of its rows (z). Where no turn has more than one
// stretch, the inputs are remembered too.
KERNEL(convolve, 256, const element* projected, const element* taps, const element* bias, element* active, element* history,
       const uint32_t* turns, const uint32_t* seats, const uint32_t* lengths, uint32_t remembers) {
    Turn turn = turn_of(blockIdx.y, turns, seats, lengths);
    uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= CHANNELS || blockIdx.z * STRETCH >= turn.rows) return;
    float weights[TAPS], window[TAPS];
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) weights[tap] = to_float(taps[(uint64_t)channel * TAPS + tap]);
    int first = blockIdx.z * STRETCH, end = (int)smaller(first + STRETCH, turn.rows);
#pragma unroll
    for (int tap = 1; tap < TAPS; tap++) window[tap] = input_of(turn, first - TAPS + tap, channel, projected, history);
    float start = bias ? to_float(bias[channel]) : 0.0f;
    for (int index = first; index < end; index++) {
        float sum = start;
#pragma unroll
        for (int tap = 0; tap + 1 < TAPS; tap++) {
            window[tap] = window[tap + 1];
            sum += weights[tap] * window[tap];
        }
        window[TAPS - 1] = input_of(turn, index, channel, projected, history);
        sum += weights[TAPS - 1] * window[TAPS - 1];
        active[(uint64_t)(turn.row + index) * CHANNELS + channel] = to_element(sum * sigmoid(sum));
    }
    if (remembers) remember_channel(turn, channel, projected, history);
}

// Remembers the inputs of turns of several stretches: a thread per channel (x) and a turn (y).
KERNEL(remember, 256, const element* projected, element* history, const uint32_t* turns, const uint32_t* seats,
       const uint32_t* lengths) {
    Turn turn = turn_of(blockIdx.y, turns, seats, lengths);
    uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel < CHANNELS && turn.rows > 0) remember_channel(turn, channel, projected, history);
}

// Tokens whose inputs lie in shared memory at a time.
#define STEP 16
// Lanes that share an element of x, and what each of them and of the rows of a block's threads holds of the state.
#define SHARERS 8
#define THREADS 256
#define ABREAST (THREADS / SHARERS)
#define HELD_ELEMENTS ((MAMBA_DIM + ABREAST - 1) / ABREAST)
#define HELD_STATE ((STATE + SHARERS - 1) / SHARERS)

// S = exp(step·A)·S + step·x·Bᵀ and y = S·C + D·x along the rows of a turn: a block per head (x) and turn (y), whose state lies in its
// threads' registers from the first row to the last.
KERNEL(scan, THREADS, const element* projected, const element* active, const float* step_bias, const float* a_log, const float* d,
       float* states, float* y, const uint32_t* turns, const uint32_t* seats, const uint32_t* lengths, float least, float most) {
    __shared__ float xs[STEP][MAMBA_DIM], bs[STEP][STATE], cs[STEP][STATE], steps[STEP];
    Turn turn = turn_of(blockIdx.y, turns, seats, lengths);
    if (turn.rows == 0) return;
    uint32_t head = blockIdx.x, group = head / (MAMBA_HEADS / GROUPS);
    uint32_t sharer = threadIdx.x % SHARERS, first_element = threadIdx.x / SHARERS;
    float a = -exp_(a_log[head]), passed = d[head], bias = step_bias[head];
    float* kept = states + ((uint64_t)turn.seat * MAMBA_HEADS + head) * (MAMBA_DIM * STATE);
    float state[HELD_ELEMENTS][HELD_STATE];
#pragma unroll
    for (int e = 0; e < HELD_ELEMENTS; e++)
#pragma unroll
        for (int s = 0; s < HELD_STATE; s++) {
            uint32_t element_ = e * ABREAST + first_element, place = s * SHARERS + sharer;
            bool is_there = turn.position > 0 && element_ < MAMBA_DIM && place < STATE;
            state[e][s] = is_there ? kept[element_ * STATE + place] : 0.0f;
        }
    for (uint32_t first = 0; first < turn.rows; first += STEP) {
        uint32_t count = smaller(STEP, turn.rows - first);
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < count * MAMBA_DIM; i += THREADS) {
            const element* row = active + (uint64_t)(turn.row + first + i / MAMBA_DIM) * CHANNELS;
            xs[i / MAMBA_DIM][i % MAMBA_DIM] = to_float(row[head * MAMBA_DIM + i % MAMBA_DIM]);
        }
        for (uint32_t i = threadIdx.x; i < count * STATE; i += THREADS) {
            const element* row = active + (uint64_t)(turn.row + first + i / STATE) * CHANNELS + INNER + group * STATE;
            bs[i / STATE][i % STATE] = to_float(row[i % STATE]);
            cs[i / STATE][i % STATE] = to_float(row[GROUPS * STATE + i % STATE]);
        }
        if (threadIdx.x < count) {
            uint64_t row = turn.row + first + threadIdx.x;
            float raw = to_float(projected[row * MAMBA_ROW + INNER + CHANNELS + head]) + bias;
            float softplus = fmaxf(raw, 0.0f) + logf(1.0f + exp_(-fabsf(raw)));
            steps[threadIdx.x] = fminf(fmaxf(softplus, least), most);
        }
        __syncthreads();
        for (uint32_t token = 0; token < count; token++) {
            float step = steps[token], decay = exp_(step * a);
#pragma unroll
            for (int e = 0; e < HELD_ELEMENTS; e++) {
                uint32_t element_ = e * ABREAST + first_element;
                float x = element_ < MAMBA_DIM ? xs[token][element_] : 0.0f, sum = 0.0f;
#pragma unroll
                for (int s = 0; s < HELD_STATE; s++) {
                    uint32_t place = s * SHARERS + sharer;
                    if (place < STATE) {
                        state[e][s] = decay * state[e][s] + step * x * bs[token][place];
                        sum += state[e][s] * cs[token][place];
                    }
                }
                for (int mask = SHARERS / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
                if (sharer == 0 && element_ < MAMBA_DIM)
                    y[(uint64_t)(turn.row + first + token) * INNER + head * MAMBA_DIM + element_] = sum + passed * x;
            }
        }
    }
#pragma unroll
    for (int e = 0; e < HELD_ELEMENTS; e++)
#pragma unroll
        for (int s = 0; s < HELD_STATE; s++) {
            uint32_t element_ = e * ABREAST + first_element, place = s * SHARERS + sharer;
            if (element_ < MAMBA_DIM && place < STATE) kept[element_ * STATE + place] = state[e][s];
        }
}

// gated = y · silu(gate), normalised within its group: a block per row (x) and group (y).
KERNEL(gate_groups, 256, const float* y, const element* projected, const element* weight, element* gated, float epsilon) {
    __shared__ float room[33];
    const uint32_t width = INNER / GROUPS;
    uint64_t row = blockIdx.x, first = blockIdx.y * width;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
        float gate = to_float(projected[row * MAMBA_ROW + first + i]);
        float value = y[row * INNER + first + i] * gate * sigmoid(gate);
        sum += value * value;
    }
    float scale = rsqrtf(block_sum(sum, room) / width + epsilon);
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
        float gate = to_float(projected[row * MAMBA_ROW + first + i]);
        float value = y[row * INNER + first + i] * gate * sigmoid(gate);
        gated[row * INNER + first + i] = to_element(value * scale * to_float(weight[first + i]));
    }
}
