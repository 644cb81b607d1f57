#include "base/fork.h"
#include "base/number.h"
#include <pthread.h>
#include <string.h>

static pthread_mutex_t once = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP, list = PTHREAD_MUTEX_INITIALIZER;
static mth__fork_watch *watches;
static int failure; /* of pthread_atfork */

void mth__process_lock(void) { pthread_mutex_lock(&once); }
void mth__process_unlock(void) { pthread_mutex_unlock(&once); }

static void tell_all(mth__fork_moment moment) {
    for (mth__fork_watch *watch = watches; watch; watch = watch->next) watch->around(watch->object, moment);
}
static void before(void) {
    pthread_mutex_lock(&once);
    pthread_mutex_lock(&list);
    tell_all(MTH__FORK_BEFORE);
}
static void in_parent(void) {
    tell_all(MTH__FORK_PARENT);
    pthread_mutex_unlock(&list);
    pthread_mutex_unlock(&once);
}
static void in_child(void) {
    tell_all(MTH__FORK_CHILD);
    pthread_mutex_unlock(&list);
    /* it knows its owner by a number that the child's thread doesn't have */
    once = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
}

__attribute__((constructor)) static void begin(void) { failure = pthread_atfork(before, in_parent, in_child); }

mth_status mth__fork_ready(void) {
    return failure ? FAIL(MTH_ERROR_MEMORY, F("the process can't watch for forks: %s", mth__errno_text(failure)),
                         F("free memory, and load mithril first"))
                   : NULL;
}

void mth__fork_watch_add(mth__fork_watch *watch, void (*around)(void *, mth__fork_moment), void *object) {
    watch->around = around;
    watch->object = object;
    pthread_mutex_lock(&list);
    watch->next = watches;
    watch->link = &watches;
    if (watch->next) watch->next->link = &watch->next;
    watches = watch;
    pthread_mutex_unlock(&list);
}

void mth__fork_watch_remove(mth__fork_watch *watch) {
    pthread_mutex_lock(&list);
    if (watch->link) *watch->link = watch->next;
    if (watch->link && watch->next) watch->next->link = watch->link;
    watch->link = NULL;
    pthread_mutex_unlock(&list);
}
