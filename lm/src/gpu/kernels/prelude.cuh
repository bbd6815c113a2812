// What every kernel is written with: elements, pairs of them, sums over a warp or a block, and products on tensor cores.
//
// The same text is compiled for a GPU and, in tests, by a C++ compiler for the CPU (EMULATED), where emulator.h stands in
// for the language's keywords and for what the threads of a warp do together.

#ifdef EMULATED
#include "emulator.h"
#else

// Compiled without any header: NVRTC needs no installed toolkit.
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef short int16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef long long int64_t;

// A kernel that runs with THREADS threads per block. Its name is longer for the linker: the language has functions of its own, such
// as `norm`. Large blocks are said to have a multiprocessor to themselves: the compiler would else spill to make room for another.
#define KERNEL(NAME, THREADS, ...) extern "C" __global__ void __launch_bounds__(THREADS, (THREADS) > 512) kernel_##NAME(__VA_ARGS__)
// The block's dynamic shared memory.
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(128) unsigned char NAME[]
#define DEVICE static __device__ __forceinline__

// A number of 16 bits with the exponent of a 32-bit float.
struct element {
    uint16_t bits;
};

DEVICE float to_float(element x) { return __uint_as_float((uint32_t)x.bits << 16); }

DEVICE element to_element(float x) {
    element y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two neighbouring elements in one register, the first in the low half.
struct pair {
    uint32_t bits;
};

DEVICE pair to_pair(float first, float second) {
    pair p;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(p.bits) : "f"(second), "f"(first));
    return p;
}

DEVICE float first(pair p) { return __uint_as_float(p.bits << 16); }
DEVICE float second(pair p) { return __uint_as_float(p.bits & 0xffff0000u); }

// acc += a · b for a tile of 16 rows and 8 columns over 16 products each (mma.m16n8k16, row-major a, column-major b).
// With g = lane / 4 and c = lane % 4 * 2 a thread holds
//   a[0]: row g, columns c, c+1;  a[1]: row g+8;  a[2]: row g, columns c+8, c+9;  a[3]: row g+8 of the same
//   b[0]: rows c, c+1 of column g;  b[1]: rows c+8, c+9
//   acc[0], acc[1]: row g, columns c, c+1;  acc[2], acc[3]: row g+8
DEVICE void multiply_tile(float (&acc)[4], const pair (&a)[4], const pair (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a[0].bits), "r"(a[1].bits), "r"(a[2].bits), "r"(a[3].bits), "r"(b[0].bits), "r"(b[1].bits));
}

// Four matrices of 8 × 8 elements from shared memory: lane i gives the address of row i % 8 of matrix i / 8 (16-byte aligned),
// and gets of matrix k, in to[k], elements 2·(lane % 4) and the next of row lane / 4.
DEVICE void load_tiles(pair (&to)[4], const element* row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0].bits), "=r"(to[1].bits), "=r"(to[2].bits), "=r"(to[3].bits)
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed: in to[k] rows 2·(lane % 4) and the next of column lane / 4.
DEVICE void load_tiles_transposed(pair (&to)[4], const element* row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0].bits), "=r"(to[1].bits), "=r"(to[2].bits), "=r"(to[3].bits)
                 : "r"(address)
                 : "memory");
}

// Eight elements (or, with `there` false, zeros) from global to shared memory, without waiting; both 16-byte aligned.
DEVICE void copy_async(element* to, const element* from, bool there) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    uint32_t bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// The same for one float.
DEVICE void copy_async(float* to, const float* from, bool there) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    uint32_t bytes = there ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// Closes the group of copies begun so far.
DEVICE void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most OPEN closed groups are unfinished. The block's threads see them after the next __syncthreads().
template <int OPEN>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE uint32_t shuffle_xor(uint32_t x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE float shuffle_up(float x, int by) { return __shfl_up_sync(0xffffffffu, x, by); }
DEVICE float shuffle_from(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
DEVICE uint32_t shuffle_from(uint32_t x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
DEVICE void synchronise_warp() { __syncwarp(); }

DEVICE float exp2_(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// Below every finite score, and still a number when one such is taken from another.
#define LOWEST (-1e30f)
#define LOG2_E 1.4426950408889634f
// No token, place, expert.
#define NONE 0xffffffffu
#define WARP 32

// Eight elements that lie together, 16-byte aligned on a GPU.
struct alignas(8 * sizeof(element)) eight {
    element of[8];
};

DEVICE eight load_eight(const element* from) { return *reinterpret_cast<const eight*>(from); }
DEVICE void store_eight(element* to, eight x) { *reinterpret_cast<eight*>(to) = x; }

// The same as pairs.
struct alignas(8 * sizeof(element)) eight_in_pairs {
    pair of[4];
};

DEVICE eight_in_pairs load_pairs(const element* from) { return *reinterpret_cast<const eight_in_pairs*>(from); }

// Four floats that lie together, 16-byte aligned.
struct alignas(16) four {
    float of[4];
};

DEVICE four load_four(const float* from) { return *reinterpret_cast<const four*>(from); }
DEVICE void store_four(float* to, four x) { *reinterpret_cast<four*>(to) = x; }

// Eight floats, 16-byte aligned.
DEVICE void load_floats(float (&to)[8], const float* from) {
    four low = load_four(from), high = load_four(from + 4);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        to[k] = low.of[k];
        to[4 + k] = high.of[k];
    }
}

DEVICE void store_floats(float* to, const float (&x)[8]) {
    store_four(to, {{x[0], x[1], x[2], x[3]}});
    store_four(to + 4, {{x[4], x[5], x[6], x[7]}});
}

DEVICE float exp_(float x) { return exp2_(x * LOG2_E); }
DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }
DEVICE uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }
DEVICE uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

// From a 16 × 16 part of a tile in shared memory, with rows PITCH apart: the left operand of a product.
template <int PITCH>
DEVICE void load_left(pair (&a)[4], const element* tile) {
    uint32_t lane = threadIdx.x % WARP;
    load_tiles(a, tile + lane % 16 * PITCH + lane / 16 * 8);
}

// The right operands of two products whose columns are the first and the last eight rows of the part.
template <int PITCH>
DEVICE void load_rows(pair (&b)[4], const element* tile) {
    uint32_t lane = threadIdx.x % WARP;
    load_tiles(b, tile + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8);
}

// The right operands of two products whose columns are the first and the last eight columns of the part.
template <int PITCH>
DEVICE void load_columns(pair (&b)[4], const element* tile) {
    uint32_t lane = threadIdx.x % WARP;
    load_tiles_transposed(b, tile + lane % 16 * PITCH + lane / 16 * 8);
}

// The two products with what load_rows or load_columns gives; `acc` has eight columns each.
DEVICE void multiply_two(float (*acc)[4], const pair (&a)[4], const pair (&b)[4]) {
    const pair low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    multiply_tile(acc[0], a, low);
    multiply_tile(acc[1], a, high);
}

// A sum of 16 columns as the left operand of the next product.
DEVICE void as_left(pair (&a)[4], const float (*acc)[4]) {
    a[0] = to_pair(acc[0][0], acc[0][1]);
    a[1] = to_pair(acc[0][2], acc[0][3]);
    a[2] = to_pair(acc[1][0], acc[1][1]);
    a[3] = to_pair(acc[1][2], acc[1][3]);
}

DEVICE float warp_sum(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

DEVICE float warp_max(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}

// The sum over the threads of a block of up to 1024, the same to the bit for all of them and in every run. `room` is shared
// memory for 33 floats, free to use again after the next __syncthreads().
DEVICE float block_sum(float x, float* room) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    if (threadIdx.x < WARP) {
        float y = threadIdx.x < blockDim.x / WARP ? room[threadIdx.x] : 0.0f;
        y = warp_sum(y);
        if (threadIdx.x == 0) room[WARP] = y;
    }
    __syncthreads();
    return room[WARP];
}

// The largest over the threads of a block; as block_sum.
DEVICE float block_max(float x, float* room) {
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    if (threadIdx.x < WARP) {
        float y = threadIdx.x < blockDim.x / WARP ? room[threadIdx.x] : LOWEST;
        y = warp_max(y);
        if (threadIdx.x == 0) room[WARP] = y;
    }
    __syncthreads();
    return room[WARP];
}
