/* What the files of this folder share while a program is made. */
#ifndef MTH__EMIT_H
#define MTH__EMIT_H
#include "emit/uses.h"

typedef struct {
    int n;
    int *role;
} mth__role_list; /* ascending */

/* roles.c. Sets program->role (devices alone) and role_of; returns the roles of each placement that the graph uses, by
   its id. All devices of a role are in the same placements and have the same local shape of every value. */
mth__role_list *mth__emit_roles(mth__arena *scratch, const mth__graph *, mth__program *);
/* Device 0 alone is a role, which stands for all devices of the whole mesh. */
mth__role_list *mth__emit_one_role(mth__arena *scratch, const mth__graph *, mth__program *);

/* program.c. `global`: as mth__emit_global says. */
mth_status mth__emit_program(
    mth__arena *, const mth__graph *, const mth__emit_options *, bool global, mth__program **out);

/* waits.c. Puts a WAIT behind every SEND of the role and all that is started. */
void mth__emit_waits(mth__program *, mth__role *);
#endif
