// RNNs whose recurrent matrices are fast weights, written by the delta rule: fwp_rl's ops fast_rnn,
// with one gate, and fast_lstm, with three. Equations and adjoints:
// fwp_rl/kernels/{fast_rnn,fast_lstm}/reference.py, fwp_rl/kernels/fast_rnn/numba_gates.py.
//
// One block per (b, h) holds the matrices of all gates in registers, one below the other, and walks
// through time. Its first warp keeps what a step hands to the next (h, c and their gradients), a
// lane per element; between two barriers all warps do what takes a matrix.
//
// Backward, only the chain from a step to the one before is made here: dz, and the gradients of h
// and c. With dz known, every matrix is a fast weight memory that was read with the queries:
// fast_weight_backward does the rest.
#include "common.cuh"

// G is the number of gates. All arrays are contiguous.
template <class IO> struct FastRnnForward {
  const IO *z, *k, *v, *beta;     // [T, B, G, H, V] three times, [T, B, G, H]
  const Real<IO> *R_0, *h_0;      // [B, G, H, V, V], [B, H, V]
  const Real<IO>* c_0;            // [B, H, V]; null for one gate
  const unsigned char* reset;     // [T, B], or null
  long long softmax_query, softmax_output, T, B, H, V;
  IO* y;                          // [T, B, H, V]
  Real<IO> *R, *h, *c;            // as R_0, h_0, c_0: after the last step
  Real<IO> *queries, *u;          // [T, B, H, V], [T, B, G, H, V]
  Real<IO>* gates;                // [T, B, G, H, V]; for one gate y if it is a softmax, else null
  Real<IO>* cells;                // [T, B, H, V]: c of every step; null for one gate
};

// The shapes are those of FastRnnForward; dh and dc are the gradients of h_0 and c_0.
template <class IO> struct FastRnnBackward {
  const IO *k, *beta;
  const Real<IO> *R_0, *c_0;
  const unsigned char* reset;
  long long softmax_query, softmax_output, T, B, H, V;
  long long horizon;    // where the gradient ends: see cuts; 0 for nowhere
  const Real<IO> *queries, *u, *gates, *cells;
  const IO* dy;
  const Real<IO> *dh_last, *dc_last;
  Real<IO> *dz, *dh, *dc;
  Real<IO>* starts;    // room for R before every chunk, as the threads hold it
};

// Number of the block's (b, h) among all vectors of [T, B, H, V] and of [T, B, G, H, V], and where
// its matrix of a gate starts.
template <class Arguments, int GATES> struct Places {
  long long b, h, B, H, V;

  __device__ __forceinline__ explicit Places(const Arguments& a)
      : b(blockIdx.x / a.H), h(blockIdx.x % a.H), B(a.B), H(a.H), V(a.V) {}
  __device__ __forceinline__ long long step(int t) const { return (t * B + b) * H + h; }
  __device__ __forceinline__ long long gate(int t, int g) const {
    return ((t * B + b) * GATES + g) * H + h;
  }
  __device__ __forceinline__ long long matrix(int g) const { return gate(0, g) * V * V; }
};

// R, or its transpose, of all gates, from memory and to it.
template <bool TRANSPOSED, int V, class Matrix, class Place, class S>
__device__ __forceinline__ void load_gates(Matrix& w, const Place& place, const S* R) {
  const int size = place.V;
#pragma unroll
  for (int r = 0; r < Matrix::ROWS; r++)
#pragma unroll
    for (int c = 0; c < Matrix::COLS; c++) {
      const int i = Matrix::row(r) % V, j = Matrix::col(c);
      const S* matrix = R + place.matrix(Matrix::row(r) / V);
      w.w[r][c] = i < size && j < size ? matrix[TRANSPOSED ? j * size + i : i * size + j] : S(0);
    }
}

template <int V, class Matrix, class Place, class S>
__device__ __forceinline__ void store_gates(const Matrix& w, const Place& place, S* R) {
  const int size = place.V;
#pragma unroll
  for (int r = 0; r < Matrix::ROWS; r++)
#pragma unroll
    for (int c = 0; c < Matrix::COLS; c++) {
      const int i = Matrix::row(r) % V, j = Matrix::col(c);
      if (i < size && j < size) R[place.matrix(Matrix::row(r) / V) + i * size + j] = w.w[r][c];
    }
}

template <class IO, int GATES, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 384 / THREADS)
fast_rnn_forward(const FastRnnForward<IO> a) {
  using S = Real<IO>;
  using Matrix = Tile<S, GATES * V, V, THREADS>;
  using Vector = LaneVector<S, V>;
  struct Layout {
    S z[GATES][CHUNK][V], k[GATES][CHUNK][V], v[GATES][CHUNK][V];
    S beta[GATES][CHUNK], keep[CHUNK];
    S query[V], read[GATES][V];
  };
  constexpr int IN_FLIGHT = GATES == 1 ? 4 : 2;  // as measured, see stage
  Layout& now = shared<Layout>();
  const Places<FastRnnForward<IO>, GATES> place(a);
  const int T = a.T, size = a.V, gate = Matrix::row(0) / V;
  const bool first_warp = threadIdx.x < 32;
  const long long state = blockIdx.x * a.V, stride = a.B * GATES * a.H * a.V;

  Matrix w;
  Vector h, c;
  load_gates<false, V>(w, place, a.R_0);
  h.load(a.h_0 + state, size);
  c.clear();
  if (GATES == 3) c.load(a.c_0 + state, size);
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
#pragma unroll
    for (int g = 0; g < GATES; g++) {
      const long long first = place.gate(t0, g) * size;
      stage<THREADS, IN_FLIGHT>(now.z[g], count, a.z + first, stride, size);
      stage<THREADS, IN_FLIGHT>(now.k[g], count, a.k + first, stride, size);
      stage<THREADS, IN_FLIGHT>(now.v[g], count, a.v + first, stride, size);
    }
    const int thread = threadIdx.x;
    if (thread < count) {
#pragma unroll
      for (int g = 0; g < GATES; g++)
        now.beta[g][thread] = widen(a.beta[place.gate(t0 + thread, g)]);
      now.keep[thread] = a.reset && a.reset[(t0 + thread) * a.B + place.b] ? S(0) : S(1);
    }
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < count; s++) {
      const long long at = place.step(t0 + s) * size;
      if (first_warp) {
        if (now.keep[s] == S(0)) {
          h.clear();
          c.clear();
        }
        Vector query = h;
        if (a.softmax_query) query.softmax(size);
        query.store(now.query, V);
        query.store(a.queries + at, size);
      }
      __syncthreads();
      S k[Matrix::COLS], q[Matrix::COLS], wk[Matrix::ROWS], wq[Matrix::ROWS], kq = 0;
      Matrix::pick(k, now.k[gate][s]);
      Matrix::pick(q, now.query);
      w.fade(now.keep[s]);
      w.times(wk, k);
      w.times(wq, q);
#pragma unroll
      for (int j = 0; j < Matrix::COLS; j++) kq += k[j] * q[j];
      kq = sum_over_lanes<Matrix::LANES>(kq);
      const long long at_gate = place.gate(t0 + s, gate) * size;
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        const int i = Matrix::row(r) % V;
        const S u = now.v[gate][s][i] - wk[r], write = now.beta[gate][s] * u;
        w.add(r, write, k);
        if (Matrix::lane() == 0) {
          now.read[gate][i] = now.z[gate][s][i] + wq[r] + write * kq;
          if (i < size) a.u[at_gate + i] = u;
        }
      }
      __syncthreads();
      if (first_warp) {
        if constexpr (GATES == 1) {
          h.load(now.read[0], size);
          if (a.softmax_output) {
            h.softmax(size);
            h.store(a.gates + at, size);
          }
        } else {
          Vector in, out, candidate;
          in.load(now.read[0], size);
          candidate.load(now.read[1], size);
          out.load(now.read[2], size);
#pragma unroll
          for (int n = 0; n < Vector::COUNT; n++) {
            in.x[n] = sigmoid(in.x[n]);
            out.x[n] = sigmoid(out.x[n]);
            c.x[n] = in.x[n] * candidate.x[n] + (S(1) - in.x[n]) * c.x[n];
            h.x[n] = c.x[n] * out.x[n];
          }
          in.store(a.gates + place.gate(t0 + s, 0) * size, size);
          candidate.store(a.gates + place.gate(t0 + s, 1) * size, size);
          out.store(a.gates + place.gate(t0 + s, 2) * size, size);
          c.store(a.cells + at, size);
        }
        h.store(a.y + at, size);
      }
    }
  }
  store_gates<V>(w, place, a.R);
  if (first_warp) {
    h.store(a.h + state, size);
    if (GATES == 3) c.store(a.c + state, size);
  }
}

// A chunk of steps, and what the warps hand each other within one.
template <class S, int GATES, int V, int CHUNK> struct ChainLayout {
  S k[GATES][CHUNK][V], u[GATES][CHUNK][V], beta[GATES][CHUNK], keep[CHUNK];
  S gates[GATES][CHUNK][V], query[CHUNK][V], dy[CHUNK][V];
  S cells[GATES == 3 ? CHUNK + 1 : 1][V];  // from the one before the chunk on
  S da[GATES][V], read[GATES][V], read_writes[GATES][CHUNK];

  template <int THREADS, class IO, class Place>
  __device__ __forceinline__ void stage_writes(const FastRnnBackward<IO>& a, const Place& place,
                                               int t0, int count) {
    const int size = a.V;
    const long long stride = a.B * GATES * a.H * a.V;
#pragma unroll
    for (int g = 0; g < GATES; g++) {
      const long long first = place.gate(t0, g) * size;
      stage<THREADS>(k[g], count, a.k + first, stride, size);
      stage<THREADS>(u[g], count, a.u + first, stride, size);
    }
    const int s = threadIdx.x;
    if (s >= count) return;
#pragma unroll
    for (int g = 0; g < GATES; g++) beta[g][s] = widen(a.beta[place.gate(t0 + s, g)]);
    keep[s] = a.reset && a.reset[(t0 + s) * a.B + place.b] ? S(0) : S(1);
  }

  template <int THREADS, class IO, class Place>
  __device__ __forceinline__ void stage_cell(const FastRnnBackward<IO>& a, const Place& place,
                                             int t0, int count) {
    const int size = a.V;
    const long long stride = a.B * a.H * a.V, first = place.step(t0) * size;
    stage<THREADS>(query, count, a.queries + first, stride, size);
    stage<THREADS>(dy, count, a.dy + first, stride, size);
    if (GATES == 3) {
      const S* before = t0 ? a.cells + first - stride : a.c_0 + blockIdx.x * a.V;
      stage<THREADS>(cells, 1, before, stride, size);
      stage<THREADS>(cells + 1, count, a.cells + first, stride, size);
    }
    if (GATES == 3 || a.softmax_output)
#pragma unroll
      for (int g = 0; g < GATES; g++)
        stage<THREADS>(gates[g], count, a.gates + place.gate(t0, g) * size, GATES * stride, size);
  }
};

// From dh, the gradients da of what the gates read; steps dc back in time.
template <class S, int GATES, int V, int CHUNK>
__device__ __forceinline__ void cell_backward(LaneVector<S, V> (&da)[GATES],
                                              const ChainLayout<S, GATES, V, CHUNK>& now, int s,
                                              int size, bool softmax_output,
                                              const LaneVector<S, V>& dh, LaneVector<S, V>& dc) {
  if constexpr (GATES == 1) {
    da[0] = dh;
    if (softmax_output) {
      LaneVector<S, V> y;
      y.load(now.gates[0][s], size);
      y.softmax_backward(da[0]);
    }
  } else {
    LaneVector<S, V> in, candidate, out, c_before, c;
    in.load(now.gates[0][s], size);
    candidate.load(now.gates[1][s], size);
    out.load(now.gates[2][s], size);
    c.load(now.cells[s + 1], size);
    c_before.load(now.cells[s], now.keep[s] == S(0) ? 0 : size);
#pragma unroll
    for (int n = 0; n < LaneVector<S, V>::COUNT; n++) {
      const S through = dc.x[n] + dh.x[n] * out.x[n];
      da[0].x[n] = through * (candidate.x[n] - c_before.x[n]) * in.x[n] * (S(1) - in.x[n]);
      da[1].x[n] = through * in.x[n];
      da[2].x[n] = dh.x[n] * c.x[n] * out.x[n] * (S(1) - out.x[n]);
      dc.x[n] = through * (S(1) - in.x[n]);
    }
  }
}

// Per step dh <- R^T da, a row per key. R is wanted while time runs backward: it is the sum of R
// before the chunk, which a replay has left in memory, and of the writes since.
template <class IO, int GATES, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 384 / THREADS)
fast_rnn_backward(const FastRnnBackward<IO> a) {
  using S = Real<IO>;
  using Matrix = Tile<S, GATES * V, V, THREADS>;
  using Vector = LaneVector<S, V>;
  auto& now = shared<ChainLayout<S, GATES, V, CHUNK>>();
  const Places<FastRnnBackward<IO>, GATES> place(a);
  const int T = a.T, size = a.V, gate = Matrix::row(0) / V, last = (T - 1) / CHUNK;
  const bool first_warp = threadIdx.x < 32;
  const long long state = blockIdx.x * a.V;

  Matrix w;
  load_gates<true, V>(w, place, a.R_0);
  for (int chunk = 0;; chunk++) {
    w.put(a.starts, chunk * a.B * a.H + blockIdx.x);
    if (chunk == last) break;
    __syncthreads();  // all have read the chunk before
    now.template stage_writes<THREADS>(a, place, chunk * CHUNK, CHUNK);
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < CHUNK; s++) {
      S u[Matrix::COLS];
      Matrix::pick(u, now.u[gate][s]);
      w.fade(now.keep[s]);
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++)
        w.add(r, now.beta[gate][s] * now.k[gate][s][Matrix::row(r) % V], u);
    }
  }

  Vector dh, dc;
  dh.load(a.dh_last + state, size);
  dc.clear();
  if (GATES == 3) dc.load(a.dc_last + state, size);
  for (int chunk = last; chunk >= 0; chunk--) {
    const int t0 = chunk * CHUNK, count = T - t0 < CHUNK ? T - t0 : CHUNK;
    w.get(a.starts, chunk * a.B * a.H + blockIdx.x);
    __syncthreads();  // all have read the chunk before
    now.template stage_writes<THREADS>(a, place, t0, count);
    now.template stage_cell<THREADS>(a, place, t0, count);
    __syncthreads();
#pragma unroll 1
    for (int s = count - 1; s >= 0; s--) {
      int since = s;  // the last reset, or else the start of the chunk
      while (since > 0 && now.keep[since] != S(0)) since--;
      if (first_warp) {
        Vector da[GATES];
        dh.add(S(1), now.dy[s]);
        cell_backward(da, now, s, size, a.softmax_output, dh, dc);
#pragma unroll
        for (int g = 0; g < GATES; g++) {
          da[g].store(now.da[g], V);
          da[g].store(a.dz + place.gate(t0 + s, g) * size, size);
        }
      }
      __syncthreads();
      S da[Matrix::COLS], read[Matrix::ROWS];
      Matrix::pick(da, now.da[gate]);
      w.times(read, da);
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++)
        if (Matrix::lane() == 0)
          now.read[gate][Matrix::row(r) % V] = now.keep[since] == S(0) ? S(0) : read[r];
      for (int n = threadIdx.x / 32; n < GATES * (s - since + 1); n += THREADS / 32) {
        const int g = n / (s - since + 1), t = since + n % (s - since + 1);
        Vector u, gradient;
        u.load(now.u[g][t], V);
        gradient.load(now.da[g], V);
        const S product = u.dot(gradient);
        if (threadIdx.x % 32 == 0) now.read_writes[g][t] = now.beta[g][t] * product;
      }
      __syncthreads();
      if (first_warp) {
        dh.clear();
#pragma unroll
        for (int g = 0; g < GATES; g++) {
          for (int t = since; t <= s; t++) dh.add(now.read_writes[g][t], now.k[g][t]);
          dh.add(S(1), now.read[g]);
        }
        if (a.softmax_query) {
          Vector query;
          query.load(now.query[s], size);
          query.softmax_backward(dh);
        }
        if (now.keep[s] == S(0) || cuts(t0 + s, a.horizon)) {
          dh.clear();
          dc.clear();
        }
      }
    }
  }
  if (first_warp) {
    dh.store(a.dh + state, size);
    if (GATES == 3) dc.store(a.dc + state, size);
  }
}
