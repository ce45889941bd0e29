// One fast weight matrix per head, written by the delta or the sum rule, then read: fwp_rl's op
// fast_weight. Equations and adjoints: fwp_rl/kernels/fast_weight/{reference,numba_cpu}.py.
//
// One block per (b, h) holds W in registers and walks through time, CHUNK steps of the inputs at
// a time in shared memory. Both reads of a step share one sweep over the old state:
// W q = W' q + b (k.q) u.
//
// The backward pass makes three passes over the sequence, so that each reduces along lanes alone:
//   1  back in time, a row per value:    p = G k, dv, the gradient of the initial state
//   2  back in time, a row per key:      dbeta, the part of dk that comes from G
//   3  forth in time, a row per key:     W replayed; dq, the rest of dk, the terms of dlog_decay
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
  FastWeightInputs<IO> in;
  IO* y;             // [T, B, H, V]
  Real<IO>* last;    // [B, H, V, K]
  Real<IO>* u;       // [T, B, H, V]: what the delta rule writes; null for the sum rule
};

template <class IO> struct FastWeightBackward {
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

template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 512 / THREADS)
fast_weight_forward(const FastWeightForward<IO> a) {
  using S = Real<IO>;
  using Matrix = Tile<S, V, K, THREADS>;
  struct Layout {
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
    __syncthreads();
    dots<THREADS>(now.kq, now.k, now.q, count);
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < count; s++) {
      S q[Matrix::COLS], k[Matrix::COLS], wk[Matrix::ROWS] = {}, wq[Matrix::ROWS];
      Matrix::pick(q, now.q[s]);
      Matrix::pick(k, now.k[s]);
      w.fade(now.scalars.decay[s]);
      if (in.delta) w.times(wk, k);
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

template <class S, int K, int V, int THREADS, int CHUNK> struct BackwardLayout {
  S q[CHUNK][K], k[CHUNK][K], dk[CHUNK][K];  // q: dq in the last pass
  S u[CHUNK][V], dy[CHUNK][V], p[CHUNK][V];
  S kq[CHUNK], uy[CHUNK], up[CHUNK];
  Scalars<S, CHUNK> scalars;
  S warps[THREADS / 32];

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
template <int K, int V, int THREADS, int CHUNK, class IO, class Layout>
__device__ __forceinline__ void values_backward(const FastWeightBackward<IO>& a, Layout& now) {
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
    __syncthreads();
    dots<THREADS>(now.kq, now.k, now.q, count);
    __syncthreads();
#pragma unroll 1
    for (int s = count - 1; s >= 0; s--) {
      S q[Matrix::COLS], k[Matrix::COLS], gk[Matrix::ROWS];
      Matrix::pick(q, now.q[s]);
      Matrix::pick(k, now.k[s]);
      g.times(gk, k);
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
      g.fade(now.scalars.decay[s]);
    }
  }
  g.template store<false>(a.dinitial + matrix, size_v, size_k);
}

// Pass 2, back in time, a row per key.
template <int K, int V, int THREADS, int CHUNK, class IO, class Layout>
__device__ __forceinline__ void keys_backward(const FastWeightBackward<IO>& a, Layout& now) {
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
        for (int r = 0; r < Matrix::ROWS; r++) g.add(r, -beta * now.k[s][Matrix::row(r)], x);
      }
      g.fade(now.scalars.decay[s]);
    }
  }
}

// Pass 3, forth in time, a row per key: W replayed. Leaves in dlog_decay, where it is wanted, what
// each step adds to <G, W>.
template <int K, int V, int THREADS, int CHUNK, class IO, class Layout, class Matrix>
__device__ __forceinline__ void keys_forward(const FastWeightBackward<IO>& a, Layout& now,
                                             Matrix& w) {
  using S = Real<IO>;
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
    __syncthreads();
    dots<THREADS>(now.uy, now.u, now.dy, count);
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < count; s++) {
      S x[Matrix::COLS], wdy[Matrix::ROWS], wp[Matrix::ROWS] = {};
      w.fade(now.scalars.decay[s]);
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
          narrow(now.dk[s][j] - beta * wp[r], a.dk[at + j]);
        }
        if (Matrix::lane() == 0) now.q[s][j] = dq;
      }
    }
    if (a.dlog_decay) {
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
  const int threads = sizeof now.warps / sizeof(S) * 32;

  S sum = 0;
#pragma unroll
  for (int r = 0; r < Matrix::ROWS; r++)
#pragma unroll
    for (int c = 0; c < Matrix::COLS; c++)
      if (Matrix::row(r) < size_k && Matrix::col(c) < size_v)
        sum += w.w[r][c] * Matrix::template at<true>(dlast, size_k, size_v, r, c);
  sum = sum_over_lanes<32>(sum);
  if (threadIdx.x % 32 == 0) now.warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int warp = 0; warp < threads / 32; warp++) sum += now.warps[warp];
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

template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 512 / THREADS)
fast_weight_backward(const FastWeightBackward<IO> a) {
  using S = Real<IO>;
  auto& now = shared<BackwardLayout<S, K, V, THREADS, CHUNK>>();
  values_backward<K, V, THREADS, CHUNK>(a, now);
  keys_backward<K, V, THREADS, CHUNK>(a, now);
  Tile<S, K, V, THREADS> w;
  keys_forward<K, V, THREADS, CHUNK>(a, now, w);
  if (a.dlog_decay) decay_backward<CHUNK>(a, now, w);
}
