/* The user's own libtorch, through its C ABI. Nothing is compiled against it: the library is opened at run time, its
 * functions are found by name, and what a release lacks is done without or said in an error.
 *
 * A library is opened once a process and never closed: its threads, registries and allocators outlive us. In Python the
 * caller has imported torch before, and its libraries are the ones that are found (RTLD_NOLOAD).
 *
 * Sources: torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h of PyTorch, which promise that the
 * functions stay for two years; what they don't promise (a Scalar's layout, a SymInt passed as an integer) is used only
 * where mth__torch_library_open has tried it. */
#ifndef MTH__TORCH_LIBRARY_H
#define MTH__TORCH_LIBRARY_H
#include "base/option.h"
#include "base/types.h"

typedef void *mth__tensor;         /* an AtenTensorHandle, which holds one reference to a tensor */
typedef uint64_t mth__torch_value; /* a StableIValue: an argument or a result */

/* c10::Scalar, by the headers of 2.10 to 2.13: 32 bytes, aligned to 16. */
typedef struct {
    _Alignas(16) int32_t tag; /* 0: a double, 1: an integer */
    _Alignas(16) union {
        double real;
        int64_t integer;
    };
} mth__torch_scalar;
/* std::string_view of libstdc++, passed in two registers. */
typedef struct {
    size_t size;
    const char *text;
} mth__torch_text;

/* The releases that the table of operators is written for, as 100 * major + minor. */
enum { MTH__TORCH_OLDEST = 210, MTH__TORCH_NEWEST = 213 };

/* X(result, name, arguments, since): since is the release, as 100 * major + minor, from which the function must be
 * there; 0: it may be absent in any. Failing functions return 1 and keep a text (torch_exception_get_what). */
#define MTH__TORCH_SYMBOLS(X)                                                                                          \
    X(uint64_t, aoti_torch_abi_version, (void), 210)                                                                   \
    X(int32_t, torch_call_dispatcher, (const char *, const char *, mth__torch_value *, uint64_t), 210)                 \
    X(int32_t, torch_new_list_reserve_size, (size_t, void **), 210)                                                    \
    X(int32_t, torch_list_push_back, (void *, mth__torch_value), 210)                                                  \
    X(int32_t, torch_delete_list, (void *), 210)                                                                       \
    X(int32_t, torch_get_num_threads, (uint32_t *), 210)                                                               \
    X(int32_t, torch_parallel_for, (int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *), 210)       \
    X(int32_t, aoti_torch_new_tensor_handle, (mth__tensor, mth__tensor *), 210)                                        \
    X(int32_t, aoti_torch_delete_tensor_object, (mth__tensor), 210)                                                    \
    X(int32_t, aoti_torch_empty_strided,                                                                               \
        (int64_t, const int64_t *, const int64_t *, int32_t, int32_t, int32_t, mth__tensor *), 210)                    \
    X(int32_t, aoti_torch_create_tensor_from_blob,                                                                     \
        (void *, int64_t, const int64_t *, const int64_t *, int64_t, int32_t, int32_t, int32_t, mth__tensor *), 210)   \
    X(int32_t, aoti_torch__alloc_from_pool,                                                                            \
        (mth__tensor, int64_t, int32_t, int64_t, const int64_t *, const int64_t *, mth__tensor *), 210)                \
    X(int32_t, aoti_torch__reinterpret_tensor,                                                                         \
        (mth__tensor, int64_t, const int64_t *, const int64_t *, int64_t, mth__tensor *), 210)                         \
    X(int32_t, aoti_torch_get_data_ptr, (mth__tensor, void **), 210)                                                   \
    X(int32_t, aoti_torch_get_dim, (mth__tensor, int64_t *), 210)                                                      \
    X(int32_t, aoti_torch_get_sizes, (mth__tensor, int64_t **), 210)                                                   \
    X(int32_t, aoti_torch_get_strides, (mth__tensor, int64_t **), 210)                                                 \
    X(int32_t, aoti_torch_get_dtype, (mth__tensor, int32_t *), 210)                                                    \
    X(int32_t, aoti_torch_get_storage_offset, (mth__tensor, int64_t *), 210)                                           \
    X(int32_t, aoti_torch_get_storage_size, (mth__tensor, int64_t *), 210)                                             \
    X(int32_t, aoti_torch_is_contiguous, (mth__tensor, bool *), 210)                                                   \
    X(int32_t, aoti_torch_copy_, (mth__tensor, mth__tensor, int32_t), 210)                                             \
    X(int32_t, aoti_torch_zero_, (mth__tensor), 210)                                                                   \
    X(void, aoti_torch_grad_mode_set_enabled, (bool), 210)                                                             \
    X(int32_t, aoti_torch_dtype_float32, (void), 210)                                                                  \
    X(int32_t, aoti_torch_dtype_float64, (void), 210)                                                                  \
    X(int32_t, aoti_torch_dtype_float16, (void), 210)                                                                  \
    X(int32_t, aoti_torch_dtype_bfloat16, (void), 210)                                                                 \
    X(int32_t, aoti_torch_dtype_int32, (void), 210)                                                                    \
    X(int32_t, aoti_torch_dtype_int64, (void), 210)                                                                    \
    X(int32_t, aoti_torch_dtype_bool, (void), 210)                                                                     \
    X(int32_t, aoti_torch_dtype_complex64, (void), 210)                                                                \
    X(int32_t, aoti_torch_dtype_uint8, (void), 210)                                                                    \
    X(int32_t, aoti_torch_device_type_cpu, (void), 210)                                                                \
    X(int32_t, aoti_torch_cpu_add_Tensor, (mth__tensor, mth__tensor, double, mth__tensor *), 210)                      \
    X(int32_t, aoti_torch_cpu_mm_out, (mth__tensor, mth__tensor, mth__tensor), 210)                                    \
    X(int32_t, aoti_torch_cpu_bmm_out, (mth__tensor, mth__tensor, mth__tensor), 210)                                   \
    X(int32_t, aoti_torch_cpu_addmm_out, (mth__tensor, mth__tensor, mth__tensor, mth__tensor, double, double), 210)    \
    X(int32_t, aoti_torch_cpu_baddbmm_out, (mth__tensor, mth__tensor, mth__tensor, mth__tensor, double, double), 210)  \
    X(int32_t, torch_from_blob,                                                                                        \
        (void *, int64_t, const int64_t *, const int64_t *, int64_t, int32_t, int32_t, int32_t, mth__tensor *,         \
            int32_t, const uint8_t *, int64_t, void (*)(void *, void *), void *),                                      \
        211)                                                                                                           \
    X(const char *, torch_exception_get_what_without_backtrace, (void), 213)                                           \
    X(int32_t, torch_new_stable_ivalue, (mth__torch_value **), 213)                                                    \
    X(void, omp_set_num_threads, (int), 0)                                                                             \
    X(int, MKL_Set_Num_Threads_Local, (int), 0)

/* C++ functions of which nothing is promised: one pass where the C ABI has several, or none. Each is used only where a
 * trial at load gave the right numbers; X(name, mangled name, arguments). Exceptions go through torch_parallel_for. */
#define MTH__TORCH_DIRECT(X)                                                                                           \
    X(add_out, "_ZN2at4_ops7add_out4callERKNS_6TensorES4_RKN3c106ScalarERS2_",                                         \
        (mth__tensor, mth__tensor, const mth__torch_scalar *, mth__tensor))                                            \
    X(threshold_backward_out, "_ZN2at4_ops29threshold_backward_grad_input4callERKNS_6TensorES4_RKN3c106ScalarERS2_",   \
        (mth__tensor, mth__tensor, const mth__torch_scalar *, mth__tensor))                                            \
    X(gelu_out, "_ZN2at4_ops8gelu_out4callERKNS_6TensorESt17basic_string_viewIcSt11char_traitsIcEERS2_",               \
        (mth__tensor, mth__torch_text, mth__tensor))                                                                   \
    X(gelu_backward_out,                                                                                               \
        "_ZN2at4_ops24gelu_backward_grad_input4callERKNS_6TensorES4_St17basic_string_viewIcSt11char_traitsIcEERS2_",   \
        (mth__tensor, mth__tensor, mth__torch_text, mth__tensor))

typedef struct mth__torch_library {
    const char *path;                /* of the library, as the system knows it */
    int version;                     /* 100 * major + minor */
    uint64_t abi;                    /* whose schemas calls are written for: the version, MTH__TORCH_NEWEST at most */
    int32_t dtype[MTH__DTYPE_COUNT]; /* by mth_dtype */
    int32_t cpu;                     /* the device type */
#define X(result, name, arguments, since) result(*name) arguments;
    MTH__TORCH_SYMBOLS(X)
#undef X
    struct {
#define X(name, mangled, arguments) mth__tensor *(*name)arguments;
        MTH__TORCH_DIRECT(X)
#undef X
    } direct;                      /* NULL: this torch has none, or it failed its trial */
    void *(*operator_new)(size_t); /* C++'s, with which torch's own `delete` agrees */
} mth__torch_library;

/* Opens libtorch, once a process. `folders`: of Python packages, as those of plugins (base/packages.h). The environment
 * variable MITHRIL_TORCH names a folder with libtorch.so, before all others. IO where there is none, UNSUPPORTED where
 * it is older than 2.10, lacks a function of its release or has an operator that fails its trial (torch_trial.h); the
 * fixes say what to install. */
mth_status mth__torch_library_open(mth__arena *, const mth_arg *folders, const mth__torch_library **out);
/* For tests: later openings see a torch of this release (213), without what came later; 0: as it is. `hides`: without
 * the direct functions. */
void mth__torch_library_pretend(int version, bool hides);
/* Settings of the calling thread, which calls operators from then on. Each thread has a team of its own for torch's
 * loops, of all cores unless told otherwise, and records gradients. */
void mth__torch_begin_thread(const mth__torch_library *, int threads);
/* The error of a function that returned 1: `doing` is "contract", "empty_strided". Out of memory is MEMORY. */
mth_status mth__torch_error(const mth__torch_library *, const char *doing);
#define TORCH_TRY(library, doing, call)                                                                                \
    do {                                                                                                               \
        if (call) return mth__torch_error(library, doing);                                                             \
    } while (0)
/* Calls a direct function so that what it throws becomes an error: false, for mth__torch_error. */
bool mth__torch_guarded(const mth__torch_library *, void (*work)(int64_t, int64_t, void *), void *context);
#endif
