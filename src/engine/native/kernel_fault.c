#include "engine/native/kernel.h"

void mth__kernel_fault(mth__fault *fault, int64_t value, int64_t limit) {
    int none = 0;
    if (!fault || !atomic_compare_exchange_strong(&fault->set, &none, 1)) return;
    fault->value = value;
    fault->limit = limit;
    atomic_store(&fault->set, 2); /* 1: being written */
}
