// What the kernels share: scalar types, shared memory, sums over lanes, a matrix held in registers.
//
// The same text is compiled by NVRTC for a GPU and by g++ against host/emulator.h. So a kernel uses
// threadIdx.x, blockIdx.x, __syncthreads, __shfl_xor_sync with a full mask and dynamic shared
// memory, and nothing else of CUDA; whole warps alone, and no header but its neighbours.
#pragma once

#ifndef FWP_RL_EMULATOR
extern __shared__ __align__(16) unsigned char shared_memory[];

// The block's shared memory, laid out as a struct of Real<IO>, whose size the launch states.
template <class Layout> __device__ __forceinline__ Layout& shared() {
  return *reinterpret_cast<Layout*>(shared_memory);
}
#endif

// Inputs and outputs are float or bf16 (double in the emulator). States, sums and all that is
// kept between two passes are Real<IO>.
struct bf16 {
  unsigned short bits;
};

template <class IO> struct RealOf {
  using type = IO;
};
template <> struct RealOf<bf16> {
  using type = float;
};
template <class IO> using Real = typename RealOf<IO>::type;

__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

__device__ __forceinline__ void narrow(double x, double& out) { out = x; }
__device__ __forceinline__ void narrow(float x, float& out) { out = x; }
__device__ __forceinline__ void narrow(float x, bf16& out) {  // to the nearest, ties to even
  const unsigned bits = __float_as_uint(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out.bits = nan ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// The sum of x over LANES neighbouring lanes, in each of them.
template <int LANES, class S> __device__ __forceinline__ S sum_over_lanes(S x) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

// Whether a gradient horizon, if not 0, ends what goes back from step t to the one before.
__device__ __forceinline__ bool cuts(int t, int horizon) {
  return horizon > 0 && t > 0 && t % horizon == 0;
}

template <class S> __device__ __forceinline__ S sigmoid(S x) { return S(1) / (S(1) + exp(-x)); }

// `count` vectors of `size` <= SIZE numbers, at first, first + stride, ...; padded with zeros.
// A thread has IN_FLIGHT loads on their way at a time, for nothing else of the block hides their
// latency. Measured on an H100, 4 against 2: fast_weight and fast_rnn gain a fifth, every backward
// pass 3 to 20 %; the forward passes of recurrent_delta and fast_lstm lose 7 to 11 % and keep 2.
template <int THREADS, int IN_FLIGHT = 4, int SIZE, class S, class IO>
__device__ __forceinline__ void stage(S (*rows)[SIZE], int count, const IO* first, long long stride,
                                      int size) {
  constexpr int ACROSS = SIZE < THREADS ? SIZE : THREADS, AT_ONCE = THREADS / ACROSS;
  if (threadIdx.x >= AT_ONCE * ACROSS) return;
#pragma unroll
  for (int i = threadIdx.x % ACROSS; i < SIZE; i += ACROSS)
#pragma unroll IN_FLIGHT
    for (int n = threadIdx.x / ACROSS; n < count; n += AT_ONCE)
      rows[n][i] = i < size ? widen(first[n * stride + i]) : S(0);
}

// out[n] = x[n].y[n] for `count` staged vectors, by whole warps.
template <int THREADS, int SIZE, class S>
__device__ __forceinline__ void dots(S* out, const S (*x)[SIZE], const S (*y)[SIZE], int count) {
  const int lane = threadIdx.x % 32;
  for (int n = threadIdx.x / 32; n < count; n += THREADS / 32) {
    S sum = 0;
    for (int i = lane; i < SIZE; i += 32) sum += x[n][i] * y[n][i];
    sum = sum_over_lanes<32>(sum);
    if (lane == 0) out[n] = sum;
  }
}

// Four numbers that are read or written at once, where they lie at a multiple of their size.
template <class S> struct alignas(4 * sizeof(S)) Four {
  S x[4];
};

template <class S> __device__ __forceinline__ bool in_fours(const S* matrix, int row_size) {
  return row_size % 4 == 0 && reinterpret_cast<unsigned long long>(matrix) % sizeof(Four<S>) == 0;
}

// An R x C matrix in the registers of a block: each thread holds ROWS rows of COLS columns, and
// LANES neighbouring lanes share their rows. Columns are dealt out four at a time, so that the
// lanes of a group read neighbouring words of shared memory. Products are reduced along lanes
// alone: no atomics, one order of summation.
template <class S, int R, int C, int THREADS> struct Tile {
  static constexpr int LANES = C >= 32 ? C / 16 : 2;
  static constexpr int ROWS = R * LANES / THREADS;
  static constexpr int COLS = C / LANES;
  static_assert(ROWS * THREADS == R * LANES && COLS % 4 == 0, "threads do not divide the tile");

  S w[ROWS][COLS];

  static __device__ __forceinline__ int lane() { return threadIdx.x % LANES; }
  static __device__ __forceinline__ int row(int r) { return threadIdx.x / LANES * ROWS + r; }
  static __device__ __forceinline__ int col(int c) { return (c / 4 * LANES + lane()) * 4 + c % 4; }

  // From a matrix of rows x cols in memory, or of cols x rows where TRANSPOSED; zero beyond it.
  template <bool TRANSPOSED, class Number>
  __device__ __forceinline__ void load(const Number* matrix, int rows, int cols) {
    const bool fours = !TRANSPOSED && in_fours(matrix, cols);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < COLS; c += 4)
        if (fours) {
          Four<Number> four = {};
          if (row(r) < rows && col(c) < cols)
            four = reinterpret_cast<const Four<Number>&>(at<false>(matrix, rows, cols, r, c));
#pragma unroll
          for (int n = 0; n < 4; n++) w[r][c + n] = widen(four.x[n]);
        } else {
#pragma unroll
          for (int n = c; n < c + 4; n++)
            w[r][n] = row(r) < rows && col(n) < cols
                          ? widen(at<TRANSPOSED>(matrix, rows, cols, r, n))
                          : S(0);
        }
  }

  template <bool TRANSPOSED>
  __device__ __forceinline__ void store(S* matrix, int rows, int cols) const {
    const bool fours = !TRANSPOSED && in_fours(matrix, cols);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < COLS; c += 4)
        if (fours) {
          const Four<S> four = {w[r][c], w[r][c + 1], w[r][c + 2], w[r][c + 3]};
          if (row(r) < rows && col(c) < cols)
            reinterpret_cast<Four<S>&>(at<false>(matrix, rows, cols, r, c)) = four;
        } else {
#pragma unroll
          for (int n = c; n < c + 4; n++)
            if (row(r) < rows && col(n) < cols) at<TRANSPOSED>(matrix, rows, cols, r, n) = w[r][n];
        }
  }

  template <bool TRANSPOSED, class Number>
  static __device__ __forceinline__ Number& at(Number* matrix, int rows, int cols, int r, int c) {
    return TRANSPOSED ? (matrix + col(c) * rows)[row(r)] : (matrix + row(r) * cols)[col(c)];
  }

  // To and from the n-th of the rooms for R * C numbers each, in the order in which threads hold W.
  __device__ __forceinline__ void put(S* rooms, long long n) const {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < COLS; c++)
        rooms[n * (R * C) + (r * COLS + c) * THREADS + threadIdx.x] = w[r][c];
  }

  __device__ __forceinline__ void get(const S* rooms, long long n) {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < COLS; c++)
        w[r][c] = rooms[n * (R * C) + (r * COLS + c) * THREADS + threadIdx.x];
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < COLS; c++) w[r][c] = 0;
  }

  // W *= factor, in which zero clears what is not finite too. (A choice between the product and a
  // zero costs the compiler a second copy of W, and spills.)
  __device__ __forceinline__ void fade(S factor) {
    if (factor != S(1))
#pragma unroll
      for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLS; c++) w[r][c] *= factor;
    if (factor == S(0))
#pragma unroll
      for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLS; c++) w[r][c] = w[r][c] != w[r][c] ? S(0) : w[r][c];
  }

  // Column c *= factors[c], of the thread's; row r *= factors[r], of all.
  __device__ __forceinline__ void fade_columns(const S (&factors)[COLS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < COLS; c++) w[r][c] *= factors[c];
  }

  __device__ __forceinline__ void fade_rows(const S* factors) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const S factor = factors[row(r)];
#pragma unroll
      for (int c = 0; c < COLS; c++) w[r][c] *= factor;
    }
  }

  // The thread's columns of a vector.
  static __device__ __forceinline__ void pick(S (&mine)[COLS], const S* vector) {
#pragma unroll
    for (int c = 0; c < COLS; c++) mine[c] = vector[col(c)];
  }

  // The thread's rows of W x, in every lane of the group.
  __device__ __forceinline__ void times(S (&out)[ROWS], const S (&x)[COLS]) const {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      S sum = 0;
#pragma unroll
      for (int c = 0; c < COLS; c++) sum += w[r][c] * x[c];
      out[r] = sum_over_lanes<LANES>(sum);
    }
  }

  // Row r of W += a x^T.
  __device__ __forceinline__ void add(int r, S a, const S (&x)[COLS]) {
#pragma unroll
    for (int c = 0; c < COLS; c++) w[r][c] += a * x[c];
  }
};

// A vector of up to SIZE numbers in the lanes of one warp; zero beyond its size.
template <class S, int SIZE> struct LaneVector {
  static constexpr int COUNT = (SIZE + 31) / 32;
  S x[COUNT];

  static __device__ __forceinline__ int at(int n) { return threadIdx.x % 32 + 32 * n; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < COUNT; n++) x[n] = 0;
  }

  template <class Number> __device__ __forceinline__ void load(const Number* vector, int size) {
#pragma unroll
    for (int n = 0; n < COUNT; n++) x[n] = at(n) < size ? widen(vector[at(n)]) : S(0);
  }

  template <class Number> __device__ __forceinline__ void store(Number* vector, int size) const {
#pragma unroll
    for (int n = 0; n < COUNT; n++)
      if (at(n) < size) narrow(x[n], vector[at(n)]);
  }

  __device__ __forceinline__ void add(S factor, const S* vector) {  // of SIZE numbers
#pragma unroll
    for (int n = 0; n < COUNT; n++)
      if (at(n) < SIZE) x[n] += factor * vector[at(n)];
  }

  __device__ __forceinline__ S dot(const LaneVector& other) const {
    S sum = 0;
#pragma unroll
    for (int n = 0; n < COUNT; n++) sum += x[n] * other.x[n];
    return sum_over_lanes<32>(sum);
  }

  __device__ __forceinline__ void softmax(int size) {
    S peak = S(-3.402823466e38f), total = 0;
#pragma unroll
    for (int n = 0; n < COUNT; n++) peak = at(n) < size && x[n] > peak ? x[n] : peak;
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      const S other = __shfl_xor_sync(0xffffffffu, peak, distance);
      peak = other > peak ? other : peak;
    }
#pragma unroll
    for (int n = 0; n < COUNT; n++) {
      x[n] = at(n) < size ? exp(x[n] - peak) : S(0);
      total += x[n];
    }
    total = sum_over_lanes<32>(total);
#pragma unroll
    for (int n = 0; n < COUNT; n++) x[n] /= total;
  }

  // From the gradient of this softmax to that of its logits.
  __device__ __forceinline__ void softmax_backward(LaneVector& gradient) const {
    const S mean = dot(gradient);
#pragma unroll
    for (int n = 0; n < COUNT; n++) gradient.x[n] = x[n] * (gradient.x[n] - mean);
  }
};
