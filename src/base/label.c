#include "base/label.h"

const char *const mth__phase_words[MTH__PHASE_KINDS] = {"forward", "recompute", "backward", "update"};
