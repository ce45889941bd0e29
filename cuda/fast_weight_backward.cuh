// The gradients of fast_weight.cuh. Three passes over the sequence, so that each reduces along lanes
// alone:
//   1  back in time, a row per value:    p = G k, dv, the gradient of the initial state
//   2  back in time, a row per key:      dbeta, the part of dk that comes from G
//   3  forth in time, a row per key:     W replayed; dq, the rest of dk (or derase), the terms
//                                        of dlog_decay
#include "fast_weight.cuh"

template <class IO> struct FastWeightBackward {
  using Number = IO;
  static constexpr bool CHANNELS = false;
  FastWeightInputs<IO> in;
  long long horizon;       // where the gradient ends: see cuts; 0 for nowhere
  const Real<IO>* u;       // as saved; null for the sum rule, which writes v
  const IO* dy;
  const Real<IO>* dlast;
  IO *dq, *dk, *dv, *dbeta;
  Real<IO>* dinitial;
  Real<IO>* dlog_decay;    // null where log_decay is
  Real<IO>* p;             // room for [T, B, H, V]
  Real<IO>* dk_part;       // room for [T, B, H, K], which may be dk
};

template <class IO> struct FastWeightChannelsBackward : FastWeightBackward<IO> {
  static constexpr bool CHANNELS = true;
  const IO *erase, *log_decay;
  IO* derase;
  Real<IO>* dlog_decays;    // [T, B, H, K]
};

template <class S, int K, int V, int THREADS, int CHUNK, bool CHANNELS>
struct BackwardLayout : Channels<S, K, CHUNK, CHANNELS> {
  S q[CHUNK][K], k[CHUNK][K], dk[CHUNK][K];  // q: dq in the last pass
  S u[CHUNK][V], dy[CHUNK][V], p[CHUNK][V];
  S kq[CHUNK], uy[CHUNK], up[CHUNK];
  Scalars<S, CHUNK> scalars;
  S sums[CHANNELS ? K : THREADS / 32];  // of G W: by channels, or by warps

  // What the delta rule erases with.
  __device__ __forceinline__ const S* erase_key(int s) const {
    if constexpr (CHANNELS)
      return this->e[s];
    else
      return k[s];
  }

  template <class IO>
  __device__ __forceinline__ void stage_u_and_dy(const FastWeightBackward<IO>& a, int t0,
                                                 int count) {
    const int size_v = a.in.V;
    const long long first = a.in.at(t0) * size_v, stride = a.in.B * a.in.H * size_v;
    if (a.in.delta)
      stage<THREADS>(u, count, a.u + first, stride, size_v);
    else
      stage<THREADS>(u, count, a.in.v + first, stride, size_v);
    stage<THREADS>(dy, count, a.dy + first, stride, size_v);
  }
};

// Pass 1, back in time, a row per value: G is the gradient of W.
template <int K, int V, int THREADS, int CHUNK, class Arguments, class Layout>
__device__ __forceinline__ void values_backward(const Arguments& a, Layout& now) {
  using IO = typename Arguments::Number;
  using S = Real<IO>;
  using Matrix = Tile<S, V, K, THREADS>;
  const FastWeightInputs<IO>& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V;
  const long long heads = in.B * in.H, matrix = blockIdx.x * in.V * in.K;

  Matrix g;
  g.template load<false>(a.dlast + matrix, size_v, size_k);
  for (int t0 = (T - 1) / CHUNK * CHUNK; t0 >= 0; t0 -= CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    const long long first = in.at(t0);
    __syncthreads();  // all have read the chunk before
    stage<THREADS>(now.q, count, in.q + first * size_k, heads * size_k, size_k);
    stage<THREADS>(now.k, count, in.k + first * size_k, heads * size_k, size_k);
    stage<THREADS>(now.dy, count, a.dy + first * size_v, heads * size_v, size_v);
    now.scalars.stage(in, t0, count, a.horizon);
    if constexpr (Arguments::CHANNELS) now.template stage_channels<THREADS>(a, t0, count);
    __syncthreads();
    dots<THREADS>(now.kq, now.k, now.q, count);
    __syncthreads();
#pragma unroll 1
    for (int s = count - 1; s >= 0; s--) {
      S q[Matrix::COLS], k[Matrix::COLS], gk[Matrix::ROWS];
      Matrix::pick(q, now.q[s]);
      Matrix::pick(k, now.k[s]);
      g.times(gk, k);
      if constexpr (Arguments::CHANNELS)
        if (in.delta) Matrix::pick(k, now.e[s]);
      const long long at = in.at(t0 + s) * size_v;
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        const int i = Matrix::row(r);
        const S dy = now.dy[s][i], p = gk[r] + dy * now.kq[s], dv = now.scalars.beta[s] * p;
        g.add(r, dy, q);
        if (in.delta) g.add(r, -dv, k);
        if (Matrix::lane() == 0 && i < size_v) {
          a.p[at + i] = p;
          narrow(dv, a.dv[at + i]);
        }
      }
      if constexpr (Arguments::CHANNELS) {
        Matrix::pick(k, now.decays[s]);
        g.fade_columns(k);
      }
      g.fade(now.scalars.decay[s]);
    }
  }
  g.template store<false>(a.dinitial + matrix, size_v, size_k);
}

// Pass 2, back in time, a row per key.
template <int K, int V, int THREADS, int CHUNK, class Arguments, class Layout>
__device__ __forceinline__ void keys_backward(const Arguments& a, Layout& now) {
  using IO = typename Arguments::Number;
  using S = Real<IO>;
  using Matrix = Tile<S, K, V, THREADS>;
  const FastWeightInputs<IO>& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V;
  const long long heads = in.B * in.H, matrix = blockIdx.x * in.V * in.K;

  Matrix g;
  g.template load<true>(a.dlast + matrix, size_k, size_v);
  for (int t0 = (T - 1) / CHUNK * CHUNK; t0 >= 0; t0 -= CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    const long long first = in.at(t0);
    __syncthreads();  // all have read the chunk before, and written p
    stage<THREADS>(now.q, count, in.q + first * size_k, heads * size_k, size_k);
    if constexpr (Arguments::CHANNELS)
      now.template stage_channels<THREADS>(a, t0, count);
    else
      stage<THREADS>(now.k, count, in.k + first * size_k, heads * size_k, size_k);
    stage<THREADS>(now.p, count, a.p + first * size_v, heads * size_v, size_v);
    now.stage_u_and_dy(a, t0, count);
    now.scalars.stage(in, t0, count, a.horizon);
    __syncthreads();
    dots<THREADS>(now.uy, now.u, now.dy, count);
    dots<THREADS>(now.up, now.u, now.p, count);
    __syncthreads();
    const int thread = threadIdx.x;
    if (thread < count) narrow(now.up[thread], a.dbeta[in.at(t0 + thread)]);
#pragma unroll 1
    for (int s = count - 1; s >= 0; s--) {
      S x[Matrix::COLS], gu[Matrix::ROWS];
      Matrix::pick(x, now.u[s]);
      g.times(gu, x);
      const S beta = now.scalars.beta[s];
      const long long at = in.at(t0 + s) * size_k;
      Matrix::pick(x, now.dy[s]);
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        const int j = Matrix::row(r);
        g.add(r, now.q[s][j], x);
        if (Matrix::lane() == 0 && j < size_k)
          a.dk_part[at + j] = beta * (gu[r] + now.q[s][j] * now.uy[s]);
      }
      if (in.delta) {
        Matrix::pick(x, now.p[s]);
#pragma unroll
        for (int r = 0; r < Matrix::ROWS; r++) g.add(r, -beta * now.erase_key(s)[Matrix::row(r)], x);
      }
      if constexpr (Arguments::CHANNELS) g.fade_rows(now.decays[s]);
      g.fade(now.scalars.decay[s]);
    }
  }
}

// Pass 3, forth in time, a row per key: W replayed. Leaves in dlog_decay, where it is wanted, what
// each step adds to <G, W>; in dlog_decays, what to its sums over the values.
template <int K, int V, int THREADS, int CHUNK, class Arguments, class Layout, class Matrix>
__device__ __forceinline__ void keys_forward(const Arguments& a, Layout& now, Matrix& w) {
  using IO = typename Arguments::Number;
  using S = Real<IO>;
  constexpr bool CHANNELS = Arguments::CHANNELS;
  const FastWeightInputs<IO>& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V;
  const long long heads = in.B * in.H, matrix = blockIdx.x * in.V * in.K;

  w.template load<true>(in.initial + matrix, size_k, size_v);
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    const long long first = in.at(t0);
    __syncthreads();  // all have read the chunk before, and written dk_part
    stage<THREADS>(now.k, count, in.k + first * size_k, heads * size_k, size_k);
    stage<THREADS>(now.dk, count, a.dk_part + first * size_k, heads * size_k, size_k);
    stage<THREADS>(now.p, count, a.p + first * size_v, heads * size_v, size_v);
    now.stage_u_and_dy(a, t0, count);
    now.scalars.stage(in, t0, count);
    if constexpr (CHANNELS) {
      stage<THREADS>(now.q, count, in.q + first * size_k, heads * size_k, size_k);
      now.template stage_channels<THREADS>(a, t0, count);
    }
    __syncthreads();
    dots<THREADS>(now.uy, now.u, now.dy, count);
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < count; s++) {
      S x[Matrix::COLS], wdy[Matrix::ROWS], wp[Matrix::ROWS] = {};
      w.fade(now.scalars.decay[s]);
      if constexpr (CHANNELS) w.fade_rows(now.decays[s]);
      Matrix::pick(x, now.dy[s]);
      w.times(wdy, x);
      if (in.delta) {
        Matrix::pick(x, now.p[s]);
        w.times(wp, x);
      }
      Matrix::pick(x, now.u[s]);
      const S beta = now.scalars.beta[s];
      const long long at = in.at(t0 + s) * size_k;
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        const int j = Matrix::row(r);
        const S write = beta * now.k[s][j], dq = wdy[r] + write * now.uy[s];
        w.add(r, write, x);
        if (Matrix::lane() == 0 && j < size_k) {
          narrow(dq, a.dq[at + j]);
          if constexpr (CHANNELS) {
            const S dk = now.dk[s][j], de = -beta * wp[r];
            narrow(dk, a.dk[at + j]);
            if (in.delta) narrow(de, a.derase[at + j]);
            const S erased = in.delta ? now.e[s][j] * de : S(0);
            a.dlog_decays[at + j] = now.q[s][j] * dq - now.k[s][j] * dk + erased;
          } else {
            narrow(now.dk[s][j] - beta * wp[r], a.dk[at + j]);
          }
        }
        if (!CHANNELS && Matrix::lane() == 0) now.q[s][j] = dq;
      }
    }
    if (!CHANNELS && a.dlog_decay) {
      __syncthreads();
      const int lane = threadIdx.x % 32;
      for (int s = threadIdx.x / 32; s < count; s += THREADS / 32) {
        const long long at = in.at(t0 + s);
        S term = 0;
        for (int j = lane; j < size_k; j += 32) term += now.q[s][j] * widen(in.q[at * size_k + j]);
        for (int i = lane; i < size_v; i += 32)
          term -= now.scalars.beta[s] * now.p[s][i] * widen(in.v[at * size_v + i]);
        term = sum_over_lanes<32>(term);
        if (lane == 0) a.dlog_decay[at] = term;
      }
    }
  }
}

// dlog_decay[t] = <G, W> before step t, summed from its last value and the terms of all steps from
// t on; from zero across a reset, or a cut, which leaves the step's own.
template <int CHUNK, class IO, class Layout, class Matrix>
__device__ __forceinline__ void decay_backward(const FastWeightBackward<IO>& a, Layout& now,
                                               const Matrix& w) {
  using S = Real<IO>;
  const FastWeightInputs<IO>& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V;
  const S* dlast = a.dlast + blockIdx.x * in.V * in.K;
  const int threads = sizeof now.sums / sizeof(S) * 32;

  S sum = 0;
#pragma unroll
  for (int r = 0; r < Matrix::ROWS; r++)
#pragma unroll
    for (int c = 0; c < Matrix::COLS; c++)
      if (Matrix::row(r) < size_k && Matrix::col(c) < size_v)
        sum += w.w[r][c] * Matrix::template at<true>(dlast, size_k, size_v, r, c);
  sum = sum_over_lanes<32>(sum);
  if (threadIdx.x % 32 == 0) now.sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int warp = 0; warp < threads / 32; warp++) sum += now.sums[warp];
  for (int t0 = (T - 1) / CHUNK * CHUNK; t0 >= 0; t0 -= CHUNK) {
    S terms[CHUNK];  // read at once, then written
#pragma unroll
    for (int s = 0; s < CHUNK; s++) terms[s] = t0 + s < T ? a.dlog_decay[in.at(t0 + s)] : S(0);
#pragma unroll
    for (int s = CHUNK - 1; s >= 0; s--) {
      if (t0 + s >= T) continue;
      sum += terms[s];
      if (in.reset && in.reset[(t0 + s) * in.B + blockIdx.x / in.H]) sum = 0;
      a.dlog_decay[in.at(t0 + s)] = sum;
      if (cuts(t0 + s, a.horizon)) sum = 0;
    }
  }
}

// The same for each channel, by a thread of its own: the sums of G W over the values. A decay of
// exactly 0 has no gradient, and nothing before it reaches what comes after.
template <int THREADS, int CHUNK, class Arguments, class Layout, class Matrix>
__device__ __forceinline__ void decays_backward(const Arguments& a, Layout& now, const Matrix& w) {
  using S = Real<typename Arguments::Number>;
  const auto& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V;
  const S* dlast = a.dlast + blockIdx.x * in.V * in.K;

#pragma unroll
  for (int r = 0; r < Matrix::ROWS; r++) {
    S sum = 0;
#pragma unroll
    for (int c = 0; c < Matrix::COLS; c++)
      if (Matrix::row(r) < size_k && Matrix::col(c) < size_v)
        sum += w.w[r][c] * Matrix::template at<true>(dlast, size_k, size_v, r, c);
    sum = sum_over_lanes<Matrix::LANES>(sum);
    if (Matrix::lane() == 0) now.sums[Matrix::row(r)] = sum;
  }
  __syncthreads();
  for (int j = threadIdx.x; j < size_k; j += THREADS) {
    S sum = now.sums[j];
    for (int t0 = (T - 1) / CHUNK * CHUNK; t0 >= 0; t0 -= CHUNK) {
      S terms[CHUNK], logs[CHUNK];  // read at once, then written
#pragma unroll
      for (int s = 0; s < CHUNK; s++) {
        const long long at = in.at(t0 + s) * size_k + j;
        terms[s] = t0 + s < T ? a.dlog_decays[at] : S(0);
        logs[s] = t0 + s < T ? widen(a.log_decay[at]) : S(0);
      }
#pragma unroll
      for (int s = CHUNK - 1; s >= 0; s--) {
        if (t0 + s >= T) continue;
        sum += terms[s];
        const bool reset = in.reset && in.reset[(t0 + s) * in.B + blockIdx.x / in.H];
        if (reset || logs[s] < S(-3.402823466e38f)) sum = 0;
        a.dlog_decays[in.at(t0 + s) * size_k + j] = sum;
        if (cuts(t0 + s, a.horizon)) sum = 0;
      }
    }
  }
}

template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 512 / THREADS)
fast_weight_backward(const FastWeightBackward<IO> a) {
  using S = Real<IO>;
  auto& now = shared<BackwardLayout<S, K, V, THREADS, CHUNK, false>>();
  values_backward<K, V, THREADS, CHUNK>(a, now);
  keys_backward<K, V, THREADS, CHUNK>(a, now);
  Tile<S, K, V, THREADS> w;
  keys_forward<K, V, THREADS, CHUNK>(a, now, w);
  if (a.dlog_decay) decay_backward<CHUNK>(a, now, w);
}

template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 512 / THREADS)
fast_weight_channels_backward(const FastWeightChannelsBackward<IO> a) {
  using S = Real<IO>;
  auto& now = shared<BackwardLayout<S, K, V, THREADS, CHUNK, true>>();
  values_backward<K, V, THREADS, CHUNK>(a, now);
  keys_backward<K, V, THREADS, CHUNK>(a, now);
  Tile<S, K, V, THREADS> w;
  keys_forward<K, V, THREADS, CHUNK>(a, now, w);
  decays_backward<THREADS, CHUNK>(a, now, w);
}
