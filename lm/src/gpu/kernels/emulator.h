// Runs kernels on the CPU, for tests: one block after the other, its threads as coroutines that take turns at barriers.
//
// Each warp runs as far as it gets without the others, the first one first in one launch and the last one in the next, and shared
// memory starts as NaNs, so that a kernel with a barrier left out gives other numbers. Asynchronous copies are made at once in the
// former launches and as late as they may be in the latter. With ELEMENT_IS_FLOAT elements are 32-bit
// floats, and results can be held against the CPU's kernels to the last digits.

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <tuple>
#include <ucontext.h>
#include <utility>

// Called by checks that the compiler puts before every access: a GPU stops at an address that is no multiple of what is read there.
extern "C" void __ubsan_handle_type_mismatch_v1_abort(void*, void* address) {
    fprintf(stderr, "a kernel reads or writes at %p what is not aligned there\n", address);
    abort();
}

#define DEVICE static inline
#define __shared__ static
#define __restrict__ __restrict

struct index3 {
    uint32_t x, y, z;
};
static index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr uint32_t MOST_THREADS = 1024;
constexpr size_t STACK = 64 << 10;
constexpr size_t SHARED = 228 << 10;

// What the threads of a warp do together, once all of them have arrived.
typedef void (*Together)(void* const* operands);

enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Thread {
    // Where it starts, and where it goes on once it has started: jumps take no system call.
    ucontext_t start;
    jmp_buf on;
    bool started;
    State state;
    void* operand;
    Together together;
};

static Thread threads[MOST_THREADS];
static char* stacks;
static jmp_buf scheduler;
static uint32_t current;
static bool downwards;
alignas(128) static unsigned char shared[SHARED];
static void (*body)(void*);
static void* body_data;

// Lets the current thread run until it yields.
inline void resume() {
    Thread& thread = threads[current];
    if (_setjmp(scheduler)) return;
    if (thread.started) _longjmp(thread.on, 1);
    thread.started = true;
    setcontext(&thread.start);
}

inline void yield(State state) {
    threads[current].state = state;
    if (!_setjmp(threads[current].on)) _longjmp(scheduler, 1);
}

inline void with_warp(Together together, void* operand) {
    threads[current].operand = operand;
    threads[current].together = together;
    yield(AT_WARP);
}

inline void enter() {
    body(body_data);
    yield(DONE);
}

// A copy that a thread has begun, and the groups that it had closed before.
struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    bool there;
    uint32_t group;
};

static std::deque<Copy> begun[MOST_THREADS];
static uint32_t closed[MOST_THREADS];

inline void make(const Copy& copy) {
    if (copy.there)
        memcpy(copy.to, copy.from, copy.bytes);
    else
        memset(copy.to, 0, copy.bytes);
}

inline void begin_copy(void* to, const void* from, size_t bytes, bool there) {
    Copy copy = {to, from, bytes, there, closed[current]};
    if (downwards)
        begun[current].push_back(copy);
    else
        make(copy);
}

// Makes the copies of all but the last `open` closed groups.
inline void wait_for_copies(uint32_t open) {
    std::deque<Copy>& copies = begun[current];
    while (!copies.empty() && copies.front().group + open < closed[current]) {
        make(copies.front());
        copies.pop_front();
    }
}

// Runs one block; the error if its threads do not meet.
inline const char* run_block(uint32_t count) {
    uint32_t nan = 0x7fc00000u;
    for (size_t at = 0; at < SHARED; at += 4) memcpy(shared + at, &nan, 4);
    if (!stacks) stacks = static_cast<char*>(malloc(MOST_THREADS * STACK));
    for (uint32_t i = 0; i < count; i++) {
        Thread& thread = threads[i];
        getcontext(&thread.start);
        thread.start.uc_stack.ss_sp = stacks + i * STACK;
        thread.start.uc_stack.ss_size = STACK;
        thread.start.uc_link = nullptr;
        makecontext(&thread.start, enter, 0);
        thread.started = false;
        thread.state = READY;
        begun[i].clear();
        closed[i] = 0;
    }
    // Whether all threads of a warp are in a state.
    auto all = [](uint32_t warp, State state) {
        for (uint32_t i = warp; i < warp + 32; i++)
            if (threads[i].state != state) return false;
        return true;
    };
    for (;;) {
        bool all_done = true, all_at_block = true;
        for (uint32_t turn = 0; turn < count; turn += 32) {
            // As far as it gets alone.
            uint32_t warp = downwards ? count - 32 - turn : turn;
            for (;;) {
                for (uint32_t lane = 0; lane < 32; lane++) {
                    uint32_t i = warp + (downwards ? 31 - lane : lane);
                    if (threads[i].state != READY) continue;
                    current = i;
                    threadIdx = {i, 0, 0};
                    resume();
                }
                if (!all(warp, AT_WARP)) break;
                void* operands[32];
                for (uint32_t i = 0; i < 32; i++) {
                    operands[i] = threads[warp + i].operand;
                    if (threads[warp + i].together != threads[warp].together)
                        return "the threads of a warp do different things together";
                    threads[warp + i].state = READY;
                }
                threads[warp].together(operands);
            }
            all_done &= all(warp, DONE);
            all_at_block &= all(warp, AT_BLOCK);
        }
        if (all_done) return nullptr;
        if (!all_at_block) return "threads wait for others that never come";
        for (uint32_t i = 0; i < count; i++) threads[i].state = READY;
    }
}

// How a kernel is started: sizes, and the address and the size of every argument.
struct Launch {
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared;
    uint32_t count;
    void* const* arguments;
    const uint32_t* sizes;
};

template <class... A>
struct Call {
    void (*kernel)(A...);
    void* const* arguments;

    template <size_t... I>
    void apply(std::index_sequence<I...>) {
        kernel(*static_cast<A*>(arguments[I])...);
    }

    static void run(void* self) { static_cast<Call*>(self)->apply(std::index_sequence_for<A...>()); }
};

template <class... A>
const char* launch(void (*kernel)(A...), uint32_t most_threads, const Launch& at) {
    const size_t sizes[] = {sizeof(A)..., 0};
    if (at.count != sizeof...(A)) return "the kernel takes another number of arguments";
    for (size_t i = 0; i < sizeof...(A); i++)
        if (sizes[i] != at.sizes[i]) return "an argument has another size";
    if (at.threads == 0 || at.threads % 32 || at.threads > most_threads || most_threads > MOST_THREADS)
        return "the kernel does not run with so many threads";
    if (at.shared > SHARED) return "a block has no such shared memory";
    if (at.grid[0] == 0 || at.grid[1] == 0 || at.grid[2] == 0 || at.grid[1] > 65535 || at.grid[2] > 65535) return "no such grid";
    Call<A...> call = {kernel, at.arguments};
    body = Call<A...>::run;
    body_data = &call;
    blockDim = {at.threads, 1, 1};
    gridDim = {at.grid[0], at.grid[1], at.grid[2]};
    downwards = !downwards;
    for (uint32_t z = 0; z < at.grid[2]; z++)
        for (uint32_t y = 0; y < at.grid[1]; y++)
            for (uint32_t x = 0; x < at.grid[0]; x++) {
                blockIdx = {x, y, z};
                if (const char* fault = run_block(at.threads)) return fault;
            }
    return nullptr;
}

}  // namespace emulator

#define KERNEL(NAME, THREADS, ...)                                                        \
    static void NAME(__VA_ARGS__);                                                        \
    extern "C" const char* emulate_##NAME(const emulator::Launch* at) {                   \
        return emulator::launch(NAME, THREADS, *at);                                      \
    }                                                                                     \
    static void NAME(__VA_ARGS__)
#define DYNAMIC_SHARED(NAME) unsigned char* const NAME = emulator::shared

static inline void __syncthreads() { emulator::yield(emulator::AT_BLOCK); }

DEVICE float __uint_as_float(uint32_t x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}

DEVICE uint32_t __float_as_uint(float x) {
    uint32_t y;
    memcpy(&y, &x, 4);
    return y;
}

#ifdef ELEMENT_IS_FLOAT
struct element {
    float value;
};
DEVICE float to_float(element x) { return x.value; }
DEVICE element to_element(float x) { return {x}; }
#else
struct element {
    uint16_t bits;
};
DEVICE float to_float(element x) { return __uint_as_float((uint32_t)x.bits << 16); }
DEVICE element to_element(float x) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
#endif

// A register on a GPU, and read as one.
struct alignas(2 * sizeof(element)) pair {
    element of[2];
};
DEVICE pair to_pair(float first, float second) { return {{to_element(first), to_element(second)}}; }
DEVICE float first(pair p) { return to_float(p.of[0]); }
DEVICE float second(pair p) { return to_float(p.of[1]); }

namespace emulator {

struct Product {
    float* acc;
    const pair* a;
    const pair* b;
};

inline void multiply(void* const* operands) {
    float a[16][16], b[16][8];
    auto lane_of = [&](int lane) -> const Product& { return *static_cast<const Product*>(operands[lane]); };
    for (int lane = 0; lane < 32; lane++) {
        const Product& p = lane_of(lane);
        int g = lane / 4, c = lane % 4 * 2;
        for (int k = 0; k < 4; k++)
            for (int half = 0; half < 2; half++) a[g + k % 2 * 8][c + k / 2 * 8 + half] = to_float(p.a[k].of[half]);
        for (int k = 0; k < 2; k++)
            for (int half = 0; half < 2; half++) b[c + k * 8 + half][g] = to_float(p.b[k].of[half]);
    }
    for (int lane = 0; lane < 32; lane++) {
        const Product& p = lane_of(lane);
        int g = lane / 4, c = lane % 4 * 2;
        for (int k = 0; k < 4; k++) {
            float sum = p.acc[k];
            for (int i = 0; i < 16; i++) sum += a[g + k / 2 * 8][i] * b[i][c + k % 2];
            p.acc[k] = sum;
        }
    }
}

struct Load {
    pair* to;
    const element* row;
};

template <bool TRANSPOSED>
void load(void* const* operands) {
    auto lane_of = [&](int lane) -> const Load& { return *static_cast<const Load*>(operands[lane]); };
    for (int lane = 0; lane < 32; lane++)
        for (int k = 0; k < 4; k++)
            for (int half = 0; half < 2; half++) {
                int row = TRANSPOSED ? lane % 4 * 2 + half : lane / 4;
                int column = TRANSPOSED ? lane / 4 : lane % 4 * 2 + half;
                lane_of(lane).to[k].of[half] = lane_of(k * 8 + row).row[column];
            }
}

struct Shuffle {
    uint32_t value, from, got;
};

inline void shuffle(void* const* operands) {
    for (int lane = 0; lane < 32; lane++) {
        Shuffle& mine = *static_cast<Shuffle*>(operands[lane]);
        mine.got = static_cast<Shuffle*>(operands[mine.from])->value;
    }
}

inline uint32_t shuffled(uint32_t value, uint32_t from) {
    Shuffle mine = {value, from % 32, 0};
    with_warp(shuffle, &mine);
    return mine.got;
}

inline void nothing(void* const*) {}

}  // namespace emulator

DEVICE void multiply_tile(float (&acc)[4], const pair (&a)[4], const pair (&b)[2]) {
    emulator::Product product = {acc, a, b};
    emulator::with_warp(emulator::multiply, &product);
}

DEVICE void check_alignment(const void* address) {
    if (reinterpret_cast<uintptr_t>(address) % (8 * sizeof(element))) {
        fprintf(stderr, "a kernel reads eight elements that are not aligned\n");
        abort();
    }
}

DEVICE void load_tiles(pair (&to)[4], const element* row) {
    check_alignment(row);
    emulator::Load load = {to, row};
    emulator::with_warp(emulator::load<false>, &load);
}

DEVICE void load_tiles_transposed(pair (&to)[4], const element* row) {
    check_alignment(row);
    emulator::Load load = {to, row};
    emulator::with_warp(emulator::load<true>, &load);
}

DEVICE void copy_async(element* to, const element* from, bool there) {
    check_alignment(to);
    if (there) check_alignment(from);
    emulator::begin_copy(to, from, 8 * sizeof(element), there);
}

DEVICE void copy_async(float* to, const float* from, bool there) {
    emulator::begin_copy(to, from, sizeof(float), there);
}

DEVICE void close_copies() { emulator::closed[emulator::current]++; }

template <int OPEN>
DEVICE void wait_for_copies() {
    emulator::wait_for_copies(OPEN);
}

DEVICE uint32_t shuffle_from(uint32_t x, int lane) { return emulator::shuffled(x, (uint32_t)lane); }
DEVICE float shuffle_from(float x, int lane) { return __uint_as_float(shuffle_from(__float_as_uint(x), lane)); }
DEVICE uint32_t shuffle_xor(uint32_t x, int mask) { return emulator::shuffled(x, threadIdx.x % 32 ^ (uint32_t)mask); }
DEVICE float shuffle_xor(float x, int mask) { return __uint_as_float(shuffle_xor(__float_as_uint(x), mask)); }
DEVICE float shuffle_up(float x, int by) {
    uint32_t lane = threadIdx.x % 32, from = lane < (uint32_t)by ? lane : lane - (uint32_t)by;
    return __uint_as_float(emulator::shuffled(__float_as_uint(x), from));
}
DEVICE void synchronise_warp() { emulator::with_warp(emulator::nothing, nullptr); }
DEVICE float exp2_(float x) { return exp2f(x); }
DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
