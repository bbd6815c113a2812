// Mixtures of experts: which experts compute a token, and their products.
//
// A pair is a token and one of its CHOSEN experts; pair p is of token p / CHOSEN. Pairs are put in the order of their experts, in tiles of
// 16 that have one expert each, as a product on tensor cores takes them; what is left of a tile is empty. How many tiles
// there are is known on the GPU only: as many blocks run as there can be, and those beyond the last tile end at once, so a
// recorded launch holds for any choice.
//
// Compiled for a model: EXPERTS, CHOSEN, ADDS_UP_TO_ONE.

#define TILE 16
#define WARPS 4
// Experts whose scores a lane holds.
#define HELD ((EXPERTS + WARP - 1) / WARP)

// The experts of every token, the most probable first and of equal ones the one with the lowest number, and their weights: a warp per
// token.
KERNEL(choose, WARPS* WARP, const float* scores, uint32_t* chosen, float* weights, uint32_t rows) {
    uint32_t row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    float held[HELD], largest = LOWEST;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        uint32_t expert = i * WARP + lane;
        held[i] = expert < EXPERTS ? scores[(uint64_t)row * EXPERTS + expert] : LOWEST;
        largest = fmaxf(largest, held[i]);
    }
    largest = warp_max(largest);
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        // A score that is no number belongs to a row that nobody uses; its experts must exist all the same.
        held[i] = i * WARP + lane < EXPERTS ? fmaxf(exp_(held[i] - largest), 0.0f) : -1.0f;
        total += fmaxf(held[i], 0.0f);
    }
    total = warp_sum(total);
    float kept = 0.0f;
    for (uint32_t k = 0; k < CHOSEN; k++) {
        float best = -2.0f;
        uint32_t expert = NONE;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            if (held[i] > best) {
                best = held[i];
                expert = i * WARP + lane;
            }
        }
        for (int mask = WARP / 2; mask > 0; mask /= 2) {
            float other = shuffle_xor(best, mask);
            uint32_t its = shuffle_xor(expert, mask);
            if (other > best || (other == best && its < expert)) {
                best = other;
                expert = its;
            }
        }
#pragma unroll
        for (int i = 0; i < HELD; i++)
            if (i * WARP + lane == expert) held[i] = -1.0f;
        kept += best;
        if (lane == 0) {
            chosen[(uint64_t)row * CHOSEN + k] = expert;
            weights[(uint64_t)row * CHOSEN + k] = best;
        }
    }
    synchronise_warp();
    float divisor = ADDS_UP_TO_ONE ? kept : total;
    if (lane == 0)
        for (uint32_t k = 0; k < CHOSEN; k++) weights[(uint64_t)row * CHOSEN + k] /= divisor;
}

// Puts pairs in the order of their experts: order[place] is the pair at a place, or NONE; place_of[pair] the reverse; and every tile has
// its expert, NONE beyond the last. One block.
KERNEL(arrange, 1024, const uint32_t* chosen, uint32_t* order, uint32_t* place_of, uint32_t* expert_of, uint32_t pairs,
       uint32_t most_tiles) {
    __shared__ uint32_t counts[EXPERTS], starts[EXPERTS + 1];
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (uint32_t expert = warp; expert < EXPERTS; expert += warps) {
        // Counts are exact in floats up to 2^24.
        float count = 0.0f;
        for (uint32_t pair = lane; pair < pairs; pair += WARP) count += chosen[pair] == expert ? 1.0f : 0.0f;
        count = warp_sum(count);
        if (lane == 0) counts[expert] = (uint32_t)count;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t tile = 0;
        for (uint32_t expert = 0; expert < EXPERTS; expert++) {
            starts[expert] = tile;
            tile += (counts[expert] + TILE - 1) / TILE;
        }
        starts[EXPERTS] = tile;
    }
    __syncthreads();
    for (uint32_t tile = starts[EXPERTS] + threadIdx.x; tile < most_tiles; tile += blockDim.x) expert_of[tile] = NONE;
    for (uint32_t expert = warp; expert < EXPERTS; expert += warps) {
        for (uint32_t tile = starts[expert] + lane; tile < starts[expert + 1]; tile += WARP) expert_of[tile] = expert;
        uint32_t place = starts[expert] * TILE;
        for (uint32_t first = 0; first < pairs && counts[expert] > 0; first += WARP) {
            bool is_mine = first + lane < pairs && chosen[first + lane] == expert;
            float upto = is_mine ? 1.0f : 0.0f;
            for (int by = 1; by < WARP; by *= 2) {
                float other = shuffle_up(upto, by);
                if (lane >= (uint32_t)by) upto += other;
            }
            if (is_mine) {
                uint32_t at = place + (uint32_t)upto - 1;
                order[at] = first + lane;
                place_of[first + lane] = at;
            }
            place += (uint32_t)shuffle_from(upto, WARP - 1);
        }
        for (uint32_t at = place + lane; at < starts[expert + 1] * TILE; at += WARP) order[at] = NONE;
    }
}

// acc[s] += the products of 16 rows with 8 rows of weights, for two sets of those. A lane reads 16 neighbouring elements of each row that
// it has a share in: which products a step of the tensor cores takes is of no account, as long as both sides agree.
DEVICE void multiply_rows(float (&acc)[2][4], const element* low, const element* high, const element* const (&weights)[2],
                          uint32_t inputs) {
    uint32_t column = threadIdx.x % 4 * 16;
    const eight_in_pairs zeros = {{to_pair(0.0f, 0.0f), to_pair(0.0f, 0.0f), to_pair(0.0f, 0.0f), to_pair(0.0f, 0.0f)}};
#pragma unroll 2
    for (uint32_t first = 0; first < inputs; first += 64) {
        uint32_t k = first + column;
        bool is_there = k < inputs;
        eight_in_pairs w[2][2], x[2][2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int s = 0; s < 2; s++) w[s][half] = is_there && weights[s] ? load_pairs(weights[s] + k + 8 * half) : zeros;
            x[0][half] = is_there && low ? load_pairs(low + k + 8 * half) : zeros;
            x[1][half] = is_there && high ? load_pairs(high + k + 8 * half) : zeros;
        }
#pragma unroll
        for (int step = 0; step < 4; step++) {
            int half = step / 2, at = step % 2 * 2;
            const pair a[4] = {x[0][half].of[at], x[1][half].of[at], x[0][half].of[at + 1], x[1][half].of[at + 1]};
#pragma unroll
            for (int s = 0; s < 2; s++) {
                const pair b[2] = {w[s][half].of[at], w[s][half].of[at + 1]};
                multiply_tile(acc[s], a, b);
            }
        }
    }
}

// active[place] = silu(gate) · up of the pair at every place: a block per tile (y) and 32 elements (x). An expert's weights are its gate's
// rows, those of up, and those of down, and lie `stride` apart.
KERNEL(inward, WARPS* WARP, const element* x, const element* weights, const uint32_t* order, const uint32_t* expert_of,
       element* active, uint32_t hidden, uint32_t inner, uint32_t stride) {
    uint32_t tile = blockIdx.y, expert = expert_of[tile];
    if (expert == NONE) return;
    uint32_t group = threadIdx.x % WARP / 4, output = (blockIdx.x * WARPS + threadIdx.x / WARP) * 8;
    if (output >= inner) return;
    const element* rows[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t pair = order[tile * TILE + half * 8 + group];
        rows[half] = pair == NONE ? 0 : x + (uint64_t)(pair / CHOSEN) * hidden;
    }
    const element* gate = weights + (uint64_t)expert * stride + (uint64_t)(output + group) * hidden;
    const element* const both[2] = {gate, gate + (uint64_t)inner * hidden};
    float acc[2][4] = {};
    multiply_rows(acc, rows[0], rows[1], both, hidden);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        element* to = active + (uint64_t)(tile * TILE + half * 8 + group) * inner + output + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float g = acc[0][half * 2 + i];
            to[i] = to_element(g * sigmoid(g) * acc[1][half * 2 + i]);
        }
    }
}

// given[place] = the projection out of the expert: a block per tile (y) and 64 elements (x).
KERNEL(outward, WARPS* WARP, const element* active, const element* weights, const uint32_t* expert_of, float* given,
       uint32_t hidden, uint32_t inner, uint32_t stride) {
    uint32_t tile = blockIdx.y, expert = expert_of[tile];
    if (expert == NONE) return;
    uint32_t group = threadIdx.x % WARP / 4, output = (blockIdx.x * WARPS + threadIdx.x / WARP) * 16;
    if (output >= hidden) return;
    const element* row = active + (uint64_t)(tile * TILE + group) * inner;
    const element* down = weights + (uint64_t)expert * stride + (uint64_t)2 * inner * hidden + (uint64_t)(output + group) * inner;
    const element* const both[2] = {down, output + 8 < hidden ? down + (uint64_t)8 * inner : 0};
    float acc[2][4] = {};
    multiply_rows(acc, row, row + (uint64_t)8 * inner, both, inner);
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint32_t column = output + s * 8 + threadIdx.x % 4 * 2;
            if (column < hidden) {
                float* to = given + (uint64_t)(tile * TILE + half * 8 + group) * hidden + column;
                to[0] = acc[s][half * 2];
                to[1] = acc[s][half * 2 + 1];
            }
        }
}

// x[row] += what its experts give, each with its weight: a block per row.
KERNEL(gather_experts, 256, const float* given, const uint32_t* place_of, const float* weights, float* x, uint32_t hidden) {
    uint64_t row = blockIdx.x;
    for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) {
        float sum = x[row * hidden + i];
        for (uint32_t k = 0; k < CHOSEN; k++) {
            uint64_t place = place_of[row * CHOSEN + k];
            sum += given[place * hidden + i] * weights[row * CHOSEN + k];
        }
        x[row * hidden + i] = sum;
    }
}
