/* What binds the inputs of a Pipeline's stages; for the files that make the module. */
#ifndef MTH__STAGES_H
#define MTH__STAGES_H
#include "compose/model.h"

/* EARLIER: output `output` of stage `stage`. PORT: the Pipeline's port. OPEN: the port if it is wired, else the output
   of the stage before; a stage's OPEN inputs are several, and exactly one of them must be left to the stage before. */
typedef enum { MTH__EARLIER, MTH__PORT, MTH__OPEN } mth__binding_kind;
typedef struct {
    mth__binding_kind kind;
    int stage, output;
    const char *port;
} mth__binding;
typedef struct {
    size_t stages;
    const mth__resolved **stage;
    mth__binding **in;       /* by stage and input */
    bool **consumed;         /* by stage and output */
    mth__names made;         /* the outputs of the stages bound so far */
    VEC(mth__binding) maker; /* of `made`: the latest stage that has an output of that name */
} mth__bindings;

/* Of the stages of a Pipeline. */
mth_status mth__stages_bind(const mth_module *pipeline, mth__arena *, mth__bindings *);
/* The outputs that are the Pipeline's: their number, for each the stage and its output, and their names. */
int mth__stages_outputs(mth__arena *, const mth__bindings *, int (**pairs)[2], const char ***names);
/* The callbacks of the module's type (compose.h). */
void mth__stages_ports(const mth_module *pipeline, mth__arena *, const char **inputs, const char **outputs);
mth_status mth__stages_wired(const mth_module *pipeline, const int *wires);
mth_status mth__stages_check(const mth_module *pipeline);
#endif
