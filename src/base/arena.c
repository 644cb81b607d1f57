#include "base/arena.h"
#include "base/stop.h"
#include "base/number.h"
#include <assert.h>
#include <setjmp.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- guards */
typedef struct guard {
    jmp_buf jump;
    struct guard *outer;
    mth__arena *arenas; /* begun inside, not kept */
} guard;
static _Thread_local guard *innermost;

typedef struct arena_block {
    struct arena_block *before;
    size_t used, room; /* of data */
    alignas(16) char data[];
} arena_block;
struct mth__arena {
    arena_block *last;
    size_t bytes;
    mth__arena *next, **link; /* in the list of a guard; link NULL: in none */
};
enum { FIRST_BLOCK = 4096 - sizeof(arena_block), LARGEST_BLOCK = 1 << 20 };

typedef enum { OUT_OF_MEMORY = 1, STOPPED } reason; /* what longjmp gives */

static _Noreturn void leave(reason why) {
    assert(innermost && "an arena is used outside a guard");
    if (!innermost) abort(); /* a defect of ours: every public function sets up a guard */
    longjmp(innermost->jump, why);
}
static _Noreturn void out_of_memory(void) { leave(OUT_OF_MEMORY); }

static void unlink_arena(mth__arena *a) {
    if (!a->link) return;
    *a->link = a->next;
    if (a->next) a->next->link = a->link;
    a->link = NULL;
    a->next = NULL;
}

static void link_arena(mth__arena *a, guard *g) {
    a->next = g->arenas;
    a->link = &g->arenas;
    if (a->next) a->next->link = &a->next;
    g->arenas = a;
}

mth_status mth__guard(mth_status (*body)(void *), void *arguments) {
    guard g = {.outer = innermost};
    mth_status status;
    switch (setjmp(g.jump)) {
    case 0:
        innermost = &g;
        status = body(arguments);
        innermost = g.outer;
        break;
    case STOPPED:
        innermost = g.outer;
        while (g.arenas) mth__arena_free(g.arenas);
        return mth__interrupted();
    default:
        innermost = g.outer;
        while (g.arenas) mth__arena_free(g.arenas); /* first: the error below may need the memory */
        return FAIL(MTH_ERROR_MEMORY, F("memory is exhausted"),
            F("use smaller shapes or microbatches, or free arrays that are no longer needed"));
    }
    while (g.arenas) {
        mth__arena *a = g.arenas;
        if (status) {
            mth__arena_free(a);
        } else { /* the caller's now: its own guard watches it */
            unlink_arena(a);
            if (g.outer) link_arena(a, g.outer);
        }
    }
    return status;
}

/* ---------------------------------------------------------------- arenas */
/* Under the address sanitizer all of a block is poisoned but for what was allocated from it, with a red zone behind
   each allocation: a read or a write past the end of one is found, though the memory around it is the arena's too. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { RED_ZONE = 16 };
#else
enum { RED_ZONE = 0 };
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)0)
#endif

static size_t with_red_zone(size_t size) { return ((size + 15) & ~(size_t)15) + RED_ZONE; }

static void *open_zeroed(void *at, size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(at, size);
    return memset(at, 0, size);
}

static arena_block *block_new(mth__arena *a, size_t room) {
    arena_block *b = mth__malloc(sizeof(arena_block) + room);
    if (!b) out_of_memory();
    b->used = 0;
    b->room = room;
    ASAN_POISON_MEMORY_REGION(b->data, room);
    if (a) a->bytes += sizeof(arena_block) + room;
    return b;
}

mth__arena *mth__arena_new(void) {
    arena_block *b = block_new(NULL, FIRST_BLOCK);
    b->before = NULL;
    mth__arena *a = (mth__arena *)b->data; /* the arena stands in its own first block */
    b->used = with_red_zone(sizeof(mth__arena));
    ASAN_UNPOISON_MEMORY_REGION(a, sizeof(mth__arena));
    *a = (mth__arena){.last = b, .bytes = sizeof(arena_block) + FIRST_BLOCK};
    if (innermost) link_arena(a, innermost);
    return a;
}

void mth__arena_keep(mth__arena *a) { unlink_arena(a); }

void mth__arena_free(mth__arena *a) {
    if (!a) return;
    unlink_arena(a);
    for (arena_block *b = a->last, *before; b; b = before) {
        before = b->before;
        mth__free(b);
    }
}

size_t mth__arena_bytes(const mth__arena *a) { return a->bytes; }

void *mth__alloc(mth__arena *a, size_t size) {
    arena_block *b = a->last;
    if (size > PTRDIFF_MAX / 2) out_of_memory();
    size_t rounded = with_red_zone(size);
    if (rounded > b->room - b->used) {
        if (innermost && mth__thread_stopped()) leave(STOPPED);
        size_t room = b->room >= LARGEST_BLOCK / 2 ? LARGEST_BLOCK : 2 * b->room;
        if (rounded > room / 4) { /* a block of its own, behind the current one, which stays in use */
            arena_block *own = block_new(a, rounded);
            own->used = rounded;
            own->before = b->before;
            b->before = own;
            return open_zeroed(own->data, size);
        }
        arena_block *fresh = block_new(a, room);
        fresh->before = b;
        a->last = b = fresh;
    }
    void *p = b->data + b->used;
    b->used += rounded;
    return open_zeroed(p, size);
}

void *mth__alloc_array(mth__arena *a, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) out_of_memory();
    return mth__alloc(a, bytes);
}

void *mth__grow(mth__arena *a, void *at, size_t n, size_t *room, size_t size) {
    size_t wanted = *room ? 2 * *room : 8;
    arena_block *b = a->last;
    size_t old = with_red_zone(*room * size), grown = with_red_zone(wanted * size);
    *room = wanted;
    /* the last allocation grows in place */
    if (at && (char *)at + old == b->data + b->used && grown - old <= b->room - b->used) {
        open_zeroed((char *)at + *room / 2 * size, (wanted - *room / 2) * size);
        b->used += grown - old;
        return at;
    }
    void *fresh = mth__alloc_array(a, wanted, size);
    if (n) memcpy(fresh, at, n * size);
    return fresh;
}

char *mth__copy_text(mth__arena *a, const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(mth__alloc(a, n), s, n);
}

char *mth__format(mth__arena *a, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int n = mth__vprint(NULL, 0, format, list);
    va_end(list);
    char *s = mth__alloc(a, (size_t)n + 1);
    va_start(list, format);
    mth__vprint(s, (size_t)n + 1, format, list);
    va_end(list);
    return s;
}
