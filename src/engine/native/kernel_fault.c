#include "engine/native/kernel.h"

void mth__kernel_fault(mth__fault *f, int64_t value, int64_t limit) {
    int none = 0;
    if (!f || !atomic_compare_exchange_strong(&f->set, &none, 1)) return;
    f->value = value;
    f->limit = limit;
    atomic_store(&f->set, 2); /* 1: being written */
}
