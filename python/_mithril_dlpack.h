/* The part of DLPack's ABI (https://dmlc.github.io/dlpack) that exchanges of arrays on the host need. */
#ifndef MITHRIL_DLPACK_H
#define MITHRIL_DLPACK_H
#include <stdint.h>

/* device types */
enum { DLPACK_CPU = 1, DLPACK_CUDA_HOST = 3 };
enum { DLPACK_INT = 0, DLPACK_UINT = 1, DLPACK_COMPLEX = 5 }; /* mth_dtype_dlpack_code knows those of dtypes */
enum { DLPACK_READ_ONLY = 1, DLPACK_IS_COPIED = 2 };          /* flags */

typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t rank;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides; /* strides in elements; NULL: row-major */
    uint64_t byte_offset;
} dlpack_tensor;
typedef struct dlpack_managed { /* a capsule named "dltensor" */
    dlpack_tensor tensor;
    void *context;
    void (*deleter)(struct dlpack_managed *);
} dlpack_managed;
typedef struct dlpack_versioned { /* a capsule named "dltensor_versioned", since DLPack 1.0 */
    uint32_t major, minor;
    void *context;
    void (*deleter)(struct dlpack_versioned *);
    uint64_t flags;
    dlpack_tensor tensor;
} dlpack_versioned;
#endif
