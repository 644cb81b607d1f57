/* Whose work a node or an instruction is: what profiles, errors and the schedule know it by. One struct, assigned whole
 * from the builder to nodes and from nodes to instructions. */
#ifndef MTH__LABEL_H
#define MTH__LABEL_H
#include <stdbool.h>
#include <stdint.h>

/* FORWARD makes what the user composed. RECOMPUTE makes a value of forward once more, for backward, and is laid out,
 * computed and rounded as it was there. BACKWARD makes gradients. UPDATE makes new parameters and states of them. */
typedef enum { MTH__FORWARD, MTH__RECOMPUTE, MTH__BACKWARD, MTH__UPDATE, MTH__PHASE_KINDS } mth__phase;
extern const char *const mth__phase_words[MTH__PHASE_KINDS]; /* "forward", "recompute", "backward", "update" */

enum { MTH__MOST_MICROBATCHES = 1 << 15 }; /* A plan has instructions of each: planning this many takes seconds. */

typedef struct {
    const char *module; /* "model_0.linear_3", or NULL */
    const char *source; /* the user's line, or NULL */
    int32_t region;     /* the pipeline (graph->region); -1: outside of any */
    int32_t stage;      /* of it; -1 outside, and only there */
    int32_t microbatch; /* of the region; -1: the batch is not cut (yet), or the node serves all of it */
    mth__phase phase;
} mth__label;

static inline mth__label mth__label_outside(const char *module, mth__phase phase) {
    return (mth__label){.module = module, .region = -1, .stage = -1, .microbatch = -1, .phase = phase};
}

/* A label of the same work in another place of the pipelines, that of `home`. */
static inline mth__label mth__label_at(mth__label label, const mth__label *home) {
    label.region = home->region;
    label.stage = home->stage;
    label.microbatch = home->microbatch;
    return label;
}

/* Is the node's turn in a training step when gradients are made? What backward recomputes is made then, too. */
static inline bool mth__is_backward_time(mth__phase phase) { return phase == MTH__RECOMPUTE || phase == MTH__BACKWARD; }
/* Do two nodes have their turns in the same part of a step? What was gathered in one part is not kept for the next. */
static inline bool mth__same_time(mth__phase a, mth__phase b) {
    return mth__is_backward_time(a) == mth__is_backward_time(b) && (a == MTH__UPDATE) == (b == MTH__UPDATE);
}
/* Is what the node makes a gradient, or a term of one? A sum of those may lie where it is added up. */
static inline bool mth__makes_gradients(mth__phase phase) { return phase == MTH__BACKWARD; }
/* Do layouts of the node follow from those that forward's nodes have chosen? */
static inline bool mth__follows_forward(mth__phase phase) { return phase != MTH__FORWARD; }

/* One unit of a pipeline's schedule: stage, microbatch and direction are the same. */
static inline bool mth__same_unit(const mth__label *a, const mth__label *b) {
    return a->region == b->region && a->stage == b->stage && a->microbatch == b->microbatch &&
        mth__same_time(a->phase, b->phase);
}
#endif
