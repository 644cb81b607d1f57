/* Collectives by name, as steps: one template for each kind, algorithm and number of ranks, used by every engine that
 * has no collective of its own and by the verifier.
 *
 * A template works on a buffer of `chunks` chunks on each rank. In round t rank r pulls chunks from the buffers of its
 * peers, as they were after round t - 1, and copies them over or reduces them into its own. It begins with its own
 * contribution in place and ends with the result in place:
 *   all_reduce      n parts of the flat tensor (mth__chunk_range); begin: own tensor; end: the whole sum in every chunk
 *   reduce_scatter  n: chunk c is the box of rank c along the dimension; begin: own tensor; end: chunk r is the sum
 *   all_gather      n: begin: chunk r is own; end: all chunks
 *   broadcast       parts of the flat tensor; begin: rank 0 (root) has all; end: all ranks have all
 *   all_to_all      n: chunk c on rank r begins as r's box for rank c; ends as rank c's box for rank r
 * Where a whole tensor travels at once (tree, direct broadcast) there is 1 chunk.
 * A chunk may be empty (uneven shards). Rounds in which a rank reads what its peer writes in the same round use
 * `double_buffer`: the round writes into a second buffer, and the buffers swap (chunks not written keep their value:
 * the template copies them explicitly). Sources: Thakur, Rabenseifner, Gropp 2005 (ring, binomial tree, recursive),
 * Bruck et al. 1997 (all_to_all in log rounds). */
#ifndef MTH__COLLECTIVE_H
#define MTH__COLLECTIVE_H
#include "emit/program.h"

/* Of one rank; peer may be the rank itself (a local copy) */
typedef struct {
    int32_t round;
    int16_t peer, from_chunk, to_chunk;
    bool reduce;
} mth__step;
typedef struct {
    mth__channel_kind kind;
    mth__algorithm algorithm;
    int n;
    int chunks, rounds;
    bool double_buffer;
} mth__template;
mth__template mth__template_get(mth__channel_kind, mth__algorithm, int n);
/* The steps of one rank, by round. Direct all_reduce, all_gather, broadcast, all_to_all and reduce_scatter are one or
 * two rounds. */
int mth__template_steps(mth__arena *, const mth__template *, int rank, mth__step **out);
/* The same round by round, for who needs no more than one at a time: adds the steps of a rank. */
typedef struct mth__step_maker mth__step_maker;
typedef struct {
    mth__step *at;
    size_t n, room;
} mth__steps; /* a VEC */
mth__step_maker *mth__step_maker_new(mth__arena *, const mth__template *);
void mth__round_steps(mth__arena *, mth__step_maker *, int rank, int round, mth__steps *out);
/* At least as many steps as all ranks have together: what verifying, loading and counting the template's bytes take. */
int64_t mth__template_size(const mth__template *);
/* In r and n, from the rules that make the steps: "rounds k = 1..n - 1: reduce chunk (r - k) mod n of rank (r - 1) mod
 * n". */
void mth__template_print(mth__text *, const mth__template *);
typedef struct {
    int16_t origin, destination;
} mth__box_name;
/* For all_to_all: which box each step moves, as steps[r][i] -> box[r][i] (the caller gives n pointers), so that uneven
   boxes travel unpadded. */
void mth__template_trace(
    mth__arena *, const mth__template *, mth__step *const *steps, const int *count, mth__box_name **box);
/* Templates in use, and the steps of the ranks that were asked for, each made once. Empty: {arena}. */
typedef struct mth__known_template {
    struct mth__known_template *next;
    mth__template template;
    mth__step **step; /* by rank; NULL: not made yet */
    int *count;
    mth__box_name **box; /* all_to_all: mth__template_trace; NULL: not made yet */
} mth__known_template;
typedef struct {
    mth__arena *arena;
    mth__known_template *first;
} mth__templates;
mth__known_template *mth__template_known(mth__templates *, mth__channel_kind, mth__algorithm, int n);
void mth__template_know_rank(mth__templates *, mth__known_template *, int rank); /* its steps */
void mth__template_know_all(mth__templates *, mth__known_template *);            /* of all ranks, and the boxes */
/* Bytes that one rank needs beside operand and result: reduce_scatter works on a copy of the operand, all_to_all on two
   sets of n slots of the group's largest box. 0 for direct, which reads operands and writes results. */
int64_t mth__template_scratch(const mth__template *, int64_t operand_bytes, int64_t largest_box_bytes);
/* Every rank ends with each contribution once; no round reads what it overwrites. Adds the number of steps, of all
   ranks, to *steps unless that is NULL: the time taken is about in proportion to it, times n / 64. */
mth_status mth__template_verify(const mth__template *);
/* The same of given steps, by rank. */
mth_status mth__template_verify_steps(mth__arena *, const mth__template *, mth__step *const *steps, const int *count);
/* ceil-sized, last ones smaller or empty */
void mth__chunk_range(int64_t elements, int chunks, int chunk, int64_t *start, int64_t *size);
#endif
