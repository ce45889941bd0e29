// Stands in for libcuda.so.1: notes every call, and copies what a launch would hand to a kernel.
#include <cstdio>
#include <cstring>
#include <string>

static std::string calls;
static unsigned char packed[64 * 8];
static size_t fields;
static int failing_launch, capturing, shared_limit = 101376, capability = 90;
static thread_local int contexts;  // pushed by this thread; the driver keeps a stack for each too
constexpr int NO_CONTEXT = 201;    // CUDA_ERROR_INVALID_CONTEXT

template <class... Values> static int note(const char* format, Values... values) {
  char line[256];
  std::snprintf(line, sizeof line, format, values...);
  calls += line;
  calls += "\n";
  return 0;
}

extern "C" {
const char* stub_calls() { return calls.c_str(); }
const unsigned char* stub_packed() { return packed; }
void stub_expect(size_t count) { fields = count; }
void stub_capability(int number) { capability = number; }
void stub_set(int failing, int capture, int limit) {
  calls.clear();
  failing_launch = failing;
  capturing = capture;
  shared_limit = limit;
}

int cuInit(unsigned flags) { return note("init %u", flags); }
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = reinterpret_cast<void*>(0x7fff00000100 + device);
  return note("retain %d", device);
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75   ? capability / 10
           : attribute == 76 ? capability % 10
           : attribute == 97 ? shared_limit
                             : -1;
  return 0;
}
int cuStreamIsCapturing(void*, int* status) {
  if (contexts == 0) return NO_CONTEXT;
  *status = capturing;
  return 0;
}
int cuCtxPushCurrent_v2(void* context) {
  ++contexts;
  return note("push %p", context);
}
int cuCtxPopCurrent_v2(void** context) {
  if (contexts == 0) return NO_CONTEXT;
  --contexts;
  *context = nullptr;
  return note("pop");
}
int cuModuleLoadData(void** module, const char* image) {
  if (contexts == 0) return NO_CONTEXT;
  *module = reinterpret_cast<void*>(0x7fff00000200);
  return note("load %.3s", image + 1);
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = reinterpret_cast<void*>(0x7fff00000300);
  return note("function %p %s", module, name);
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  return note("attribute %p %d %d", function, attribute, value);
}
int cuGetErrorName(int status, const char** name) {
  *name = status == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : nullptr;
  return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void* stream,
                   void** arguments, void** extra) {
  if (contexts == 0) return NO_CONTEXT;
  note("launch %p grid %u %u %u block %u %u %u shared %u stream %p%s", function, x, y, z, threads,
       threads_y, threads_z, shared, stream, extra ? " extra" : "");
  std::memcpy(packed, arguments[0], 8 * fields);
  return failing_launch;
}
}
