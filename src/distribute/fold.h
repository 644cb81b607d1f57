/* What the files of the search share. */
#ifndef MTH__FOLD_H
#define MTH__FOLD_H
#include "distribute/decide.h"

/* how many modules this one stands for, itself included */
double mth__folded_weight(const mth__folding *, const char *module);

/* Hashes: of equal things equal, names but for their digits. */
uint64_t mth__mix(uint64_t hash, uint64_t word);
uint64_t mth__mix_name(uint64_t hash, const char *name);
uint64_t mth__mix_place(uint64_t hash, const mth__placement *); /* its grid */
uint64_t mth__mix_shape(uint64_t hash, mth__shape);

/* Parameters that play the same part in their blocks get the same layout; one group more is the batch of the inputs.
 * candidate.c */
enum { MTH__CANDIDATES = 48 };
typedef struct {
    uint64_t role; /* of parameters: name but for its digits, shape, grid of devices, turn */
    int parameters;
    mth__value **parameter; /* of the trial */
    mth__shape shape;
    int32_t grain[MTH__RANK];
    int naxes;
    int dim[MTH__AXES];
    int candidates;
    /* `on` is left open. [0]: as propagation has it (the batch: whole); [1]: whole */
    mth__sharding candidate[MTH__CANDIDATES];
    double weight; /* how many parameters it stands for */
    mth__sharding found;
    bool alike; /* of the last trial: the first one's layout; all have it */
} mth__group;
/* [0] is the batch where `batch`: inputs that the user left open, with equal first dimensions. */
int mth__groups(mth__arena *, const mth__graph *trial, const mth__folding *, const mth__distribute_options *,
    mth__group **out, bool *batch);
/* The role of each searched parameter, asked for in the graph's order: what is alike and in a row takes turns between
   two roles, so that columns and rows can alternate. The walk starts as {0}. */
typedef struct {
    uint64_t last;
    int turn;
} mth__role_walk;
uint64_t mth__group_role(mth__role_walk *, const mth__value *parameter);
bool mth__searched(const mth__value *parameter); /* is its layout for the search to find */
#endif
