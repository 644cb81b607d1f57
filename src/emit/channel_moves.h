/* What a channel means for one device: which elements it takes from whom, in which round, and whether they are copied
 * or combined with what is there. Engines that move bytes themselves follow it, and what is sent and received is
 * counted by it.
 *
 * A device does its moves round by round. In a round it reads its peers' memory as the rounds before have left it, so
 * every device of the group has done round k - 1 before one begins round k. A channel of one round only reads operands;
 * a device may overwrite its operand when all who read it are done.
 *
 * Every move names the memory that it reads on the peer and the one that it writes on the device: the operand, the
 * result, or the scratch, which has the operand's layout in a reduce_scatter and holds 2 n slots in an all_to_all
 * (mth__channel_scratch). The operand and the result of an all_reduce may be the same memory: a move between the same
 * elements of one device's own memory is then nothing. */
#ifndef MTH__CHANNEL_MOVES_H
#define MTH__CHANNEL_MOVES_H
#include "emit/area.h"
#include "emit/collective.h"

typedef enum { MTH__MOVE_OPERAND, MTH__MOVE_RESULT, MTH__MOVE_SCRATCH, MTH__MOVE_MEMORIES } mth__move_memory;
typedef struct {
    int32_t round;
    int32_t peer, peer_rank;   /* the device that is read, itself where nothing travels; its rank in the group */
    mth__move_memory from, to; /* of the peer, of the device */
    bool reduce;               /* combined by channel->reduce, else copied */
    mth__strided_copy copy;
} mth__channel_move;
typedef struct {
    int rounds, count;
    const mth__channel_move *move; /* by round */
} mth__channel_part;

/* Of a device of the channel; the moves lie in the arena. INTERNAL where what is moved is no box of both devices:
   mth__channel_check lets no such channel pass. */
mth_status mth__channel_moves(mth__arena *, mth__templates *, const mth__channel *, int device, mth__channel_part *out);
int mth__channel_rounds(const mth__channel *); /* the same on all its devices */
int64_t mth__channel_move_bytes(const mth__channel *, const mth__channel_move *);
#endif
