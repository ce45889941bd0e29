// A fast weight matrix whose queries, keys, values and rate see its own last output: fwp_rl's op
// recurrent_delta. Equations and adjoints: fwp_rl/kernels/recurrent_delta/{reference,numba_cpu}.py.
//
// One block per (b, h) holds W and the slow matrices in registers, one row of each per group of
// lanes, and walks through time. All are padded to D x D, D being no less than K and V.
#include "common.cuh"

// What both directions read. All arrays are contiguous.
template <class IO> struct RecurrentDeltaInputs {
  const IO *R_q, *R_k, *R_v, *r_b;  // [H, K, V] twice, [H, V, V], [H, V]
  const Real<IO>* W_0;              // [B, H, V, K]
  const unsigned char* reset;       // [T, B], or null
  long long T, B, H, K, V;

  // Number of the block's (b, h) at a step, among all [T, B, H].
  __device__ __forceinline__ long long at(int t) const { return t * B * H + blockIdx.x; }

  // Zero where a step begins afresh, else one.
  __device__ __forceinline__ Real<IO> keep(int t) const {
    return reset && reset[t * B + blockIdx.x / H] ? Real<IO>(0) : Real<IO>(1);
  }

  // The slow matrices of the head, or their transposes.
  template <bool TRANSPOSED, class Matrix>
  __device__ __forceinline__ void load_slow(Matrix& r_q, Matrix& r_k, Matrix& r_v) const {
    const int size_v = V, rows = TRANSPOSED ? V : K, cols = TRANSPOSED ? K : V;
    const long long head = blockIdx.x % H;
    r_q.template load<TRANSPOSED>(R_q + head * K * V, rows, cols);
    r_k.template load<TRANSPOSED>(R_k + head * K * V, rows, cols);
    r_v.template load<TRANSPOSED>(R_v + head * V * V, size_v, size_v);
  }
};

template <class IO> struct RecurrentDeltaForward {
  RecurrentDeltaInputs<IO> in;
  const IO *xq, *xk, *xv, *xb;     // [T, B, H, K] twice, [T, B, H, V], [T, B, H]
  const Real<IO>* y_0;             // [B, H, V]
  IO* y;                           // [T, B, H, V]
  Real<IO> *W, *y_last;            // as W_0 and y_0: after the last step
  Real<IO> *s, *q, *k, *beta, *u;  // of every step, as xv, xq, xk, xb and xv
};

template <class IO> struct RecurrentDeltaBackward {
  RecurrentDeltaInputs<IO> in;
  long long horizon;                     // where the gradient ends: see cuts; 0 for nowhere
  const Real<IO> *s, *q, *k, *beta, *u;  // as saved
  const IO* dy;
  const Real<IO> *dW_last, *dy_last;
  Real<IO> *dxq, *dxk, *dxv, *dxb, *dW, *dy_0;
  Real<IO> *dR_q, *dR_k, *dR_v, *dr_b;  // what each (b, h) adds: [B, H, ...]
  Real<IO>* starts;                     // room for W before every chunk, as the threads hold it
};

// x.y, where the lanes of a group hold the columns of two rows; in each of them.
template <class Matrix, class S>
__device__ __forceinline__ S product(const S (&x)[Matrix::COLS], const S (&y)[Matrix::COLS]) {
  S sum = 0;
#pragma unroll
  for (int c = 0; c < Matrix::COLS; c++) sum += x[c] * y[c];
  return sum_over_lanes<Matrix::LANES>(sum);
}

template <class IO, int D, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 512 / THREADS)
recurrent_delta_forward(const RecurrentDeltaForward<IO> a) {
  using S = Real<IO>;
  using Matrix = Tile<S, D, D, THREADS>;
  using Vector = LaneVector<S, D>;
  static_assert(Matrix::ROWS == 1, "a group of lanes holds one row");
  struct Layout {
    S xq[CHUNK][D], xk[CHUNK][D], xv[CHUNK][D], xb[CHUNK], keep[CHUNK];
    S s[D], q[D], k[D], beta;
  };
  Layout& now = shared<Layout>();
  const RecurrentDeltaInputs<IO>& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V, i = Matrix::row(0);
  const int thread = threadIdx.x, warp = thread / 32;
  const long long heads = in.B * in.H, matrix = blockIdx.x * in.V * in.K;
  const bool writes = Matrix::lane() == 0 && i < size_v;

  Matrix w, r_q, r_k, r_v;
  Vector r_b;
  w.template load<false>(in.W_0 + matrix, size_v, size_k);
  in.template load_slow<false>(r_q, r_k, r_v);
  r_b.load(in.r_b + blockIdx.x % in.H * in.V, size_v);
  S y = i < size_v ? a.y_0[blockIdx.x * in.V + i] : S(0);
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    const long long first = in.at(t0);
    stage<THREADS, 2>(now.xq, count, a.xq + first * size_k, heads * size_k, size_k);
    stage<THREADS, 2>(now.xk, count, a.xk + first * size_k, heads * size_k, size_k);
    stage<THREADS, 2>(now.xv, count, a.xv + first * size_v, heads * size_v, size_v);
    if (thread < count) {
      now.xb[thread] = widen(a.xb[in.at(t0 + thread)]);
      now.keep[thread] = in.keep(t0 + thread);
    }
    __syncthreads();
#pragma unroll 1
    for (int n = 0; n < count; n++) {
      const long long at = in.at(t0 + n);
      const S keep = now.keep[n], s = keep == S(0) ? S(0) : tanh(y);
      if (Matrix::lane() == 0) now.s[i] = s;
      if (writes) a.s[at * size_v + i] = s;
      __syncthreads();
      S x[Matrix::COLS];
      Matrix::pick(x, now.s);
      const S logit_q = now.xq[n][i] + product<Matrix>(r_q.w[0], x);
      const S logit_k = now.xk[n][i] + product<Matrix>(r_k.w[0], x);
      const S v = now.xv[n][i] + product<Matrix>(r_v.w[0], x);
      if (Matrix::lane() == 0) {
        now.q[i] = logit_q;
        now.k[i] = logit_k;
      }
      __syncthreads();
      for (int job = warp; job < 3; job += THREADS / 32) {
        Vector vector;
        if (job == 2) {
          vector.load(now.s, D);
          const S beta = sigmoid(now.xb[n] + r_b.dot(vector));
          if (thread % 32 == 0) now.beta = a.beta[at] = beta;
        } else {
          S* logits = job == 0 ? now.q : now.k;
          vector.load(logits, size_k);
          vector.softmax(size_k);
          vector.store(logits, D);
          vector.store((job == 0 ? a.q : a.k) + at * size_k, size_k);
        }
      }
      __syncthreads();
      S k[Matrix::COLS];
      Matrix::pick(x, now.q);
      Matrix::pick(k, now.k);
      w.fade(keep);
      const S u = v - product<Matrix>(w.w[0], k), write = now.beta * u;
      y = product<Matrix>(w.w[0], x) + write * product<Matrix>(k, x);
      w.add(0, write, k);
      if (writes) {
        narrow(y, a.y[at * size_v + i]);
        a.u[at * size_v + i] = u;
      }
    }
  }
  w.template store<false>(a.W + matrix, size_v, size_k);
  if (writes) a.y_last[blockIdx.x * in.V + i] = y;
}

// A chunk of steps backward, and what the warps hand each other within one.
template <class S, int D, int CHUNK> struct RecurrentDeltaLayout {
  S s[CHUNK][D], q[CHUNK][D], k[CHUNK][D], u[CHUNK][D], dy[CHUNK][D], beta[CHUNK], keep[CHUNK];
  S p[CHUNK][D];  // kept for each step: one is still read when the next is written
  S dy_now[D], dq[D], dk[D], uy[CHUNK], up[CHUNK];  // uy, up: u of every step with dy and p of one

  template <int THREADS, class IO>
  __device__ __forceinline__ void stage_writes(const RecurrentDeltaBackward<IO>& a, int t0,
                                               int count) {
    const int size_k = a.in.K, size_v = a.in.V, n = threadIdx.x;
    const long long first = a.in.at(t0), heads = a.in.B * a.in.H;
    stage<THREADS>(k, count, a.k + first * size_k, heads * size_k, size_k);
    stage<THREADS>(u, count, a.u + first * size_v, heads * size_v, size_v);
    if (n >= count) return;
    beta[n] = a.beta[a.in.at(t0 + n)];
    keep[n] = a.in.keep(t0 + n);
  }

  template <int THREADS, class IO>
  __device__ __forceinline__ void stage_reads(const RecurrentDeltaBackward<IO>& a, int t0,
                                              int count) {
    const int size_k = a.in.K, size_v = a.in.V;
    const long long first = a.in.at(t0), heads = a.in.B * a.in.H;
    stage<THREADS>(s, count, a.s + first * size_v, heads * size_v, size_v);
    stage<THREADS>(q, count, a.q + first * size_k, heads * size_k, size_k);
    stage<THREADS>(dy, count, a.dy + first * size_v, heads * size_v, size_v);
  }

  // The gradients of what a step reads, in place of q, k, u and beta, beside s.
  template <int THREADS, class IO>
  __device__ __forceinline__ void stage_gradients(const RecurrentDeltaBackward<IO>& a, int t0,
                                                  int count) {
    const int size_k = a.in.K, size_v = a.in.V, n = threadIdx.x;
    const long long first = a.in.at(t0), heads = a.in.B * a.in.H;
    stage<THREADS>(s, count, a.s + first * size_v, heads * size_v, size_v);
    stage<THREADS>(q, count, a.dxq + first * size_k, heads * size_k, size_k);
    stage<THREADS>(k, count, a.dxk + first * size_k, heads * size_k, size_k);
    stage<THREADS>(u, count, a.dxv + first * size_v, heads * size_v, size_v);
    if (n < count) beta[n] = a.dxb[a.in.at(t0 + n)];
  }
};

// W before every chunk, a row per key, in memory.
template <int D, int THREADS, int CHUNK, class IO, class Layout>
__device__ __forceinline__ void replay(const RecurrentDeltaBackward<IO>& a, Layout& now) {
  using S = Real<IO>;
  using Matrix = Tile<S, D, D, THREADS>;
  const int T = a.in.T, size_k = a.in.K, size_v = a.in.V;

  Matrix w;
  w.template load<true>(a.in.W_0 + blockIdx.x * a.in.V * a.in.K, size_k, size_v);
  for (int t0 = 0;; t0 += CHUNK) {
    w.put(a.starts, a.in.at(t0 / CHUNK));
    if (t0 + CHUNK >= T) return;
    __syncthreads();  // all have read the chunk before
    now.template stage_writes<THREADS>(a, t0, CHUNK);
    __syncthreads();
#pragma unroll 1
    for (int n = 0; n < CHUNK; n++) {
      S u[Matrix::COLS];
      Matrix::pick(u, now.u[n]);
      w.fade(now.keep[n]);
      w.add(0, now.beta[n] * now.k[n][Matrix::row(0)], u);
    }
  }
}

// The gradients of what a step's query and key are the softmax of, by one warp. In now.dq and
// now.dk is what comes of G and of W before the chunk; the writes since are added here.
template <class S, int D, int CHUNK>
__device__ __forceinline__ LaneVector<S, D>
query_backward(const RecurrentDeltaLayout<S, D, CHUNK>& now, int n, int since) {
  LaneVector<S, D> q, dq;
  q.load(now.q[n], D);
  dq.load(now.dq, D);
  for (int r = since; r <= n; r++) dq.add(now.beta[r] * now.uy[r], now.k[r]);
  q.softmax_backward(dq);
  return dq;
}

template <class S, int D, int CHUNK>
__device__ __forceinline__ LaneVector<S, D>
key_backward(const RecurrentDeltaLayout<S, D, CHUNK>& now, int n, int since) {
  LaneVector<S, D> k, dk;
  k.load(now.k[n], D);
  dk.load(now.dk, D);
  for (int r = since; r < n; r++) dk.add(-now.beta[n] * now.beta[r] * now.up[r], now.k[r]);
  dk.add(now.beta[n] * now.uy[n], now.q[n]);
  k.softmax_backward(dk);
  return dk;
}

// Back in time, all but the gradients of the slow matrices. G, the gradient of W, is held twice: a
// row per value and, transposed, a row per key. Of W a row per key is held, as it was before the
// chunk: the writes since, or since the last reset, are added to what is read.
template <int D, int THREADS, int CHUNK, class IO, class Layout>
__device__ __forceinline__ void chain(const RecurrentDeltaBackward<IO>& a, Layout& now) {
  using S = Real<IO>;
  using Matrix = Tile<S, D, D, THREADS>;
  static_assert(Matrix::ROWS == 1 && CHUNK <= D && CHUNK * Matrix::LANES % 32 == 0,
                "a group of lanes holds one row, whole warps a write of the chunk each");
  const RecurrentDeltaInputs<IO>& in = a.in;
  const int T = in.T, size_k = in.K, size_v = in.V, i = Matrix::row(0), warp = threadIdx.x / 32;
  const long long matrix = blockIdx.x * in.V * in.K, vector = blockIdx.x * in.V;
  const bool leads = Matrix::lane() == 0, writes = leads && i < size_v;

  Matrix g, g_keys, w, r_q, r_k, r_v;
  g.template load<false>(a.dW_last + matrix, size_v, size_k);
  g_keys.template load<true>(a.dW_last + matrix, size_k, size_v);
  in.template load_slow<true>(r_q, r_k, r_v);
  const S r_b = i < size_v ? widen(in.r_b[blockIdx.x % in.H * in.V + i]) : S(0);
  S dy_next = i < size_v ? a.dy_last[vector + i] : S(0);  // what the step after reads of y
  for (int t0 = (T - 1) / CHUNK * CHUNK; t0 >= 0; t0 -= CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    w.get(a.starts, in.at(t0 / CHUNK));
    __syncthreads();  // all have read the chunk before
    now.template stage_writes<THREADS>(a, t0, count);
    now.template stage_reads<THREADS>(a, t0, count);
    __syncthreads();
    int since = count;  // the last reset up to the step, or else the start of the chunk
#pragma unroll 1
    for (int n = count - 1; n >= 0; n--) {
      if (n < since)
        for (since = n; since > 0 && now.keep[since] != S(0);) since--;
      const long long at = in.at(t0 + n);
      const S beta = now.beta[n];
      {  // a row per value
        S q[Matrix::COLS], k[Matrix::COLS];
        Matrix::pick(q, now.q[n]);
        Matrix::pick(k, now.k[n]);
        const S dy = now.dy[n][i] + dy_next;
        const S p = product<Matrix>(g.w[0], k) + dy * product<Matrix>(k, q);
        g.add(0, dy, q);
        g.add(0, -beta * p, k);
        if (leads) {
          now.dy_now[i] = dy;
          now.p[n][i] = p;
        }
        if (writes) a.dxv[at * size_v + i] = beta * p;
      }
      __syncthreads();
      S x[Matrix::COLS];
      {  // a row per key; of the chunk's writes, one each
        S dy[Matrix::COLS], p[Matrix::COLS];
        Matrix::pick(dy, now.dy_now);
        Matrix::pick(p, now.p[n]);
        Matrix::pick(x, now.u[n]);
        S dq = 0, dk = product<Matrix>(g_keys.w[0], x);
        if (now.keep[since] != S(0)) {
          dq = product<Matrix>(w.w[0], dy);
          dk -= product<Matrix>(w.w[0], p);
        }
        g_keys.add(0, now.q[n][i], dy);
        g_keys.add(0, -beta * now.k[n][i], p);
        if (leads) {
          now.dq[i] = dq;
          now.dk[i] = beta * dk;
        }
        if (i < CHUNK) {
          Matrix::pick(x, now.u[i]);
          const S uy = product<Matrix>(x, dy), up = product<Matrix>(x, p);
          if (leads) {
            now.uy[i] = uy;
            now.up[i] = up;
          }
        }
      }
      __syncthreads();
      for (int job = warp; job < 2; job += THREADS / 32) {
        const auto gradient =
            job == 0 ? query_backward(now, n, since) : key_backward(now, n, since);
        gradient.store(job == 0 ? now.dq : now.dk, D);
        gradient.store((job == 0 ? a.dxq : a.dxk) + at * size_k, size_k);
      }
      __syncthreads();
      const S keep = cuts(t0 + n, a.horizon) ? S(0) : now.keep[n];  // of the gradient
      const S s = now.s[n][i], dxb = now.up[n] * beta * (S(1) - beta);
      Matrix::pick(x, now.dq);
      S ds = product<Matrix>(r_q.w[0], x);
      Matrix::pick(x, now.dk);
      ds += product<Matrix>(r_k.w[0], x);
      Matrix::pick(x, now.p[n]);
      ds += beta * product<Matrix>(r_v.w[0], x) + r_b * dxb;
      dy_next = keep == S(0) ? S(0) : ds * (S(1) - s * s);
      g.fade(keep);
      g_keys.fade(keep);
      if (threadIdx.x == 0) a.dxb[at] = dxb;
    }
  }
  g.template store<false>(a.dW + matrix, size_v, size_k);
  if (writes) a.dy_0[vector + i] = dy_next;
}

// The gradients of the slow matrices, once those of what they make are known.
template <int D, int THREADS, int CHUNK, class IO, class Layout>
__device__ __forceinline__ void slow_backward(const RecurrentDeltaBackward<IO>& a, Layout& now) {
  using S = Real<IO>;
  using Matrix = Tile<S, D, D, THREADS>;
  const int T = a.in.T, size_k = a.in.K, size_v = a.in.V, i = Matrix::row(0);
  const long long block = blockIdx.x;

  Matrix r_q, r_k, r_v;
  S r_b = 0;
  r_q.clear();
  r_k.clear();
  r_v.clear();
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    __syncthreads();  // all have read the chunk before, and written its gradients
    now.template stage_gradients<THREADS>(a, t0, count);
    __syncthreads();
#pragma unroll 1
    for (int n = 0; n < count; n++) {
      S s[Matrix::COLS];
      Matrix::pick(s, now.s[n]);
      r_q.add(0, now.q[n][i], s);
      r_k.add(0, now.k[n][i], s);
      r_v.add(0, now.u[n][i], s);
      r_b += now.beta[n] * now.s[n][i];
    }
  }
  r_q.template store<false>(a.dR_q + block * size_k * size_v, size_k, size_v);
  r_k.template store<false>(a.dR_k + block * size_k * size_v, size_k, size_v);
  r_v.template store<false>(a.dR_v + block * size_v * size_v, size_v, size_v);
  if (Matrix::lane() == 0 && i < size_v) a.dr_b[block * size_v + i] = r_b;
}

template <class IO, int D, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 256 / THREADS)
recurrent_delta_backward(const RecurrentDeltaBackward<IO> a) {
  auto& now = shared<RecurrentDeltaLayout<Real<IO>, D, CHUNK>>();
  replay<D, THREADS, CHUNK>(a, now);
  chain<D, THREADS, CHUNK>(a, now);
  slow_backward<D, THREADS, CHUNK>(a, now);
}
