// A diagonal linear recurrence, h <- a h + x, of real or complex numbers: fwp_rl's op diagonal.
// Equations and adjoints: fwp_rl/kernels/diagonal/{reference,numba_cpu}.py.
//
// A thread holds one number of the state of one column and walks through time, the loads of CHUNK
// steps on their way at once. Threads have nothing to tell each other: no barrier, no shared memory.
// The backward pass goes back in time for dx and then forth, h replayed, for the gradient of a.
#include "common.cuh"

// All arrays are contiguous, of PARTS = 1 (real) or 2 (complex) times N = H V numbers a row. reset
// is null where it was not given.
template <class IO> struct DiagonalInputs {
  const IO *x, *a;               // [T, B, PARTS, N]; a is [PARTS, N] where all steps share it
  const Real<IO>* initial;       // [B, PARTS, N]
  const unsigned char* reset;    // [T, B]
  long long shared_a, T, B, N;
};

template <class IO> struct DiagonalForward {
  DiagonalInputs<IO> in;
  IO* y;             // [T, B, PARTS, N]
  Real<IO>* last;    // [B, PARTS, N]
};

template <class IO> struct DiagonalBackward {
  DiagonalInputs<IO> in;
  long long horizon;    // where the gradient ends: see cuts; 0 for nowhere
  const IO* dy;
  const Real<IO>* dlast;
  Real<IO>* dx;         // [T, B, PARTS, N]
  Real<IO>* da;         // as dx, or [B, PARTS, N] where all steps share a
  Real<IO>* dinitial;
};

// A real or a complex number, in PARTS parts that lie `stride` apart.
template <class S, int PARTS> struct Number {
  S part[PARTS] = {};

  template <class IO>
  __device__ __forceinline__ void load(const IO* first, long long stride) {
#pragma unroll
    for (int c = 0; c < PARTS; c++) part[c] = widen(first[c * stride]);
  }

  template <class IO> __device__ __forceinline__ void store(IO* first, long long stride) const {
#pragma unroll
    for (int c = 0; c < PARTS; c++) narrow(part[c], first[c * stride]);
  }

  __device__ __forceinline__ void add(const Number& other) {
#pragma unroll
    for (int c = 0; c < PARTS; c++) part[c] += other.part[c];
  }

  __device__ __forceinline__ Number times(const Number& other) const {
    if constexpr (PARTS == 1)
      return {{part[0] * other.part[0]}};
    else
      return {{part[0] * other.part[0] - part[1] * other.part[1],
               part[0] * other.part[1] + part[1] * other.part[0]}};
  }

  __device__ __forceinline__ Number conjugate() const {
    if constexpr (PARTS == 1)
      return *this;
    else
      return {{part[0], -part[1]}};
  }
};

// Which number of which column a thread holds, and where it lies.
template <class IO, int PARTS, int THREADS> struct Place {
  const DiagonalInputs<IO>& in;
  long long tiles, b, n;

  __device__ __forceinline__ explicit Place(const DiagonalInputs<IO>& in)
      : in(in), tiles((in.N + THREADS - 1) / THREADS), b(blockIdx.x / tiles),
        n(blockIdx.x % tiles * THREADS + threadIdx.x) {}

  __device__ __forceinline__ long long of_column() const { return b * PARTS * in.N + n; }
  __device__ __forceinline__ long long at(int t) const {
    return t * in.B * PARTS * in.N + of_column();
  }
  __device__ __forceinline__ long long of_a(int t) const { return in.shared_a ? n : at(t); }
  __device__ __forceinline__ bool reset(int t) const { return in.reset && in.reset[t * in.B + b]; }
  // Of the last step for what is loaded beyond it: loads that ask nothing need no predicates, which
  // would spill.
  __device__ __forceinline__ int within(int t) const { return t < in.T ? t : in.T - 1; }
};

template <class IO, int PARTS, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS) diagonal_forward(const DiagonalForward<IO> f) {
  using Z = Number<Real<IO>, PARTS>;
  const DiagonalInputs<IO>& in = f.in;
  const Place<IO, PARTS, THREADS> place(in);
  const int T = in.T;
  const long long N = in.N;
  if (place.n >= N) return;

  Z h;
  h.load(in.initial + place.of_column(), N);
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    Z x[CHUNK], a[CHUNK];
#pragma unroll
    for (int s = 0; s < CHUNK; s++) {
      const int t = place.within(t0 + s);
      x[s].load(in.x + place.at(t), N);
      a[s].load(in.a + place.of_a(t), N);
    }
#pragma unroll
    for (int s = 0; s < CHUNK; s++) {
      const int t = t0 + s;
      if (t >= T) break;
      h = place.reset(t) ? Z() : a[s].times(h);
      h.add(x[s]);
      h.store(f.y + place.at(t), N);
    }
  }
  h.store(f.last + place.of_column(), N);
}

template <class IO, int PARTS, int THREADS, int CHUNK>
__global__ void __launch_bounds__(THREADS) diagonal_backward(const DiagonalBackward<IO> f) {
  using Z = Number<Real<IO>, PARTS>;
  const DiagonalInputs<IO>& in = f.in;
  const Place<IO, PARTS, THREADS> place(in);
  const int T = in.T, horizon = f.horizon;
  const long long N = in.N;
  if (place.n >= N) return;

  Z g;
  g.load(f.dlast + place.of_column(), N);
  for (int t0 = (T - 1) / CHUNK * CHUNK; t0 >= 0; t0 -= CHUNK) {
    Z dy[CHUNK], a[CHUNK];
#pragma unroll
    for (int s = 0; s < CHUNK; s++) {
      const int t = place.within(t0 + s);
      dy[s].load(f.dy + place.at(t), N);
      a[s].load(in.a + place.of_a(t), N);
    }
#pragma unroll
    for (int s = CHUNK - 1; s >= 0; s--) {
      const int t = t0 + s;
      if (t >= T) continue;
      g.add(dy[s]);
      g.store(f.dx + place.at(t), N);
      g = place.reset(t) || cuts(t, horizon) ? Z() : a[s].conjugate().times(g);
    }
  }
  g.store(f.dinitial + place.of_column(), N);

  Z h, sum;
  h.load(in.initial + place.of_column(), N);
  for (int t0 = 0; t0 < T; t0 += CHUNK) {
    Z x[CHUNK], a[CHUNK], dx[CHUNK];
#pragma unroll
    for (int s = 0; s < CHUNK; s++) {
      const int t = place.within(t0 + s);
      x[s].load(in.x + place.at(t), N);
      a[s].load(in.a + place.of_a(t), N);
      dx[s].load(f.dx + place.at(t), N);
    }
#pragma unroll
    for (int s = 0; s < CHUNK; s++) {
      const int t = t0 + s;
      if (t >= T) break;
      if (place.reset(t)) h = Z();
      const Z da = dx[s].times(h.conjugate());
      if (in.shared_a)
        sum.add(da);
      else
        da.store(f.da + place.at(t), N);
      h = a[s].times(h);
      h.add(x[s]);
    }
  }
  if (in.shared_a) sum.store(f.da + place.of_column(), N);
}
