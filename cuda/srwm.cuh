// The self-referential weight matrix: fwp_rl's op srwm. Equations and adjoints:
// fwp_rl/kernels/srwm/{reference,numba_cpu}.py.
//
// One block of threads per (b, h) holds M = W + dW in registers, the blocks y, q, k and b one below
// the other at their real sizes, and walks through time. Forward it holds dW beside M, which lacks
// the digits that a small dW needs. What a step adds is writes k^T, writes = beta e.
#include "common.cuh"

// The parts of a matrix: V, K, K and 4 rows of K numbers.
template <class Number> struct Blocks {
  Number *y, *q, *k, *b;
};

// All arrays are contiguous. Base weights are [H, rows, K], states [B, H, rows, K].
template <class IO> struct SrwmForward {
  const IO* x;                            // [T, B, H, K]
  Blocks<const IO> W;
  Blocks<const Real<IO>> initial;
  const unsigned char* reset;             // [T, B], or null
  long long T, B, H, K, V;
  IO* y;                                  // [T, B, H, V]
  Blocks<Real<IO>> last;
  Real<IO> *s, *q, *k, *beta, *writes;    // [T, B, H, .] of K, K, K, 4 and V + 2 K + 4
};

template <class IO> struct SrwmBackward {
  Blocks<const IO> W;
  Blocks<const Real<IO>> initial;
  const unsigned char* reset;
  long long T, B, H, K, V;
  long long horizon;                      // where the gradient ends: see cuts; 0 for nowhere
  const Real<IO> *s, *q, *k, *beta, *writes;
  const IO* dy;
  Blocks<const Real<IO>> dlast;
  IO* dx;
  Blocks<Real<IO>> dW, dinitial;          // both as states: dW is not yet summed over B
  Real<IO>* rooms;                        // for M before every chunk, W and dW of every block
};

// Rows of M, and where things of the block of threads are. A tile has some rows more, of zeros.
template <class Arguments> struct SrwmPlaces {
  const Arguments& a;
  int h, k, v, rows;

  __device__ __forceinline__ explicit SrwmPlaces(const Arguments& a)
      : a(a), h(blockIdx.x % static_cast<int>(a.H)), k(a.K), v(a.V), rows(v + 2 * k + 4) {}

  // Number of a step's vector among all [T, B, H, .], and whether it starts afresh.
  __device__ __forceinline__ long long step(int t) const { return t * a.B * a.H + blockIdx.x; }
  __device__ __forceinline__ bool resets(int t) const {
    return a.reset && a.reset[t * a.B + blockIdx.x / static_cast<int>(a.H)];
  }

  // Number of the block g that row i belongs to, and the first row of block g.
  __device__ __forceinline__ int block(int i) const {
    return (i >= v) + (i >= v + k) + (i >= v + 2 * k);
  }
  __device__ __forceinline__ int first(int g) const {
    return g == 0 ? 0 : g == 4 ? rows : v + (g - 1) * k;
  }

  // Row i of the n-th of several matrices; null beyond the last row.
  template <class Number>
  __device__ __forceinline__ Number* row(const Blocks<Number>& matrix, long long n, int i) const {
    const int g = block(i), size = g == 0 ? v : g == 3 ? 4 : k;
    Number* first_row = g == 0 ? matrix.y : g == 1 ? matrix.q : g == 2 ? matrix.k : matrix.b;
    return i < rows ? first_row + (n * size + i - first(g)) * k : nullptr;
  }
};

// As many rows for each group of threads that share some.
template <int K, int V, int THREADS> __device__ constexpr int tile_rows() {
  constexpr int groups = THREADS / (K >= 32 ? K / 16 : 2);
  return (V + 2 * K + 4 + groups - 1) / groups * groups;
}

// M += the n-th of several matrices.
template <class Matrix, class Place, class Number>
__device__ __forceinline__ void add_blocks(Matrix& m, const Place& place,
                                           const Blocks<Number>& blocks, long long n) {
#pragma unroll
  for (int r = 0; r < Matrix::ROWS; r++) {
    const Number* row = place.row(blocks, n, Matrix::row(r));
#pragma unroll
    for (int c = 0; c < Matrix::COLS; c++)
      if (row && Matrix::col(c) < place.k) m.w[r][c] += widen(row[Matrix::col(c)]);
  }
}

template <class Matrix, class Place, class S>
__device__ __forceinline__ void store_blocks(const Matrix& m, const Place& place,
                                             const Blocks<S>& blocks, long long n) {
#pragma unroll
  for (int r = 0; r < Matrix::ROWS; r++) {
    S* row = place.row(blocks, n, Matrix::row(r));
#pragma unroll
    for (int c = 0; c < Matrix::COLS; c++)
      if (row && Matrix::col(c) < place.k) row[Matrix::col(c)] = m.w[r][c];
  }
}

template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 384 / THREADS)
srwm_forward(const SrwmForward<IO> a) {
  using S = Real<IO>;
  using Matrix = Tile<S, tile_rows<K, V, THREADS>(), K, THREADS>;
  using Vector = LaneVector<S, K>;
  struct Layout {
    S s[CHUNK][K], keep[CHUNK], logits[2 * K + 4], q[K], k[K];
  };
  Layout& now = shared<Layout>();
  const SrwmPlaces<SrwmForward<IO>> place(a);
  const int T = a.T, size = a.K, thread = threadIdx.x, warp = threadIdx.x / 32;

  Matrix m, shift;
  shift.clear();
  add_blocks(shift, place, a.initial, blockIdx.x);
  m = shift;
  add_blocks(m, place, a.W, place.h);
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    const int count = T - t0 < CHUNK ? T - t0 : CHUNK;
    for (int s = warp; s < count; s += THREADS / 32) {
      const long long at = place.step(t0 + s) * size;
      Vector x;
      x.load(a.x + at, size);
      x.softmax(size);
      x.store(now.s[s], K);
      x.store(a.s + at, size);
    }
    if (thread < count) now.keep[thread] = place.resets(t0 + thread) ? S(0) : S(1);
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < count; s++) {
      const long long at = place.step(t0 + s);
      if (now.keep[s] == S(0)) {
        shift.clear();
        m.clear();
        add_blocks(m, place, a.W, place.h);
      }
      S x[Matrix::COLS], read[Matrix::ROWS];
      Matrix::pick(x, now.s[s]);
      m.times(read, x);
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        const int i = Matrix::row(r);
        if (Matrix::lane() == 0 && i < place.v) narrow(read[r], a.y[at * place.v + i]);
        if (Matrix::lane() == 0 && i >= place.v && i < place.rows)
          now.logits[i - place.v] = read[r];
      }
      __syncthreads();
      S beta[Matrix::ROWS];
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++)
        beta[r] = sigmoid(now.logits[2 * size + place.block(Matrix::row(r))]);
      if (thread < 4) a.beta[at * 4 + thread] = sigmoid(now.logits[2 * size + thread]);
      for (int n = warp; n < 2; n += THREADS / 32) {
        Vector vector;
        vector.load(now.logits + n * size, size);
        vector.softmax(size);
        vector.store(n == 0 ? now.q : now.k, K);
        vector.store((n == 0 ? a.q : a.k) + at * size, size);
      }
      __syncthreads();
      S k[Matrix::COLS], e[Matrix::ROWS];
      Matrix::pick(k, now.k);
      Matrix::pick(x, now.q);
#pragma unroll
      for (int c = 0; c < Matrix::COLS; c++) x[c] -= k[c];
      m.times(e, x);
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        const int i = Matrix::row(r);
        const S write = beta[r] * e[r];
        m.add(r, write, k);
        shift.add(r, write, k);
        if (Matrix::lane() == 0 && i < place.rows) a.writes[at * place.rows + i] = write;
      }
    }
  }
  store_blocks(shift, place, a.last, blockIdx.x);
}

// A chunk of steps backward, and what a step hands from warp to warp. R: rows of the tile.
template <class S, int K, int R, int WARPS, int CHUNK> struct SrwmLayout {
  S s[CHUNK][K], q[CHUNK][K], k[CHUNK][K];
  S writes[CHUNK][R], beta[CHUNK][4], keep[CHUNK];
  S de[CHUNK][R], dr[CHUNK][R];
  S dbeta[R];                 // each row's share of that of its block, times beta
  S products[CHUNK];          // of the writes of earlier steps with de or dr
  S columns[3][WARPS][K];     // each warp's share of G^T writes, M^T de, M^T dr

  template <class IO, class Place>
  __device__ __forceinline__ void stage_writes(const SrwmBackward<IO>& a, const Place& place,
                                               int t0, int count) {
    stage_rows(k, a.k, place, t0, count, place.k);
    stage_rows(writes, a.writes, place, t0, count, place.rows);
    const int thread = threadIdx.x;
    if (thread < count) keep[thread] = place.resets(t0 + thread) ? S(0) : S(1);
  }

  template <class IO, class Place>
  __device__ __forceinline__ void stage_reads(const SrwmBackward<IO>& a, const Place& place, int t0,
                                              int count) {
    stage_rows(s, a.s, place, t0, count, place.k);
    stage_rows(q, a.q, place, t0, count, place.k);
    stage_rows(beta, a.beta, place, t0, count, 4);
    stage_rows(dr, a.dy, place, t0, count, place.v);  // the rest is not yet known
  }

  // Vectors of [T, B, H, size].
  template <int SIZE, class Number, class Place>
  static __device__ __forceinline__ void stage_rows(S (*rows)[SIZE], const Number* all,
                                                    const Place& place, int t0, int count,
                                                    int size) {
    stage<32 * WARPS>(rows, count, all + place.step(t0) * size, place.a.B * place.a.H * size, size);
  }

  // products[n] = writes[n].x, by one warp.
  __device__ __forceinline__ void multiply(int n, const S (&x)[R]) {
    LaneVector<S, R> write, other;
    write.load(writes[n], R);
    other.load(x, R);
    const S product = write.dot(other);
    if (threadIdx.x % 32 == 0) products[n] = product;
  }

  // What one warp makes of columns[slot]: their sum, and the keys of the steps from `since` to
  // before `until` by their products.
  __device__ __forceinline__ LaneVector<S, K> gather(int slot, int since, int until) const {
    LaneVector<S, K> sum;
    sum.clear();
#pragma unroll 2
    for (int warp = 0; warp < WARPS; warp++) sum.add(1, columns[slot][warp]);
#pragma unroll 1
    for (int n = since; n < until; n++) sum.add(products[n], k[n]);
    return sum;
  }
};

// Sums of COUNT columns over the lanes that are LANES, 2 LANES, ... DISTANCE apart: in each step a
// lane gives half of its columns away and gets those of the other half, or, of a last one, gives
// all. Of what is left, `mine` says whether this lane writes it; `first` is its first column.
template <class Matrix, int DISTANCE, int COUNT, class S>
__device__ __forceinline__ void fold_columns(S (&sums)[COUNT], int first, bool mine, S* out) {
  if constexpr (DISTANCE < Matrix::LANES) {
#pragma unroll
    for (int c = 0; c < COUNT; c++)
      if (mine) out[Matrix::col(first + c)] = sums[c];
  } else if constexpr (COUNT == 1) {
    sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], DISTANCE);
    fold_columns<Matrix, DISTANCE / 2>(sums, first, mine && !(threadIdx.x & DISTANCE), out);
  } else {
    constexpr int HALF = COUNT / 2;
    const bool upper = threadIdx.x & DISTANCE;
    S halves[HALF];
#pragma unroll
    for (int c = 0; c < HALF; c++) {
      const S give = upper ? sums[c] : sums[c + HALF], keep = upper ? sums[c + HALF] : sums[c];
      halves[c] = keep + __shfl_xor_sync(0xffffffffu, give, DISTANCE);
    }
    fold_columns<Matrix, DISTANCE / 2>(halves, upper ? first + HALF : first, mine, out);
  }
}

// This warp's share of M^T x, x given by the rows of each thread.
template <class Matrix, class S>
__device__ __forceinline__ void times_transposed(const Matrix& m, const S (&x)[Matrix::ROWS],
                                                 S* out) {
  S sums[Matrix::COLS];
#pragma unroll
  for (int c = 0; c < Matrix::COLS; c++) {
    sums[c] = 0;
#pragma unroll
    for (int r = 0; r < Matrix::ROWS; r++) sums[c] += m.w[r][c] * x[r];
  }
  fold_columns<Matrix, 16>(sums, 0, true, out);
}

// Back in time, with G, the gradient of M. M itself is wanted too: it is W and the writes since the
// last reset or, without a reset in the chunk, M at its start, which a replay has left in memory,
// and the writes since. Products with a transpose are summed over the warps in shared memory.
//
// W is in M at every step, so dW sums what the steps add to G, a chunk at a time. It is not G less
// the gradient of the final state: that difference can lack digits.
template <class IO, int K, int V, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS, 384 / THREADS)
srwm_backward(const SrwmBackward<IO> a) {
  using S = Real<IO>;
  constexpr int R = tile_rows<K, V, THREADS>(), WARPS = THREADS / 32;
  using Matrix = Tile<S, R, K, THREADS>;
  using Vector = LaneVector<S, K>;
  auto& now = shared<SrwmLayout<S, K, R, WARPS, CHUNK>>();
  const SrwmPlaces<SrwmBackward<IO>> place(a);
  const int T = a.T, size = a.K, last = (T - 1) / CHUNK, thread = threadIdx.x, warp = thread / 32;

  const auto room = [&](int n) { return n * a.B * a.H + blockIdx.x; };
  const int base = last + 1, base_gradient = last + 2;  // rooms of W and dW

  Matrix m, g;
  m.clear();
  add_blocks(m, place, a.W, place.h);
  m.put(a.rooms, room(base));
  add_blocks(m, place, a.initial, blockIdx.x);
  for (int chunk = 0;; chunk++) {
    m.put(a.rooms, room(chunk));
    if (chunk == last) break;
    __syncthreads();  // all have read the chunk before
    now.stage_writes(a, place, chunk * CHUNK, CHUNK);
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < CHUNK; s++) {
      if (now.keep[s] == S(0)) m.get(a.rooms, room(base));
      S k[Matrix::COLS];
      Matrix::pick(k, now.k[s]);
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) m.add(r, now.writes[s][Matrix::row(r)], k);
    }
  }

  g.clear();
  add_blocks(g, place, a.dlast, blockIdx.x);
  for (int chunk = last; chunk >= 0; chunk--) {
    const int t0 = chunk * CHUNK, count = T - t0 < CHUNK ? T - t0 : CHUNK;
    __syncthreads();  // all have read the chunk before
    now.stage_writes(a, place, t0, count);
    now.stage_reads(a, place, t0, count);
    __syncthreads();
    int since;
    for (int until = count; until > 0; until = since) {
      since = until - 1;  // the last reset, or else the start of the chunk
#pragma unroll 1
      while (since > 0 && now.keep[since] != S(0)) since--;
      m.get(a.rooms, room(now.keep[since] == S(0) ? base : chunk));
#pragma unroll 1
      for (int s = until - 1; s >= since; s--) {
        S x[Matrix::COLS], p[Matrix::ROWS], write[Matrix::ROWS], de[Matrix::ROWS];
#pragma unroll
        for (int r = 0; r < Matrix::ROWS; r++) write[r] = now.writes[s][Matrix::row(r)];
        times_transposed(g, write, now.columns[0][warp]);
        Matrix::pick(x, now.k[s]);
        g.times(p, x);
#pragma unroll
        for (int c = 0; c < Matrix::COLS; c++) x[c] = now.q[s][Matrix::col(c)] - x[c];
#pragma unroll
        for (int r = 0; r < Matrix::ROWS; r++) {
          const int i = Matrix::row(r);
          de[r] = p[r] * now.beta[s][place.block(i)];
          g.add(r, de[r], x);
          if (Matrix::lane() == 0) {
            now.de[s][i] = de[r];
            now.dbeta[i] = p[r] * write[r];
          }
        }
        times_transposed(m, de, now.columns[1][warp]);
        __syncthreads();
#pragma unroll 1
        for (int n = warp; n < 4 + s - since; n += WARPS) {
          if (n >= 4) {
            now.multiply(since + n - 4, now.de[s]);
            continue;
          }
          S sum = 0;
#pragma unroll 1
          for (int i = place.first(n) + thread % 32; i < place.first(n + 1); i += 32)
            sum += now.dbeta[i];
          sum = sum_over_lanes<32>(sum);
          if (thread % 32 == 0) now.dr[s][place.first(3) + n] = sum * (S(1) - now.beta[s][n]);
        }
        __syncthreads();
        if (warp == 0) {
          Vector dq = now.gather(1, since, s), dk = now.gather(0, s, s), softmax;
#pragma unroll
          for (int n = 0; n < Vector::COUNT; n++) dk.x[n] -= dq.x[n];
          softmax.load(now.q[s], size);
          softmax.softmax_backward(dq);
          softmax.load(now.k[s], size);
          softmax.softmax_backward(dk);
          dq.store(now.dr[s] + place.first(1), size);
          dk.store(now.dr[s] + place.first(2), size);
        }
        __syncthreads();
        S dr[Matrix::ROWS];
        Matrix::pick(x, now.s[s]);
#pragma unroll
        for (int r = 0; r < Matrix::ROWS; r++) {
          dr[r] = now.dr[s][Matrix::row(r)];
          g.add(r, dr[r], x);
        }
        times_transposed(m, dr, now.columns[2][warp]);
#pragma unroll 1
        for (int n = since + warp; n < s; n += WARPS) now.multiply(n, now.dr[s]);
        __syncthreads();
        if (warp == 0) {
          Vector dx = now.gather(2, since, s), softmax;
          softmax.load(now.s[s], size);
          softmax.softmax_backward(dx);
          dx.store(a.dx + place.step(t0 + s) * size, size);
        }
        if (cuts(t0 + s, a.horizon)) g.clear();
      }
      if (now.keep[since] == S(0)) g.clear();
    }

    m.clear();  // from here dW
    if (chunk < last) m.get(a.rooms, room(base_gradient));
#pragma unroll 1
    for (int s = 0; s < count; s++) {
      S d[Matrix::COLS], x[Matrix::COLS];
      Matrix::pick(x, now.s[s]);
#pragma unroll
      for (int c = 0; c < Matrix::COLS; c++)
        d[c] = now.q[s][Matrix::col(c)] - now.k[s][Matrix::col(c)];
#pragma unroll
      for (int r = 0; r < Matrix::ROWS; r++) {
        m.add(r, now.de[s][Matrix::row(r)], d);
        m.add(r, now.dr[s][Matrix::row(r)], x);
      }
    }
    m.put(a.rooms, room(base_gradient));
  }
  store_blocks(m, place, a.dW, blockIdx.x);
  store_blocks(g, place, a.dinitial, blockIdx.x);
}
