#include "_mithril.h"
#include <string.h>

static size_t copy(char *to, size_t at, const char *from, size_t n) { /* `to` NULL: counts only */
    if (to) memcpy(to + at, from, n);
    return at + n;
}

parameter next_parameter(const char *at) {
    parameter found = {at + strspn(at, " "), NULL, NULL, 0};
    found.name_size = strcspn(found.name, ":=, ");
    int depth = 0;
    char quote = 0;
    for (found.end = found.name; *found.end && (depth || quote || *found.end != ','); found.end++) {
        char letter = *found.end;
        if (quote)
            quote = letter == quote ? 0 : quote;
        else if (letter == '\'' || letter == '"')
            quote = letter;
        else if (strchr("([{", letter))
            depth++;
        else if (strchr(")]}", letter))
            depth--;
        else if (letter == '=' && !depth && !found.standard)
            found.standard = found.end + 1 + strspn(found.end + 1, " ");
    }
    return found;
}

size_t print_signature(char *to, const char *name, const char *signature, const char *doc) {
    size_t n = copy(to, copy(to, 0, name, strlen(name)), "(", 1);
    for (const char *at = signature; *at;) {
        parameter each = next_parameter(at);
        if (at != signature) n = copy(to, n, ", ", 2);
        n = copy(to, n, each.name, each.name_size);
        if (each.standard) n = copy(to, copy(to, n, "=", 1), each.standard, (size_t)(each.end - each.standard));
        at = *each.end ? each.end + 1 : each.end;
    }
    n = copy(to, n, ")\n--\n\n", 6);
    return copy(to, n, doc, strlen(doc) + 1);
}
