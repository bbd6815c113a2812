// Queries, keys and values on their way from a projection to attention: biases, normalisation of heads, rotation, and keys and
// values into the pages of their sequences.
//
// Compiled for a model: HEAD_DIM, HEADS, KEY_HEADS, PAGE (tokens), HAS_BIAS, HAS_NORMS, HAS_ROTATION.

#define HALF (HEAD_DIM / 2)
#define ROW ((HEADS + 2 * KEY_HEADS) * HEAD_DIM)
// Pairs of a head that a lane holds.
#define HELD ((HALF + WARP - 1) / WARP)

// Where the keys or the values of a token lie in a layer's pages: [page][key head][token][element].
DEVICE uint64_t place_of(const uint32_t* tables, uint32_t pages_per_seat, uint32_t seat, uint32_t position, uint32_t head) {
    uint64_t page = tables[(uint64_t)seat * pages_per_seat + position / PAGE];
    return ((page * KEY_HEADS + head) * PAGE + position % PAGE) * HEAD_DIM;
}

// A block per row of `qkv`, whose token is the last of the first lengths[row] of its seat; rows of length 0 are not used. Queries
// are changed in place.
KERNEL(place, 256, element* qkv, const element* bias, const element* query_norm, const element* key_norm,
       const float* frequencies, float epsilon, const uint32_t* seats, const uint32_t* lengths, const uint32_t* tables,
       uint32_t pages_per_seat, element* keys, element* values) {
    uint32_t length = lengths[blockIdx.x];
    if (length == 0) return;
    uint32_t position = length - 1, seat = seats[blockIdx.x];
    element* row = qkv + (uint64_t)blockIdx.x * ROW;
    uint32_t lane = threadIdx.x % WARP;
    for (uint32_t head = threadIdx.x / WARP; head < HEADS + 2 * KEY_HEADS; head += blockDim.x / WARP) {
        element* at = row + head * HEAD_DIM;
        float low[HELD], high[HELD];
        float squares = 0.0f;
#pragma unroll
        for (int k = 0; k < HELD; k++) {
            uint32_t i = k * WARP + lane;
            low[k] = high[k] = 0.0f;
            if (i < HALF) {
                low[k] = to_float(at[i]);
                high[k] = to_float(at[HALF + i]);
                if (HAS_BIAS) {
                    low[k] += to_float(bias[head * HEAD_DIM + i]);
                    high[k] += to_float(bias[head * HEAD_DIM + HALF + i]);
                }
                squares += low[k] * low[k] + high[k] * high[k];
            }
        }
        bool is_value = head >= HEADS + KEY_HEADS;
        if (HAS_NORMS && !is_value) {
            const element* weight = head < HEADS ? query_norm : key_norm;
            float scale = rsqrtf(warp_sum(squares) / HEAD_DIM + epsilon);
#pragma unroll
            for (int k = 0; k < HELD; k++) {
                uint32_t i = k * WARP + lane;
                if (i < HALF) {
                    low[k] *= scale * to_float(weight[i]);
                    high[k] *= scale * to_float(weight[HALF + i]);
                }
            }
        }
        if (HAS_ROTATION && !is_value) {
#pragma unroll
            for (int k = 0; k < HELD; k++) {
                uint32_t i = k * WARP + lane;
                if (i < HALF) {
                    float angle = (float)position * frequencies[i], cosine = cosf(angle), sine = sinf(angle);
                    float turned = low[k] * cosine - high[k] * sine;
                    high[k] = high[k] * cosine + low[k] * sine;
                    low[k] = turned;
                }
            }
        }
        if (head >= HEADS) {
            uint32_t key_head = (head - HEADS) % KEY_HEADS;
            at = (is_value ? values : keys) + place_of(tables, pages_per_seat, seat, position, key_head);
        }
#pragma unroll
        for (int k = 0; k < HELD; k++) {
            uint32_t i = k * WARP + lane;
            if (i < HALF) {
                at[i] = to_element(low[k]);
                at[HALF + i] = to_element(high[k]);
            }
        }
    }
}

// Copies page from[i] to page to[i], in all layers: grid x over pairs of pages, y over the keys and the values of every layer, which
// lie `layer` elements apart from `pool` on.
KERNEL(copy_pages, 256, element* pool, const uint32_t* from, const uint32_t* to, uint32_t layer_pages) {
    uint64_t page = (uint64_t)KEY_HEADS * PAGE * HEAD_DIM;
    element* layer = pool + (uint64_t)blockIdx.y * layer_pages * page;
    const element* source = layer + from[blockIdx.x] * page;
    element* target = layer + to[blockIdx.x] * page;
    for (uint32_t i = threadIdx.x * 8; i < page; i += blockDim.x * 8) store_eight(target + i, load_eight(source + i));
}
