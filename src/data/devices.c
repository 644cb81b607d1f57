#include "data/devices.h"

mth__devices *mth__devices_retain(mth__devices *devices) {
    atomic_fetch_add(&devices->references, 1);
    return devices;
}

void mth__devices_release(mth__devices *devices) {
    if (atomic_fetch_sub(&devices->references, 1) == 1) devices->free(devices);
}
