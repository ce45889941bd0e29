// Runs the CUDA kernels of this folder on the host, to test them where there is no GPU.
//
// Every thread of a block is a fiber; blocks run one after another. A fiber runs until it meets a
// collective: a barrier or a shuffle. One warp at a time runs up to the next barrier, warps and
// lanes in a random order that a seed fixes, so that a warp that does not wait for another is far
// ahead of it or far behind: a missing barrier shows as a wrong result, not as luck. Each block's
// shared memory starts as NaN, between two guard bands.
//
// What does not show here: memory ordering weaker than program order, faults of alignment, limits
// of the device, speed.
//
// To use it, include this, then a kernel's source, then define emulator::kernels and
// emulator::kernel_count, and link with emulator.cpp.
#pragma once
#define FWP_RL_EMULATOR

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() emulator::barrier({__FILE__, __LINE__})
#define __shfl_xor_sync(mask, value, distance) \
  emulator::shuffle_xor(mask, value, distance, {__FILE__, __LINE__})

using std::exp;
using std::tanh;

struct Index {
  unsigned x;
};
extern Index threadIdx, blockIdx;

namespace emulator {

// Of a collective, in the sources.
struct Place {
  const char* file;
  int line;
};

void barrier(Place place);
uint64_t exchange(unsigned mask, uint64_t value, unsigned distance, Place place);
void* shared_memory(size_t bytes);

template <class S> S shuffle_xor(unsigned mask, S value, unsigned distance, Place place) {
  static_assert(sizeof(S) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, distance, place);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Kernel {
  const char* name;
  size_t arguments;  // bytes
  void (*run)(const void* arguments);
};

extern const Kernel kernels[];
extern const size_t kernel_count;

template <auto run> struct Call;
template <class Arguments, void (*run)(Arguments)> struct Call<run> {
  static constexpr size_t BYTES = sizeof(Arguments);
  static void with(const void* arguments) { run(*static_cast<const Arguments*>(arguments)); }
};

template <auto run> constexpr Kernel kernel(const char* name) {
  return {name, Call<run>::BYTES, Call<run>::with};
}

}  // namespace emulator

template <class Layout> Layout& shared() {
  return *static_cast<Layout*>(emulator::shared_memory(sizeof(Layout)));
}

inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
