/* Names by number: a hash table of texts. Each gets the next number when it is first added. */
#ifndef MTH__NAMES_H
#define MTH__NAMES_H
#include "base/table.h"

typedef struct {
    VEC(const char *) name;
    mth__table table;
} mth__names;                                          /* {0}: empty */
int mth__names_find(const mth__names *, const char *); /* its number; -1: it isn't there */
/* the number of an equal one, else a new one; keeps the text, doesn't copy it */
int mth__names_add(mth__arena *, mth__names *, const char *);
#endif
