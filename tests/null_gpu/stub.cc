// A GPU that computes nothing, in place of libcudart, cuBLAS and cuDNN (README.md): torch's own dispatcher
// and allocator work as on a card, kernels are counted and not run. Memory is plain RAM, zero at first.
#include <cuda_runtime_api.h>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cudnn.h>
#include <sys/mman.h>
#include <string.h>
#include <stdlib.h>
#include <stdio.h>
#include <map>
#include <set>
#include <unordered_map>
#include <string>
#include <vector>
#include <mutex>
#undef cudaGetDeviceProperties
#define X extern "C" __attribute__((visibility("default")))
namespace {
std::recursive_mutex mu;
struct Counts { long kernel, gemm, conv, h2d, d2h, d2d, memset, sync, mallocs, frees; long h2d_bytes, d2h_bytes; } C;
std::unordered_map<const void*, std::string>& names() { static auto* m = new std::unordered_map<const void*, std::string>(); return *m; }
std::unordered_map<const void*, long>& hist() { static auto* m = new std::unordered_map<const void*, long>(); return *m; }
std::map<char*, size_t>& blocks() { static auto* m = new std::map<char*, size_t>(); return *m; }
std::map<char*, size_t>& hosts() { static auto* m = new std::map<char*, size_t>(); return *m; }
size_t used = 0, peak = 0;
size_t limit() { static size_t v = [] { const char* s = getenv("NULLGPU_GB"); return (size_t)((s ? atof(s) : 24.0) * 1073741824.0); }(); return v; }
size_t context() { static size_t v = [] { const char* s = getenv("NULLGPU_CONTEXT_GB"); return (size_t)((s ? atof(s) : 0.5) * 1073741824.0); }(); return v; }
bool tracing = false; bool verbose() { static bool v = getenv("NULLGPU_VERBOSE") != nullptr; return v; }
bool in(std::map<char*, size_t>& m, const void* p) { auto it = m.upper_bound((char*)p); if (it == m.begin()) return false; --it; return (char*)p < it->first + it->second; }
struct Call { dim3 g, b; size_t s; void* st; };
thread_local std::vector<Call> calls;
// Which work of the other streams each stream waits for, while nullgpu_order is on: clocks count the work of a
// stream, a wait takes over what the other one has seen. A block that was given back to a stream's pool may still
// be read by another stream; a copy into it that has not waited for that stream is unordered.
using Clock = std::map<void*, long>;
bool ordering = false; long copies = 0, unordered = 0;
std::map<void*, Clock>& seen() { static auto* m = new std::map<void*, Clock>(); return *m; }
std::map<void*, Clock>& events() { static auto* m = new std::map<void*, Clock>(); return *m; }
std::map<char*, Clock>& readers() { static auto* m = new std::map<char*, Clock>(); return *m; }
std::map<char*, Clock>& freed() { static auto* m = new std::map<char*, Clock>(); return *m; }
// Of the driver's pool of memory: bytes that were given back to it, and the most that was there and in use since
// these marks were set back.
size_t pooled = 0, most_there = 0, most_used = 0;
void mark() { if (used > most_there) most_there = used; if (used - pooled > most_used) most_used = used - pooled; }
std::multimap<std::pair<void*, size_t>, char*>& pool() { static auto* m = new std::multimap<std::pair<void*, size_t>, char*>(); return *m; }
Clock host;
void join(Clock& one, const Clock& other) { for (auto& [s, n] : other) if (n > one[s]) one[s] = n; }
void work(void* s) { if (!ordering) return; join(seen()[s], host); seen()[s][s]++; }
void waited(void* s) { if (ordering) join(host, seen()[s]); }
void waited_all() { if (ordering) for (auto& [s, c] : seen()) join(host, c); }
// What a stream that has launched no kernel reads is known: its copies say it.
std::set<void*>& computing() { static auto* m = new std::set<void*>(); return *m; }
std::map<char*, Clock>& copied_from() { static auto* m = new std::map<char*, Clock>(); return *m; }
void reads(const void* p, void* s) {
  work(s); auto it = blocks().upper_bound((char*)p); if (!ordering || it == blocks().begin()) return;
  copied_from()[(--it)->first][s] = seen()[s][s]; }
Clock readers_now(char* p) {
  Clock all = copied_from()[p]; copied_from().erase(p);
  for (auto& [s, c] : seen()) if (computing().count(s)) all[s] = c[s];
  return all; }
// A buffer that is never given back: whoever reads a part of it says so (nullgpu_reading), and so what a copy into it
// must wait for, and what must wait for a copy, is known.
struct Span { char* p; size_t n; void* stream; long when; };
char* watched = nullptr; size_t watched_n = 0;
std::vector<Span>& read_spans() { static auto* v = new std::vector<Span>(); return *v; }
std::vector<Span>& written_spans() { static auto* v = new std::vector<Span>(); return *v; }
void meet(std::vector<Span>& spans, void* p, size_t n, void* s, bool drop) {
  std::vector<Span> kept;
  for (auto& x : spans) {
    bool meets = x.p < (char*)p + n && (char*)p < x.p + x.n;
    if (meets && x.stream != s && seen()[s][x.stream] < x.when) unordered++;
    if (!meets || !drop) kept.push_back(x);
  }
  spans = kept; }
void check(void* d, void* s, size_t n) {
  if (!ordering) return;
  work(s); copies++;
  if ((char*)d >= watched && (char*)d < watched + watched_n) {
    meet(read_spans(), d, n, s, true); meet(written_spans(), d, n, s, true);
    written_spans().push_back({(char*)d, n, s, seen()[s][s]}); }
  auto it = blocks().upper_bound((char*)d); if (it == blocks().begin()) return;
  auto r = readers().find((--it)->first); if (r == readers().end()) return;
  for (auto& [t, n] : r->second) if (t != s && seen()[s][t] < n) { unordered++; break; }
  readers().erase(r); }
int major() { static int v = [] { const char* s = getenv("NULLGPU_SM"); return s ? atoi(s) : 89; }(); return v; }
}
X void nullgpu_counts(long* out) { std::lock_guard<std::recursive_mutex> l(mu); memcpy(out, &C, sizeof C); }
X void nullgpu_reset() { std::lock_guard<std::recursive_mutex> l(mu); memset(&C, 0, sizeof C); hist().clear(); peak = used; }
X void nullgpu_order(int on) { std::lock_guard<std::recursive_mutex> l(mu); ordering = on; copies = unordered = 0; }
X void nullgpu_watch(void* p, size_t n) { std::lock_guard<std::recursive_mutex> l(mu); watched = (char*)p; watched_n = n; read_spans().clear(); written_spans().clear(); }
X void nullgpu_reading(void* p, size_t n, void* s, int ended) {
  std::lock_guard<std::recursive_mutex> l(mu); if (!ordering) return;
  if (ended) read_spans().push_back({(char*)p, n, s, seen()[s][s]}); else meet(written_spans(), p, n, s, false); }
X long nullgpu_copies() { return copies; }
X long nullgpu_unordered() { return unordered; }
X void nullgpu_trace(int on) { tracing = on; }
X size_t nullgpu_used() { return used; }
X size_t nullgpu_peak() { return peak; }
X void nullgpu_names(const char* path) {
  std::lock_guard<std::recursive_mutex> l(mu); FILE* f = fopen(path, "w");
  for (auto& [k, n] : hist()) { auto it = names().find(k); fprintf(f, "%ld\t%s\n", n, it == names().end() ? "?" : it->second.c_str()); } fclose(f); }
static cudaError_t launched(const void* f, void* s) { std::lock_guard<std::recursive_mutex> l(mu); C.kernel++; work(s); computing().insert(s); if (tracing) hist()[f]++; return cudaSuccess; }
X void** __cudaRegisterFatBinary(void*) { static void* d[4]; return d; }
X void __cudaRegisterFatBinaryEnd(void**) {}
X void __cudaUnregisterFatBinary(void**) {}
X char __cudaInitModule(void**) { return 1; }
X void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
X void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) { std::lock_guard<std::recursive_mutex> l(mu); names()[host] = name; }
X unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, cudaStream_t st) { calls.push_back({g, b, s, st}); return 0; }
X cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* s, void* st) { if (calls.empty()) return cudaErrorUnknown; auto& c = calls.back(); *g = c.g; *b = c.b; *s = c.s; *(void**)st = c.st; calls.pop_back(); return cudaSuccess; }
X cudaError_t __cudaGetKernel(cudaKernel_t* k, const void* f) { *k = (cudaKernel_t)f; return cudaSuccess; }
X cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3, dim3, void**, size_t, cudaStream_t s) { return launched((const void*)k, s); }
X cudaError_t cudaLaunchKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t s) { return launched(f, s); }
X cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void**) { return launched(f, c ? c->stream : nullptr); }
X cudaError_t cudaLaunchCooperativeKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t s) { return launched(f, s); }
X cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
static int current = 0;
X cudaError_t cudaGetDevice(int* d) { *d = current; return cudaSuccess; }
X cudaError_t cudaSetDevice(int d) { current = d; return cudaSuccess; }
X cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
X cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
X cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p); strcpy(p->name, "NVIDIA Null RTX 4090"); p->totalGlobalMem = limit(); p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536; p->warpSize = 32;
  p->memPitch = 2147483647; p->maxThreadsPerBlock = 1024; p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535; p->totalConstMem = 65536; p->major = major() / 10; p->minor = major() % 10;
  p->textureAlignment = 512; p->multiProcessorCount = 128; p->unifiedAddressing = 1; p->l2CacheSize = 75497472; p->maxThreadsPerMultiProcessor = 1536;
  p->sharedMemPerMultiprocessor = 102400; p->regsPerMultiprocessor = 65536; p->sharedMemPerBlockOptin = 101376; p->concurrentKernels = 1; p->cooperativeLaunch = 1; p->maxBlocksPerMultiProcessor = 24;
  p->memoryBusWidth = 384; p->managedMemory = 1; p->concurrentManagedAccess = 1; p->asyncEngineCount = 2; return cudaSuccess; }
X cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
  switch ((int)a) { case 1: *v = 1024; break; case 8: *v = 49152; break; case 10: *v = 32; break; case 12: *v = 65536; break; case 16: *v = 128; break; case 39: *v = 1536; break; case 75: *v = major() / 10; break; case 76: *v = major() % 10; break;
    case 81: *v = 102400; break; case 82: *v = 65536; break; case 97: *v = 101376; break; case 106: *v = 24; break; default: *v = 1; } return cudaSuccess; }
X cudaError_t cudaMemGetInfo(size_t* f, size_t* t) { size_t u = used + context(); *t = limit(); *f = u > limit() ? 0 : limit() - u; return cudaSuccess; }
X cudaError_t cudaMalloc(void** p, size_t n) {
  std::lock_guard<std::recursive_mutex> l(mu);
  if (used + context() + n > limit()) { *p = nullptr; return cudaErrorMemoryAllocation; }
  *p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); if (*p == MAP_FAILED) { perror("mmap"); abort(); }
  blocks()[(char*)*p] = n; used += n; if (used > peak) peak = used; C.mallocs++; if (verbose()) fprintf(stderr, "malloc %zu\n", n); return cudaSuccess; }
X cudaError_t cudaFree(void* p) { std::lock_guard<std::recursive_mutex> l(mu); if (!p) return cudaSuccess; auto it = blocks().find((char*)p); if (it != blocks().end()) { munmap(p, it->second); used -= it->second; blocks().erase(it); C.frees++; } return cudaSuccess; }
X cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t s) {
  std::lock_guard<std::recursive_mutex> l(mu);
  auto it = pool().find({s, n});
  if (it == pool().end()) {  // the driver takes another stream's too, and has this one wait for that
    for (it = pool().begin(); it != pool().end() && it->first.second != n; ++it);
    if (it != pool().end()) join(seen()[s], freed()[it->second]);
  }
  if (it != pool().end()) { *p = it->second; pool().erase(it); pooled -= n; mark(); return cudaSuccess; }
  cudaError_t e = cudaMalloc(p, n);
  if (e != cudaSuccess && !pool().empty()) {
    for (auto& [k, q] : pool()) { readers().erase(q); pooled -= k.second; cudaFree(q); }
    pool().clear(); e = cudaMalloc(p, n);
  }
  if (e == cudaSuccess) mark();
  return e; }
X cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
  std::lock_guard<std::recursive_mutex> l(mu);
  auto it = blocks().find((char*)p); if (!ordering || it == blocks().end()) return cudaFree(p);
  readers()[(char*)p] = readers_now((char*)p); freed()[(char*)p] = seen()[s]; pooled += it->second; pool().insert({{s, it->second}, (char*)p}); return cudaSuccess; }
X cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* p, int) { *p = (cudaMemPool_t)0x10; return cudaSuccess; }
X cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr a, void* v) {
  std::lock_guard<std::recursive_mutex> l(mu);
  *(unsigned long*)v = a == cudaMemPoolAttrUsedMemCurrent ? used - pooled : a == cudaMemPoolAttrUsedMemHigh ? most_used : a == cudaMemPoolAttrReservedMemHigh ? most_there : used; return cudaSuccess; }
X cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr a, void*) {
  std::lock_guard<std::recursive_mutex> l(mu);
  if (a == cudaMemPoolAttrUsedMemHigh) most_used = used - pooled; if (a == cudaMemPoolAttrReservedMemHigh) most_there = used; return cudaSuccess; }
X cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { std::lock_guard<std::recursive_mutex> l(mu); *p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); hosts()[(char*)*p] = n; return cudaSuccess; }
X cudaError_t cudaFreeHost(void* p) { std::lock_guard<std::recursive_mutex> l(mu); auto it = hosts().find((char*)p); if (it != hosts().end()) { munmap(p, it->second); hosts().erase(it); } return cudaSuccess; }
X cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) { std::lock_guard<std::recursive_mutex> l(mu); memset(a, 0, sizeof *a); if (in(blocks(), p)) { a->type = cudaMemoryTypeDevice; a->devicePointer = (void*)p; } else if (in(hosts(), p)) { a->type = cudaMemoryTypeHost; a->hostPointer = (void*)p; } return cudaSuccess; }
static cudaError_t copy(void* d, const void* s, size_t n) {
  std::lock_guard<std::recursive_mutex> l(mu); bool dd = in(blocks(), d), sd = in(blocks(), s);
  if (dd && sd) { C.d2d++; } else if (dd) { C.h2d++; C.h2d_bytes += n; } else if (sd) { C.d2h++; C.d2h_bytes += n; }
  static bool zero = getenv("NULLGPU_ZERO") != nullptr;
  if (zero && sd && !dd && n > 256) { memset(d, 0, n); return cudaSuccess; }
  if (n <= (1 << 16) || (!dd && !sd)) memcpy(d, s, n); return cudaSuccess; }
X cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind) { C.sync++; return copy(d, s, n); }
X cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind, cudaStream_t t) {
  { std::lock_guard<std::recursive_mutex> l(mu); if (in(blocks(), d) && !in(blocks(), s)) check(d, t, n); else reads(s, t); } return copy(d, s, n); }
X cudaError_t cudaMemset(void*, int, size_t) { C.memset++; return cudaSuccess; }
X cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) { std::lock_guard<std::recursive_mutex> l(mu); C.memset++; if (n <= 4096) memset(p, v, n); return cudaSuccess; }
X cudaError_t cudaStreamSynchronize(cudaStream_t s) { std::lock_guard<std::recursive_mutex> l(mu); C.sync++; waited(s); return cudaSuccess; }
X cudaError_t cudaDeviceSynchronize() { std::lock_guard<std::recursive_mutex> l(mu); C.sync++; waited_all(); return cudaSuccess; }
X cudaError_t cudaEventSynchronize(cudaEvent_t e) { std::lock_guard<std::recursive_mutex> l(mu); C.sync++; if (ordering) join(host, events()[e]); return cudaSuccess; }
X cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { std::lock_guard<std::recursive_mutex> l(mu); if (ordering) events()[e] = seen()[s]; return cudaSuccess; }
X cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) { return cudaEventRecord(e, s); }
X cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) { std::lock_guard<std::recursive_mutex> l(mu); if (ordering) join(seen()[s], events()[e]); return cudaSuccess; }
X cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
X cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
X cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* s) { *s = cudaStreamCaptureStatusNone; return cudaSuccess; }
X cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* s, unsigned long long* id, cudaGraph_t* g, const cudaGraphNode_t** d, const cudaGraphEdgeData** e, size_t* n) { *s = cudaStreamCaptureStatusNone; if (id) *id = 0; return cudaSuccess; }
X cudaError_t cudaEventCreate(cudaEvent_t* e) { *e = (cudaEvent_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = (cudaEvent_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaEventElapsedTime(float* t, cudaEvent_t, cudaEvent_t) { *t = 1; return cudaSuccess; }
X cudaError_t cudaStreamCreate(cudaStream_t* s) { *s = (cudaStream_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { *s = (cudaStream_t)malloc(8); return cudaSuccess; }
X cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) { *p = 0; return cudaSuccess; }
X cudaError_t cudaDeviceGetStreamPriorityRange(int* a, int* b) { *a = 0; *b = -5; return cudaSuccess; }
X cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) { memset(a, 0, sizeof *a); a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->binaryVersion = a->ptxVersion = major() == 89 ? 86 : major(); a->maxDynamicSharedSizeBytes = 101376; return cudaSuccess; }
X cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 2; return cudaSuccess; }
X cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { *n = 2; return cudaSuccess; }
X cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
X cudaError_t cudaDeviceCanAccessPeer(int* v, int, int) { *v = 0; return cudaSuccess; }
X cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int) { strncpy(s, "0000:01:00.0", n); return cudaSuccess; }
X cudaError_t cudaGetSymbolAddress(void** p, const void* s) { static char buf[4096]; *p = buf; return cudaSuccess; }
X cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** f, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* r) { *f = nullptr; if (r) *r = cudaDriverEntryPointSymbolNotFound; return cudaSuccess; }
X cudaError_t cudaGetDriverEntryPoint(const char*, void** f, unsigned long long, cudaDriverEntryPointQueryResult* r) { *f = nullptr; if (r) *r = cudaDriverEntryPointSymbolNotFound; return cudaSuccess; }
X const char* cudaGetErrorString(cudaError_t e) { return e == 2 ? "out of memory" : "null gpu error"; }
X const char* cudaGetErrorName(cudaError_t e) { return "cudaErrorNull"; }
// cuBLAS
X cublasStatus_t cublasCreate_v2(cublasHandle_t* h) { *h = (cublasHandle_t)malloc(64); return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t* m) { *m = CUBLAS_DEFAULT_MATH; return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t, cublasPointerMode_t* m) { *m = CUBLAS_POINTER_MODE_HOST; return CUBLAS_STATUS_SUCCESS; }
X size_t cublasLtGetVersion() { return 130000; }
X cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t, cudaDataType_t) { *d = (cublasLtMatmulDesc_t)malloc(64); return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { free(d); return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* d) { *d = (cublasLtMatmulPreference_t)malloc(64); return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t d) { free(d); return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* d, cudaDataType, uint64_t, uint64_t, int64_t) { *d = (cublasLtMatrixLayout_t)malloc(64); return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t d) { free(d); return CUBLAS_STATUS_SUCCESS; }
X cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t* r, int* n) { memset(r, 0, sizeof *r); r->state = CUBLAS_STATUS_SUCCESS; *n = 1; return CUBLAS_STATUS_SUCCESS; }
// cuDNN, v7 API (TORCH_CUDNN_V8_API_DISABLED=1)
#define MK(T, name) X cudnnStatus_t name(T* d) { *d = (T)malloc(64); return CUDNN_STATUS_SUCCESS; }
MK(cudnnHandle_t, cudnnCreate) MK(cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor) MK(cudnnFilterDescriptor_t, cudnnCreateFilterDescriptor) MK(cudnnConvolutionDescriptor_t, cudnnCreateConvolutionDescriptor) MK(cudnnActivationDescriptor_t, cudnnCreateActivationDescriptor) MK(cudnnDropoutDescriptor_t, cudnnCreateDropoutDescriptor)
X cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { free(d); return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { free(d); return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { free(d); return CUDNN_STATUS_SUCCESS; }
X size_t cudnnGetVersion() { return 91900; }
X size_t cudnnGetCudartVersion() { return 13000; }
X const char* cudnnGetErrorString(cudnnStatus_t) { return "null gpu cudnn"; }
X void cudnnGetLastErrorString(char* s, size_t n) { strncpy(s, "null", n); }
#define ALGO(T, name) X cudnnStatus_t name(cudnnHandle_t, void*, void*, void*, void*, int, int* n, T* r) { memset(r, 0, sizeof *r); r->algo = (decltype(r->algo))1; r->status = CUDNN_STATUS_SUCCESS; r->memory = 0; r->determinism = CUDNN_DETERMINISTIC; *n = 1; return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t, const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, const int, int* n, cudnnConvolutionFwdAlgoPerf_t* r) { memset(r, 0, sizeof *r); r->algo = (cudnnConvolutionFwdAlgo_t)1; *n = 1; return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t, const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, const int, int* n, cudnnConvolutionBwdDataAlgoPerf_t* r) { memset(r, 0, sizeof *r); r->algo = (cudnnConvolutionBwdDataAlgo_t)1; *n = 1; return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t, const cudnnConvolutionDescriptor_t, const cudnnFilterDescriptor_t, const int, int* n, cudnnConvolutionBwdFilterAlgoPerf_t* r) { memset(r, 0, sizeof *r); r->algo = (cudnnConvolutionBwdFilterAlgo_t)1; *n = 1; return CUDNN_STATUS_SUCCESS; }
static size_t ws() { static size_t v = [] { const char* s = getenv("NULLGPU_CONV_WS_MB"); return (size_t)((s ? atof(s) : 32.0) * 1048576.0); }(); return v; }
X cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t, const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, cudnnConvolutionFwdAlgo_t, size_t* s) { *s = ws(); return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t, const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, cudnnConvolutionBwdDataAlgo_t, size_t* s) { *s = ws(); return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t, const cudnnConvolutionDescriptor_t, const cudnnFilterDescriptor_t, cudnnConvolutionBwdFilterAlgo_t, size_t* s) { *s = ws(); return CUDNN_STATUS_SUCCESS; }
X void nullgpu_gemm() { std::lock_guard<std::recursive_mutex> l(mu); C.gemm++; }
X void nullgpu_conv() { std::lock_guard<std::recursive_mutex> l(mu); C.conv++; }
X void nullgpu_conv();
X cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t* d) { *d = (cudnnBackendDescriptor_t)calloc(1, 64); return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) { free(d); return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t) { nullgpu_conv(); return CUDNN_STATUS_SUCCESS; }
X cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const, cudnnBackendAttributeName_t a, cudnnBackendAttributeType_t t, int64_t want, int64_t* n, void* v) {
  int64_t c = 0;
  if (a == CUDNN_ATTR_ENGINEHEUR_RESULTS) c = 1;
  else if (a == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE || a == CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE) { c = 1; if (v) *(int64_t*)v = ws(); }
  else if (a == CUDNN_ATTR_ENGINECFG_ENGINE) c = 1;
  else if (a == CUDNN_ATTR_ENGINE_GLOBAL_INDEX) { c = 1; if (v) *(int64_t*)v = 0; }
  if (n) *n = c; return CUDNN_STATUS_SUCCESS; }
