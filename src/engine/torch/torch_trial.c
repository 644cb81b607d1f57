#include "engine/torch/torch_trial.h"
#include "engine/torch/torch_aten.h"
#include <math.h>
#include <string.h>

/* Tensors of one dimension over the host's memory. */
enum { ELEMENTS = 4 };
static mth_status over(const mth__torch_library *library, float *memory, mth__tensor *out) {
    const int64_t size = ELEMENTS, stride = 1;
    TORCH_TRY(library, "a tensor over memory",
        library->aoti_torch_create_tensor_from_blob(
            memory, 1, &size, &stride, 0, library->dtype[MTH_FLOAT32], library->cpu, -1, out));
    return NULL;
}

typedef struct {
    const mth__torch_library *library;
    mth__tensor a, b, out;
    int which;
} direct_trial;
enum { ADD, THRESHOLD, GELU, GELU_BACKWARD, DIRECT };
static void call_direct(int64_t begin, int64_t end, void *context) {
    (void)begin, (void)end;
    direct_trial *trial = context;
    const mth__torch_library *library = trial->library;
    const mth__torch_scalar scale = {.tag = 0, .real = -0.5}, zero = {.tag = 0, .real = 0};
    const mth__torch_text tanh_text = {4, "tanh"};
    switch (trial->which) {
    case ADD: library->direct.add_out(trial->a, trial->b, &scale, trial->out); break;
    case THRESHOLD: library->direct.threshold_backward_out(trial->a, trial->b, &zero, trial->out); break;
    case GELU: library->direct.gelu_out(trial->a, tanh_text, trial->out); break;
    case GELU_BACKWARD: library->direct.gelu_backward_out(trial->a, trial->b, tanh_text, trial->out); break;
    }
}

static double gelu_tanh(double x) { return x / 2 * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x))); }
static double gelu_tanh_slope(double x) {
    const double inner = tanh(0.79788456080286536 * (x + 0.044715 * x * x * x));
    return (1 + inner) / 2 + x / 2 * (1 - inner * inner) * 0.79788456080286536 * (1 + 3 * 0.044715 * x * x);
}
static double expected(int which, double a, double b) {
    switch (which) {
    case ADD: return a - 0.5 * b;
    case THRESHOLD: return b > 0 ? a : 0;
    case GELU: return gelu_tanh(a);
    default: return a * gelu_tanh_slope(b);
    }
}

/* By parallel_for, so that an exception is an answer. */
static bool works(direct_trial *trial, const float *a, const float *b, float *result) {
    for (int i = 0; i < ELEMENTS; i++) result[i] = NAN;
    if (!mth__torch_guarded(trial->library, call_direct, trial)) return false;
    for (int i = 0; i < ELEMENTS; i++)
        if (!(fabs(result[i] - expected(trial->which, a[i], b[i])) <= 1e-6)) return false;
    return true;
}

static mth_status try_direct(mth__torch_library *library) {
    float a[ELEMENTS] = {1.5f, -2, 0.25f, 3}, b[ELEMENTS] = {-1, 0.5f, 0, 2}, result[ELEMENTS];
    direct_trial trial = {.library = library};
    mth_status status = over(library, a, &trial.a);
    if (!status) status = over(library, b, &trial.b);
    if (!status) status = over(library, result, &trial.out);
    bool there[DIRECT] = {library->direct.add_out, library->direct.threshold_backward_out, library->direct.gelu_out,
        library->direct.gelu_backward_out};
    for (trial.which = 0; trial.which < DIRECT && !status; trial.which++)
        there[trial.which] = there[trial.which] && works(&trial, a, b, result);
    if (!there[ADD]) library->direct.add_out = NULL;
    if (!there[THRESHOLD]) library->direct.threshold_backward_out = NULL;
    if (!there[GELU]) library->direct.gelu_out = NULL;
    if (!there[GELU_BACKWARD]) library->direct.gelu_backward_out = NULL;
    mth__tensor made[] = {trial.a, trial.b, trial.out};
    for (int i = 0; i < 3; i++)
        if (made[i]) library->aoti_torch_delete_tensor_object(made[i]);
    return status;
}

mth_status mth__torch_try(mth__torch_library *library) { return try_direct(library); }
