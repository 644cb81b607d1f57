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
enum { FIRST_BLOCK = 4096 - sizeof(arena_block), LARGEST_BLOCK = 4 << 20 };

typedef enum { OUT_OF_MEMORY = 1, STOPPED } reason; /* what longjmp gives */

static _Noreturn void leave(reason why) {
    assert(innermost && "an arena is used outside a guard");
    if (!innermost) abort(); /* a defect of ours: every public function sets up a guard */
    longjmp(innermost->jump, why);
}
static _Noreturn void out_of_memory(void) { leave(OUT_OF_MEMORY); }

static void unlink_arena(mth__arena *arena) {
    if (!arena->link) return;
    *arena->link = arena->next;
    if (arena->next) arena->next->link = arena->link;
    arena->link = NULL;
    arena->next = NULL;
}

static void link_arena(mth__arena *arena, guard *frame) {
    arena->next = frame->arenas;
    arena->link = &frame->arenas;
    if (arena->next) arena->next->link = &arena->next;
    frame->arenas = arena;
}

mth_status mth__guard(mth_status (*body)(void *), void *arguments) {
    guard frame = {.outer = innermost};
    mth_status status;
    switch (setjmp(frame.jump)) {
    case 0:
        innermost = &frame;
        status = body(arguments);
        innermost = frame.outer;
        break;
    case STOPPED:
        innermost = frame.outer;
        while (frame.arenas) mth__arena_free(frame.arenas);
        return mth__interrupted();
    default:
        innermost = frame.outer;
        while (frame.arenas) mth__arena_free(frame.arenas); /* first: the error below may need the memory */
        return FAIL(MTH_ERROR_MEMORY, F("memory is exhausted"),
            F("use smaller shapes or microbatches, or free arrays that are no longer needed"));
    }
    while (frame.arenas) {
        mth__arena *arena = frame.arenas;
        if (status) {
            mth__arena_free(arena);
        } else { /* the caller's now: its own guard watches it */
            unlink_arena(arena);
            if (frame.outer) link_arena(arena, frame.outer);
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
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

static size_t with_red_zone(size_t size) { return ((size + 15) & ~(size_t)15) + RED_ZONE; }

static void *open_region(void *at, size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(at, size);
    return at;
}

static arena_block *block_new(mth__arena *arena, size_t room) {
    arena_block *block = mth__malloc(sizeof(arena_block) + room);
    if (!block) out_of_memory();
    block->used = 0;
    block->room = room;
    ASAN_POISON_MEMORY_REGION(block->data, room);
    if (arena) arena->bytes += sizeof(arena_block) + room;
    return block;
}

mth__arena *mth__arena_new(void) {
    arena_block *block = block_new(NULL, FIRST_BLOCK);
    block->before = NULL;
    mth__arena *arena = (mth__arena *)block->data; /* the arena stands in its own first block */
    block->used = with_red_zone(sizeof(mth__arena));
    ASAN_UNPOISON_MEMORY_REGION(arena, sizeof(mth__arena));
    *arena = (mth__arena){.last = block, .bytes = sizeof(arena_block) + FIRST_BLOCK};
    if (innermost) link_arena(arena, innermost);
    return arena;
}

void mth__arena_keep(mth__arena *arena) { unlink_arena(arena); }

void mth__arena_free(mth__arena *arena) {
    if (!arena) return;
    unlink_arena(arena);
    for (arena_block *block = arena->last, *before; block; block = before) {
        before = block->before;
        mth__free(block);
    }
}

size_t mth__arena_bytes(const mth__arena *arena) { return arena->bytes; }

/* What lies there is anything. */
static void *take(mth__arena *arena, size_t size) {
    arena_block *block = arena->last;
    if (size > PTRDIFF_MAX / 2) out_of_memory();
    size_t rounded = with_red_zone(size);
    if (rounded > block->room - block->used) {
        if (innermost && mth__thread_stopped()) leave(STOPPED);
        size_t room = block->room >= LARGEST_BLOCK / 2 ? LARGEST_BLOCK : 2 * block->room;
        if (rounded > room / 4) { /* a block of its own, behind the current one, which stays in use */
            arena_block *own = block_new(arena, rounded);
            own->used = rounded;
            own->before = block->before;
            block->before = own;
            return open_region(own->data, size);
        }
        arena_block *fresh = block_new(arena, room);
        fresh->before = block;
        arena->last = block = fresh;
    }
    void *memory = block->data + block->used;
    block->used += rounded;
    return open_region(memory, size);
}

void *mth__alloc(mth__arena *arena, size_t size) { return memset(take(arena, size), 0, size); }

static size_t array_bytes(size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) out_of_memory();
    return bytes;
}

void *mth__alloc_array(mth__arena *arena, size_t n, size_t size) { return mth__alloc(arena, array_bytes(n, size)); }

void *mth__grow(mth__arena *arena, void *at, size_t n, size_t *room, size_t size) {
    size_t wanted = *room ? 2 * *room : 8;
    arena_block *block = arena->last;
    size_t old = with_red_zone(*room * size), grown = with_red_zone(wanted * size);
    /* the last allocation grows in place */
    if (at && (char *)at + old == block->data + block->used && grown - old <= block->room - block->used) {
        memset(open_region((char *)at + *room * size, (wanted - *room) * size), 0, (wanted - *room) * size);
        block->used += grown - old;
        *room = wanted;
        return at;
    }
    char *fresh = take(arena, array_bytes(wanted, size));
    *room = wanted; /* not before there is room: a model lives on where its arena found none */
    if (n) memcpy(fresh, at, n * size);
    memset(fresh + n * size, 0, (wanted - n) * size);
    return fresh;
}

char *mth__copy_text(mth__arena *arena, const char *text) {
    size_t n = strlen(text) + 1;
    return memcpy(take(arena, n), text, n);
}

char *mth__format(mth__arena *arena, const char *format, ...) {
    char short_text[256];
    va_list list;
    va_start(list, format);
    const size_t n = (size_t)mth__vprint(short_text, sizeof short_text, format, list);
    va_end(list);
    char *text = take(arena, n + 1);
    if (n < sizeof short_text) return memcpy(text, short_text, n + 1);
    va_start(list, format);
    mth__vprint(text, n + 1, format, list);
    va_end(list);
    return text;
}
