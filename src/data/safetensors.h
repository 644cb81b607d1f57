/* Arrays from safetensors files; the public functions for arrays that exist already are in safetensors.c too. */
#ifndef MTH__SAFETENSORS_H
#define MTH__SAFETENSORS_H
#include "data/array.h"

/* One tensor of the file, split as `spec` says (NULL: whole on each device). */
mth_status mth__array_from_safetensors(
    mth__devices *, const char *path, const char *tensor, bool transpose, const mth_arg *spec, mth_array **out);
#endif
