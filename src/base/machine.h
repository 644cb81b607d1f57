/* Machines: what plans assume of devices, their memory and their links. The figures stand in text files, one a line,
 * '#' begins a comment; those in machines/ are built into the library, users' are read from where they lie.
 *
 *     flops float32 50e9           of matrix products in that dtype, a second; dtypes without a line are like float32
 *     memory_rate 10e9             bytes a second that a kernel reads and writes
 *     kernel_latency 0             seconds that a kernel takes at least
 *     link_rate 450e9 50e9         bytes a second that a device receives, for the mesh's axes from the last one, which
 *                                  is innermost, outwards: the last figure is that of all further axes
 *     link_latency 2e-6 5e-6       seconds that a communication takes at least, likewise
 *     device_memory 80e9           bytes of a device; without a line they are not bounded
 *     cores 2                      the devices are shares of one machine of so many cores: all rates are of the whole
 *                                  machine, and n devices have an n-th of them each */
#ifndef MTH__MACHINE_H
#define MTH__MACHINE_H
#include "base/dtype.h"
#include "base/text.h"

enum { MTH__MACHINE_AXES = 4 };
typedef struct mth__machine {
    const char *name;               /* "h100", "machines/mine.txt" */
    double flops[MTH__DTYPE_COUNT]; /* by mth_dtype */
    double memory_rate, kernel_latency;
    double link_rate[MTH__MACHINE_AXES], link_latency[MTH__MACHINE_AXES]; /* [0]: of the innermost axis */
    double device_memory;                                                 /* 0: not bounded */
    int cores;                                                            /* 0: devices share nothing */
} mth__machine;

/* What one device of a mesh can do: the machine's figures, shared where devices share it. */
typedef struct mth__device_model {
    const mth__machine *machine;
    double flops[MTH__DTYPE_COUNT];
    double memory_rate, kernel_latency;
    double link_rate[MTH__MACHINE_AXES], link_latency[MTH__MACHINE_AXES]; /* by axis of the mesh */
    double slowest_rate, slowest_latency;                                 /* of its links */
    int64_t device_memory;                                                /* INT64_MAX: not bounded */
} mth__device_model;
mth__device_model mth__device_model_of(const mth__machine *, int naxes, int devices);

/* A text of a machine; errors name the file, the line and a fix. */
mth_status mth__machine_parse(mth__arena *, const char *file, const char *text, mth__machine **out);
mth_status mth__machine_read(mth__arena *, const char *file, mth__machine **out);
/* By name: one that is built in. VALUE, with the nearest name, where there is none. */
mth_status mth__machine_builtin(mth__arena *, const char *name, mth__machine **out);
bool mth__machine_is_builtin(const char *name);
/* As its file would say it; the figures have three digits. */
void mth__machine_print(mth__text *, const mth__machine *);

/* machines/, made when the library is built; ends with a name NULL. */
typedef struct {
    const char *name, *text;
} mth__machine_file;
extern const mth__machine_file mth__machine_files[];
#endif
