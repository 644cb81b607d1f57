/* Errors as values. NULL is success; a failure without a fix does not compile:
 *     return FAIL(MTH_ERROR_VALUE, F("weight has %d dimensions, the spec %d entries", 2, 3), F("give 2 entries"));
 *     TRY(expression_of_status);                       returns the error of a callee
 * On its way out an error is dressed: mth__error_operator, mth__error_tensor. Text is malloc'ed (F never returns NULL:
 * where memory is gone it returns a static text), so that an error outlives every arena. */
#ifndef MTH__STATUS_H
#define MTH__STATUS_H
#include "mithril.h"
#include <stdarg.h>

#define F(...) mth__strf(__VA_ARGS__)
#define FAIL(code, what, fix) mth__fail(code, __FILE__, __LINE__, what, fix)
#define INTERNAL(...)                                                                                                  \
    mth__fail(MTH_ERROR_INTERNAL, __FILE__, __LINE__, F(__VA_ARGS__),                                                  \
        F("this is a defect of mithril: please report it with the text above"))
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        mth_status try_ = (call);                                                                                      \
        if (try_) return try_;                                                                                         \
    } while (0)

char *mth__strf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Takes `what` and `fix`. Adds the thread's source line (mth_set_source_line). MEMORY errors are a static object when
 * memory is gone. */
mth_status mth__fail(mth_error_code, const char *file, int line, char *what, char *fix)
    __attribute__((warn_unused_result));
/* sets it where none is set; returns its argument */
mth_status mth__error_operator(mth_status, const char *op);
mth_status mth__error_errno(mth_status, int code);    /* what the system said of a file */
mth_status mth__error_tensor(mth_status, char *text); /* takes the text; F(...) or mth__value_text */
/* The user's line that composed the operator, in place of the thread's; the first that is said stays. */
mth_status mth__error_source(mth_status, const char *line);
const char *mth__source_line(void); /* of this thread, or NULL */

/* The nearest of `count` names to `name` by edit distance, or NULL where none is near (distance above 1/3 of the
 * length, at least 2). */
const char *mth__nearest(const char *name, const char *const *names, size_t count);
/* The fix of a name that is none of the known ones: the nearest, else all of them. `kind`: "output". */
char *mth__name_fix(const char *kind, const char *name, const char *const *known, size_t count);
/* MTH_ERROR_MEMORY. what: "an array"; bytes: 0 where they say nothing. */
mth_status mth__lacks_memory(const char *what, int64_t bytes);
mth_status mth__given(const void *, const char *what); /* an error where it is NULL */
mth_status mth__result_given(const void *out);         /* the same for an out-parameter */
#endif
