/* The header of a safetensors file (https://github.com/huggingface/safetensors, format of 0.4): a JSON object
 *     {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, "__metadata__": {"text": "text"}}
 * which spaces may follow. It is checked as a whole before anything of it is used: the grammar, UTF-8, no key twice, no
 * unknown field, and tensors that tile the data: each has the bytes of its dtype and shape, none overlap, and each byte
 * belongs to one. */
#ifndef MTH__SAFETENSORS_HEADER_H
#define MTH__SAFETENSORS_HEADER_H
#include "base/arena.h"
#include "base/types.h"

enum { MTH__HEADER_LIMIT = 100000000 }; /* bytes; the format's own limit */

/* UTF-8, escapes decoded, followed by a zero; it may hold zeros too */
typedef struct {
    const char *at;
    size_t n;
} mth__file_text;
typedef struct {
    mth__file_text name;
    const char *dtype; /* "BF16" */
    int rank;          /* may be above MTH__RANK: dim then lacks the last ones */
    int64_t dim[MTH__RANK];
    uint64_t begin, end; /* bytes of the data */
} mth__file_tensor;
typedef struct {
    mth__file_tensor *tensor;
    size_t count;
} mth__file_header;

/* Inside a guard. `text` has `n` bytes; it is decoded in place and must live as long as the header. `data` is the
   number of bytes behind the header. */
mth_status mth__file_header_read(
    mth__arena *, const char *path, char *text, size_t n, uint64_t data, mth__file_header *out);
mth_status mth__file_lies(const char *path, char *what); /* takes the text */
#endif
