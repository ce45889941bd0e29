// One fast weight matrix per head, written by the delta or the sum rule, then read: fwp_rl's ops
// fast_weight and, where CHANNELS, fast_weight_channels, whose key channels decay each by itself and
// whose erase key is its own. Equations and adjoints: reference.py and numba_cpu.py of
// fwp_rl/kernels/{fast_weight,fast_weight_channels}/.
//
// One block per (b, h) holds W in registers and walks through time, CHUNK steps of the inputs at
// a time in shared memory. Both reads of a step share one sweep over the old state:
// W q = W' q + b (k.q) u.
#pragma once
#include "common.cuh"

// All arrays are contiguous. Inputs that were not given are null: beta is 1, nothing decays or
// resets.
template <class IO> struct FastWeightInputs {
  const IO *q, *k, *v, *beta;    // [T, B, H, K] twice, [T, B, H, V], [T, B, H]
  const Real<IO>* initial;       // [B, H, V, K]
  const IO* log_decay;           // [T, B, H]
  const unsigned char* reset;    // [T, B]
  long long delta, T, B, H, K, V;

  // Number of the block's (b, h) at a step, among all [T, B, H].
  __device__ __forceinline__ long long at(int t) const { return t * B * H + blockIdx.x; }
};

template <class IO> struct FastWeightForward {
  using Number = IO;
  static constexpr bool CHANNELS = false;
  FastWeightInputs<IO> in;
  IO* y;             // [T, B, H, V]
  Real<IO>* last;    // [B, H, V, K]
  Real<IO>* u;       // [T, B, H, V]: what the delta rule writes; null for the sum rule
};

// in.log_decay is null here, and so is erase for the sum rule.
template <class IO> struct FastWeightChannelsForward : FastWeightForward<IO> {
  static constexpr bool CHANNELS = true;
  const IO *erase, *log_decay;    // [T, B, H, K] both
};

// The erase keys and the decays of some steps, where they are not k and not the matrix's.
template <class S, int K, int CHUNK, bool CHANNELS> struct Channels {};

template <class S, int K, int CHUNK> struct Channels<S, K, CHUNK, true> {
  S e[CHUNK][K], decays[CHUNK][K];

  template <int THREADS, class Arguments>
  __device__ __forceinline__ void stage_channels(const Arguments& a, int t0, int count) {
    const int size = a.in.K;
    const long long first = a.in.at(t0) * size, stride = a.in.B * a.in.H * size;
    if (a.in.delta) stage<THREADS>(e, count, a.erase + first, stride, size);
#pragma unroll 4
    for (int n = threadIdx.x; n < count * K; n += THREADS) {
      const int s = n / K, j = n % K;
      decays[s][j] = j < size ? exp(widen(a.log_decay[first + s * stride + j])) : S(0);
    }
  }
};

// What a step multiplies W by (zero where it is reset) and how strongly it writes. With a horizon,
// what it multiplies the gradient of W by: zero where that ends, too.
template <class S, int CHUNK> struct Scalars {
  S decay[CHUNK], beta[CHUNK];

  template <class IO>
  __device__ __forceinline__ void stage(const FastWeightInputs<IO>& in, int t0, int count,
                                        int horizon = 0) {
    const int s = threadIdx.x;
    if (s >= count) return;
    const long long at = in.at(t0 + s);
    const bool reset = in.reset && in.reset[(t0 + s) * in.B + blockIdx.x / in.H];
    const bool ends = reset || cuts(t0 + s, horizon);
    decay[s] = ends ? S(0) : in.log_decay ? exp(widen(in.log_decay[at])) : S(1);
    beta[s] = in.beta ? widen(in.beta[at]) : S(1);
  }
};

template <int K, int V, int THREADS, int CHUNK, class Arguments>
__device__ __forceinline__ void write_and_read(const Arguments& a) {
  using IO = typename Arguments::Number;
  using S = Real<IO>;
  using Matrix = Tile<S, V, K, THREADS>;
  constexpr bool CHANNELS = Arguments::CHANNELS;
  struct Layout : Channels<S, K, CHUNK, CHANNELS> {
    S q[CHUNK][K], k[CHUNK][K], v[CHUNK][V], kq[CHUNK];
    Scalars<S, CHUNK> scalars;
  };
  Layout& now = shared<Layout>();
  const FastWeightInputs<IO>& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V;
  const long long heads = in.B * in.H, matrix = blockIdx.x * in.V * in.K;

  Matrix w;
  w.template load<false>(in.initial + matrix, size_v, size_k);
  constexpr int IN_FLIGHT = K == 16 && V == 64 ? 2 : 4;  // 4 would spill on sm_100 there
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    const long long first = in.at(t0);
    __syncthreads();  // all have read the chunk before
    stage<THREADS, IN_FLIGHT>(now.q, count, in.q + first * size_k, heads * size_k, size_k);
    stage<THREADS, IN_FLIGHT>(now.k, count, in.k + first * size_k, heads * size_k, size_k);
    stage<THREADS, IN_FLIGHT>(now.v, count, in.v + first * size_v, heads * size_v, size_v);
    now.scalars.stage(in, t0, count);
    if constexpr (CHANNELS) now.template stage_channels<THREADS>(a, t0, count);
    __syncthreads();
    dots<THREADS>(now.kq, now.k, now.q, count);
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < count; s++) {
      S q[Matrix::COLS], k[Matrix::COLS], wk[Matrix::ROWS] = {}, wq[Matrix::ROWS];
      Matrix::pick(q, now.q[s]);
      Matrix::pick(k, now.k[s]);
      w.fade(now.scalars.decay[s]);
      if constexpr (CHANNELS) {
        S x[Matrix::COLS];
        Matrix::pick(x, now.decays[s]);
        w.fade_columns(x);
        if (in.delta) {
          Matrix::pick(x, now.e[s]);
          w.times(wk, x);
        }
      } else if (in.delta) {
        w.times(wk, k);
      }
      w.times(wq, q);
      const long long at = in.at(t0 + s) * size_v;
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        const int i = Matrix::row(r);
        const S u = now.v[s][i] - wk[r];
        const S write = now.scalars.beta[s] * u;
        w.add(r, write, k);
        if (Matrix::lane() == 0 && i < size_v) {
          narrow(wq[r] + write * now.kq[s], a.y[at + i]);
          if (a.u) a.u[at + i] = u;
        }
      }
    }
  }
  w.template store<false>(a.last + matrix, size_v, size_k);
}

template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 512 / THREADS)
fast_weight_forward(const FastWeightForward<IO> a) {
  write_and_read<K, V, THREADS, CHUNK>(a);
}

template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 512 / THREADS)
fast_weight_channels_forward(const FastWeightChannelsForward<IO> a) {
  write_and_read<K, V, THREADS, CHUNK>(a);
}
