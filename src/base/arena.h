/* Arenas hold all that lives and dies together: a model, a plan, one pass. An arena never returns NULL: where memory is
 * gone it jumps to the guard that the public function set up, which frees the arenas begun inside it and returns
 * MTH_ERROR_MEMORY:
 *     static mth_status body(void *args) { ... mth__arena_new(...) ... }
 *     mth_status mth_compile(...) { struct args a = {...}; return mth__guard(body, &a); }
 * An arena that grows also asks whether the thread's caller wants the work to end (base/stop.h), and jumps likewise:
 * MTH_ERROR_INTERRUPTED.
 * Inside a guard: build first, then commit by assignments that cannot fail. Engine slabs use mth__malloc and check for
 * NULL. */
#ifndef MTH__ARENA_H
#define MTH__ARENA_H
#include "base/malloc.h"
#include "base/status.h"

typedef struct mth__arena mth__arena;
mth__arena *mth__arena_new(void);            /* inside a guard: freed by it on failure until mth__arena_keep */
void mth__arena_keep(mth__arena *);          /* the arena now belongs to an object: the guard forgets it */
void mth__arena_free(mth__arena *);          /* NULL is fine */
void *mth__alloc(mth__arena *, size_t size); /* zeroed, 16-byte aligned */
char *mth__copy_text(mth__arena *, const char *);
char *mth__format(mth__arena *, const char *format, ...) __attribute__((format(printf, 2, 3), nonnull(2)));
#define NEW(arena, type) ((type *)mth__alloc(arena, sizeof(type)))
#define NEW_ARRAY(arena, type, n) ((type *)mth__alloc_array(arena, (size_t)(n), sizeof(type)))
void *mth__alloc_array(mth__arena *, size_t n, size_t size);
size_t mth__arena_bytes(const mth__arena *);

/* A growing array in an arena: VEC(int) v = {0}; PUSH(arena, v, 3); v.at[i]; v.n */
#define VEC(type)                                                                                                      \
    struct {                                                                                                           \
        type *at;                                                                                                      \
        size_t n, room;                                                                                                \
    }
#define PUSH(arena, v, ...)                                                                                            \
    ((v).n == (v).room ? ((v).at = mth__grow(arena, (v).at, (v).n, &(v).room, sizeof *(v).at)) : (v).at,               \
        (v).at[(v).n++] = (__VA_ARGS__))
void *mth__grow(mth__arena *, void *at, size_t n, size_t *room, size_t size);

mth_status mth__guard(mth_status (*body)(void *), void *arguments); /* nests; thread-local */
#endif
