#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <string>
#include <vector>

Index threadIdx, blockIdx;

namespace emulator {
namespace {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 * 1024;
constexpr size_t GUARD = 4096;
constexpr unsigned char POISON = 0xff;  // a NaN in every floating type

enum class Wait { nothing, barrier, shuffle, end };

struct Fiber {
  ucontext_t entry;
  jmp_buf resume;
  std::vector<char> stack = std::vector<char>(STACK);
  bool started;
  unsigned thread;
  Wait wait;
  Place place;          // of the collective that it waits at
  uint64_t offered[2];  // to the other lanes, at even and odd shuffles: a lane is one ahead at most
  unsigned shuffles;
};

std::vector<Fiber> fibers;
Fiber* current;
jmp_buf scheduler;
const Kernel* running;
const void* running_arguments;
std::string failure, skipped_barrier;
std::vector<unsigned char> memory;
size_t memory_bytes;
uint64_t random_state;

std::string text(Place place) {
  const char* slash = std::strrchr(place.file, '/');
  return std::string(slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

void resume(Fiber& fiber) {
  current = &fiber;
  fiber.wait = Wait::nothing;
  threadIdx.x = fiber.thread;
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  setcontext(&fiber.entry);
}

void wait_for(Wait wait, Place place) {
  current->wait = wait;
  current->place = place;
  if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
}

[[noreturn]] void fail(const std::string& message) {
  failure = message;
  _longjmp(scheduler, 1);
}

void run_fiber() {
  running->run(running_arguments);
  current->wait = Wait::end;
  _longjmp(scheduler, 1);
}

unsigned random_below(unsigned bound) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<unsigned>(random_state >> 33) % bound;
}

std::vector<unsigned> random_order(unsigned count) {
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; i++) {
    const unsigned j = random_below(i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  return order;
}

// Whether a group of fibers all wait at one place, and may go on; a failure where only some do.
bool meet(unsigned first, unsigned count, Wait wait, const char* what) {
  unsigned waiting = 0;
  const Fiber* one = nullptr;
  for (unsigned i = first; i < first + count; i++) {
    const Fiber& fiber = fibers[i];
    if (fiber.wait != wait) continue;
    if (!one) one = &fiber;
    waiting += fiber.place.line == one->place.line && text(fiber.place) == text(one->place);
  }
  if (waiting == 0) return false;
  if (waiting < count) {
    failure = "a divergent " + std::string(what) + " at " + text(one->place) + ": " +
              std::to_string(waiting) + " of " + std::to_string(count) + " threads came";
    return false;
  }
  for (unsigned i = first; i < first + count; i++) fibers[i].wait = Wait::nothing;
  return true;
}

void run_warp(unsigned first) {
  do
    for (unsigned lane : random_order(WARP)) {
      Fiber& fiber = fibers[first + lane];
      if (fiber.wait == Wait::nothing) resume(fiber);
      if (!failure.empty()) return;
    }
  while (meet(first, WARP, Wait::shuffle, "shuffle"));
}

void run_block(unsigned threads) {
  fibers.resize(threads);
  for (unsigned i = 0; i < threads; i++) {
    Fiber& fiber = fibers[i];
    fiber.thread = i;
    fiber.wait = Wait::nothing;
    fiber.started = false;
    fiber.shuffles = 0;
    getcontext(&fiber.entry);
    fiber.entry.uc_stack.ss_sp = fiber.stack.data();
    fiber.entry.uc_stack.ss_size = fiber.stack.size();
    fiber.entry.uc_link = nullptr;
    makecontext(&fiber.entry, run_fiber, 0);
  }
  memory.assign(memory_bytes + 2 * GUARD, POISON);
  do
    for (unsigned warp : random_order(threads / WARP)) {
      run_warp(warp * WARP);
      if (!failure.empty()) return;
    }
  while (meet(0, threads, Wait::barrier, "barrier"));
  for (size_t i = 0; i < GUARD && failure.empty(); i++)
    if (memory[i] != POISON || memory[GUARD + memory_bytes + i] != POISON)
      failure = "shared memory was written outside of its bounds";
}

}  // namespace

void barrier(Place place) {
  if (skipped_barrier.empty() || text(place) != skipped_barrier) wait_for(Wait::barrier, place);
}

uint64_t exchange(unsigned mask, uint64_t value, unsigned distance, Place place) {
  if (mask != 0xffffffffu) fail("a shuffle with a partial mask at " + text(place));
  const unsigned turn = current->shuffles++ % 2;
  current->offered[turn] = value;
  wait_for(Wait::shuffle, place);
  return fibers[current->thread ^ distance].offered[turn];
}

void* shared_memory(size_t bytes) {
  if (bytes != memory_bytes)
    fail("the kernel wants " + std::to_string(bytes) + " bytes of shared memory, its launch " +
         "gives " + std::to_string(memory_bytes));
  return memory.data() + GUARD;
}

// Launches a kernel by name and returns an error, empty if there was none. skipped: a barrier to
// leave out, as "file:line", or nothing.
extern "C" const char* emulate(const char* name, const void* arguments, size_t bytes,
                               unsigned blocks, unsigned threads, size_t shared_bytes,
                               unsigned seed, const char* skipped) {
  failure.clear();
  skipped_barrier = skipped;
  memory_bytes = shared_bytes;
  random_state = seed;
  running = nullptr;
  running_arguments = arguments;
  for (size_t i = 0; i < kernel_count; i++)
    if (std::strcmp(kernels[i].name, name) == 0) running = &kernels[i];
  if (!running)
    failure = "there is no kernel " + std::string(name);
  else if (running->arguments != bytes)
    failure = "the kernel's arguments have " + std::to_string(running->arguments) + " bytes, " +
              std::to_string(bytes) + " were given";
  else if (threads == 0 || threads % WARP)
    failure = "a block has whole warps, not " + std::to_string(threads) + " threads";
  for (blockIdx.x = 0; blockIdx.x < blocks && failure.empty(); blockIdx.x++) run_block(threads);
  return failure.c_str();
}

}  // namespace emulator
