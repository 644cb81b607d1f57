/* The words of a program's text: what program_text.c writes and program_parse.c reads. */
#ifndef MTH__PROGRAM_WORDS_H
#define MTH__PROGRAM_WORDS_H
#include "emit/program.h"
#include "engine/collective.h"

typedef struct { const char *at; size_t n; } mth__word;
extern const char *const mth__dtype_words[MTH_BFLOAT16 + 1];
extern const char *const mth__class_words[MTH__CLASS_COMMUNICATION + 1];
extern const char *const mth__entry_words[MTH__ENTRY_SEED + 1];
bool mth__plain_name(const char *, size_t);                               /* printed without quotes */
mth__word mth__attr_name(const mth__op *, char kind, int index);          /* kind 'i', 'f' or 's' */
mth__value_class mth__usual_class(const mth__program *, mth__storage, int index); /* not printed where it is this */
#endif
