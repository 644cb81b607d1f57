/* The words of a program's text: what program_text.c writes and program_parse.c reads. */
#ifndef MTH__PROGRAM_WORDS_H
#define MTH__PROGRAM_WORDS_H
#include "base/stop.h"
#include "emit/program.h"
#include "emit/collective.h"

extern const char *const mth__memory_words[MTH__MEMORY_KINDS];
extern const char *const mth__entry_words[MTH__ENTRY_KINDS];
extern const char *const mth__exit_words[MTH__EXIT_KINDS];
extern const char *const mth__space_words[MTH__SPACES]; /* where values of a space lie */
extern const char *const mth__copy_words[MTH__SPACES];  /* COPY, by the space of its result */
bool mth__plain_name(const char *, size_t);             /* printed without quotes */
/* Not printed where they are these: what a value's bytes are reported as, the stream of what is started. */
mth__memory_kind mth__usual_memory(const mth__program *, mth__storage, int index);
int mth__usual_stream(mth__instr_kind);

/* Reading: where the text is read, and the line, for errors. What returns a bool reads nothing where it is false. */
typedef struct {
    mth__arena *arena;
    const char *at;
    int line;
} mth__reader;
mth_status mth__read_fail(const mth__reader *reader, char *what);
void mth__read_skip(mth__reader *reader);
bool mth__read_ends(mth__reader *reader);
bool mth__is_word(char character);
bool mth__read_symbol(mth__reader *reader, char character);
bool mth__read_word(mth__reader *reader, const char *word);
mth_status mth__read_need(mth__reader *reader, const char *word);
mth_status mth__read_one_of(mth__reader *reader, const char *const *words, int n, const char *what, int *out);
mth_status mth__read_integer(mth__reader *reader, int64_t low, int64_t high, int64_t *out);
mth_status mth__read_small(mth__reader *reader, int low, int high, int *out);
mth_status mth__read_reference(mth__reader *reader, char letter, size_t count, int *out);
mth_status mth__read_quoted(mth__reader *reader, const char **out);
mth_status mth__read_name(mth__reader *reader, const char **out);
#endif
