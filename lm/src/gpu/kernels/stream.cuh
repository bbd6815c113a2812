// How a block works on a row of the residual stream. Compiled for a model: HIDDEN, a multiple of 8. A thread has the same columns of
// every row, eight at a time.

#define EIGHTS (HIDDEN / 8)
#define THREADS (EIGHTS < 256 ? (EIGHTS + WARP - 1) / WARP * WARP : 256)
// Eights of a row that a thread has.
#define EACH ((EIGHTS + THREADS - 1) / THREADS)
