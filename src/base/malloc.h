/* Memory. Every allocation of the library is made here, so that tests can make the n-th one fail. */
#ifndef MTH__MALLOC_H
#define MTH__MALLOC_H
#include <stddef.h>

/* For data, and for what has members on cache lines of their own: 64-byte aligned, from 4 MiB on large pages; NULL
   where memory is gone or the test says so */
void *mth__malloc(size_t);
void *mth__calloc_aligned(size_t count, size_t size); /* checks the product; zeroed */
void *mth__calloc(size_t count, size_t size);         /* for all others: the same, aligned as malloc does */
/* Addresses that are filled bit by bit, aligned to large pages. The system is to take large pages only where [from,
   to), which follows on what was covered before, has covered them whole: nothing is taken that nobody asked for. What
   is uncovered gives back its pages. */
void *mth__malloc_bare(size_t);
void mth__memory_covered(void *bare, size_t from, size_t to);
void mth__memory_uncovered(void *at, size_t size);
void mth__free(void *);
extern char mth__no_memory[]; /* a text where there is no room for one; mth__free ignores it */
#endif
