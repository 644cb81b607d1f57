/* Our declarations of the plugins' ABI against a published header, pjrt_c_api.h, whose path is MITHRIL_PJRT_HEADER. */
#include "engine/pjrt/pjrt_plugin.h"
#include "unit.h"

TEST(published_header) {
    const char *header = getenv("MITHRIL_PJRT_HEADER");
    char command[4096];
    if (!header || !*header) {
        SKIP("MITHRIL_PJRT_HEADER names no pjrt_c_api.h");
        return;
    }
    int n = snprintf(command, sizeof command, "python3 tools/check_pjrt_abi.py '%s'", header);
    CHECK(n < (int)sizeof command && !strchr(header, '\''));
    fflush(stdout);
    CHECK(system(command) == 0);
}

/* What the macros promise to who calls. */
TEST(sizes_end_at_the_last_member) {
    MTH__ARGS(PJRT_Buffer_IsDeleted, a);
    CHECK(a.struct_size == offsetof(PJRT_Buffer_IsDeleted_Args, is_deleted) + 1 && !a.buffer && !a.is_deleted);
    PJRT_Api api = {
        .struct_size = offsetof(PJRT_Api, PJRT_Compile), .PJRT_Plugin_Attributes = (PJRT_Plugin_Attributes *)1};
    mth__plugin plugin = {.api = &api};
    CHECK(MTH__HAS(&plugin, PJRT_Plugin_Attributes));
    CHECK(!MTH__HAS(&plugin, PJRT_Plugin_Initialize)); /* within the table, but empty */
    CHECK(!MTH__HAS(&plugin, PJRT_Compile));           /* behind its end */
}

RUN()
