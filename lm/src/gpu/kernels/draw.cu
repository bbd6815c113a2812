// From logits to tokens: a block per row.
//
// The parts apply in the order repetition penalty, temperature, min_p, top_k, top_p, as on the CPU. Weights are relative to that of
// the most probable token, which is 1; a cut is the smallest weight that is kept, found by halving the range of their bit
// patterns, so tokens as probable as the last that is kept are kept too. The draw walks the tokens in the order of their ids.
// Every sum is made in an order of its own row: no result depends on other rows.

#define THREADS 1024
#define WARPS (THREADS / WARP)

// How a row is drawn; as `Draw` in draw.rs.
struct Draw {
    // The slot whose tokens were seen, and the token that has to come, if any.
    uint32_t slot, forced;
    // A number in [0, 1) as 64 bits of a binary fraction.
    uint32_t uniform_low, uniform_high;
    float temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k, active;
};

struct Drawn {
    uint32_t token;
    float logprob;
    // The first token whose logit is no number; NONE if all are.
    uint32_t broken;
};

struct Row {
    const float* logits;
    const uint32_t* seen;
    float penalty;
    uint32_t vocabulary;
};

DEVICE float logit(const Row& row, uint32_t token) {
    float x = row.logits[token];
    if (row.penalty != 1.0f && row.seen[token / 32] >> token % 32 & 1) x = x < 0.0f ? x * row.penalty : x / row.penalty;
    return x;
}

struct Best {
    float logit;
    uint32_t token;
};

DEVICE Best better(Best a, Best b) {
    return b.logit > a.logit || (b.logit == a.logit && b.token < a.token) ? b : a;
}

// The most probable token, the lowest id among equals, for all threads; `broken` gets the first token of this thread whose logit is
// no number.
DEVICE Best most_probable(const Row& row, Best* room, uint32_t* broken) {
    Best best = {LOWEST, NONE};
    uint32_t first = NONE;
#pragma unroll 4
    for (uint32_t token = threadIdx.x; token < row.vocabulary; token += THREADS) {
        float x = logit(row, token);
        if (!(fabsf(x) < 3.4e38f)) first = smaller(first, token);
        best = better(best, {x, token});
    }
    *broken = first;
    for (int mask = WARP / 2; mask > 0; mask /= 2)
        best = better(best, {shuffle_xor(best.logit, mask), shuffle_xor(best.token, mask)});
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = best;
    __syncthreads();
    best = room[threadIdx.x % WARP];
    for (int mask = WARP / 2; mask > 0; mask /= 2)
        best = better(best, {shuffle_xor(best.logit, mask), shuffle_xor(best.token, mask)});
    __syncthreads();
    return best;
}

struct Weights {
    Row row;
    float largest, over_temperature;
};

DEVICE float weight(const Weights& weights, uint32_t token) {
    return exp2_((logit(weights.row, token) - weights.largest) * weights.over_temperature);
}

// How many weights reach `cut`, or their sum.
DEVICE float reaching(const Weights& weights, float cut, bool count, float* room) {
    float sum = 0.0f;
#pragma unroll 4
    for (uint32_t token = threadIdx.x; token < weights.row.vocabulary; token += THREADS) {
        float w = weight(weights, token);
        if (w >= cut) sum += count ? 1.0f : w;
    }
    sum = block_sum(sum, room);
    __syncthreads();
    return sum;
}

// The largest cut, not below `least`, that leaves at least `enough`.
DEVICE float cut_for(const Weights& weights, float least, float enough, bool count, float* room) {
    // Weights lie in [0, 1], where floats are ordered as their bits are.
    uint32_t low = __float_as_uint(least), high = __float_as_uint(1.0f) + 1;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (reaching(weights, __uint_as_float(middle), count, room) >= enough) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return __uint_as_float(low);
}

// The first token, by id, at which the sum of the weights that reach `cut` exceeds `uniform` of them all.
DEVICE uint32_t walk(const Weights& weights, float cut, double uniform, double* sums, uint32_t* chosen) {
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // A stretch of the vocabulary for each warp.
    uint32_t stretch = (weights.row.vocabulary + WARPS - 1) / WARPS;
    uint32_t start = smaller(warp * stretch, weights.row.vocabulary), end = smaller(start + stretch, weights.row.vocabulary);
    float sum = 0.0f;
    uint32_t last = NONE;
    for (uint32_t token = start + lane; token < end; token += WARP) {
        float w = weight(weights, token);
        if (w >= cut) {
            sum += w;
            last = token;
        }
    }
    sum = warp_sum(sum);
    // The last token that is kept, for when rounding leaves the walk without one.
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
        uint32_t other = shuffle_xor(last, mask);
        last = last == NONE ? other : other == NONE ? last : larger(last, other);
    }
    if (lane == 0) {
        sums[warp] = sum;
        chosen[warp] = last;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0.0;
        for (int w = 0; w < WARPS; w++) total += sums[w];
        double target = uniform * total, before = 0.0;
        uint32_t found = NONE;
        for (int w = 0; w < WARPS && found == NONE; w++) {
            if (sums[w] > 0.0) {
                if (before + sums[w] > target) found = w;
                // What is left for the stretch that the walk ends in.
                sums[WARPS] = target - before;
                before += sums[w];
            }
        }
        if (found == NONE)
            for (int w = 0; w < WARPS; w++)
                if (sums[w] > 0.0) found = w;
        chosen[WARPS] = found;
    }
    __syncthreads();
    if (warp == chosen[WARPS]) {
        float left = (float)sums[WARPS], passed = 0.0f;
        uint32_t token = chosen[warp];
        for (uint32_t first = start; first < end; first += WARP) {
            float w = first + lane < end ? weight(weights, first + lane) : 0.0f;
            float here = w >= cut ? w : 0.0f;
            for (int by = 1; by < WARP; by *= 2) {
                float other = shuffle_up(here, by);
                if (lane >= (uint32_t)by) here += other;
            }
            // The lowest lane that passes what is left.
            uint32_t candidate = passed + here > left && w >= cut ? lane : WARP;
            for (int mask = WARP / 2; mask > 0; mask /= 2) candidate = smaller(candidate, shuffle_xor(candidate, mask));
            if (candidate < WARP) {
                token = first + candidate;
                break;
            }
            passed += shuffle_from(here, WARP - 1);
        }
        if (lane == 0) chosen[WARPS + 1] = token;
    }
    __syncthreads();
    return chosen[WARPS + 1];
}

// `last` gets the token of every slot.
KERNEL(draw, THREADS, const float* logits, uint32_t stride, uint32_t vocabulary, const Draw* draws, uint32_t* seen, uint32_t* last,
       Drawn* drawn) {
    __shared__ float room[33];
    __shared__ Best bests[WARPS];
    __shared__ double sums[WARPS + 1];
    __shared__ uint32_t chosen[WARPS + 2];
    Draw how = draws[blockIdx.x];
    if (!how.active) return;
    uint32_t* seen_here = seen + (uint64_t)how.slot * ((vocabulary + 31) / 32);
    Row row = {logits + (uint64_t)blockIdx.x * stride, seen_here, 1.0f, vocabulary};

    uint32_t broken, again;
    Best best = most_probable(row, bests, &broken);
    for (int mask = WARP / 2; mask > 0; mask /= 2) broken = smaller(broken, shuffle_xor(broken, mask));
    if (threadIdx.x % WARP == 0) chosen[threadIdx.x / WARP] = broken;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) broken = smaller(broken, chosen[w]);
    __syncthreads();
    if (broken != NONE) {
        if (threadIdx.x == 0) drawn[blockIdx.x] = {0, 0.0f, broken};
        return;
    }

    Weights plain = {row, best.logit, LOG2_E};
    float log_mass = best.logit + logf(reaching(plain, 0.0f, false, room));
    uint32_t token = how.forced;
    if (token == NONE) {
        if (how.repetition_penalty != 1.0f) {
            row.penalty = how.repetition_penalty;
            best = most_probable(row, bests, &again);
        }
        token = best.token;
        if (how.temperature > 0.0f) {
            Weights weights = {row, best.logit, LOG2_E / how.temperature};
            float cut = how.min_p;
            if (how.top_k > 0 && how.top_k < vocabulary) cut = cut_for(weights, cut, (float)how.top_k, true, room);
            if (how.top_p < 1.0f) {
                float total = reaching(weights, cut, false, room);
                cut = cut_for(weights, cut, how.top_p * total, false, room);
            }
            double uniform = ((double)how.uniform_high * 4294967296.0 + (double)how.uniform_low) / 18446744073709551616.0;
            token = walk(weights, cut, uniform, sums, chosen);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        seen_here[token / 32] |= 1u << token % 32;
        last[how.slot] = token;
        drawn[blockIdx.x] = {token, row.logits[token] - log_mass, NONE};
    }
}
