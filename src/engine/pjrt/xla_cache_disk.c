/* Executables on disk. A file: head, key, payload. The key is stored whole and compared, so neither a collision of
 * names nor a file of another plugin is ever taken for ours; the checksum covers both, since plugins may trust what
 * they are given. */
#include "engine/pjrt/xla.h"
#include "base/file.h"
#include "base/number.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    char magic[8];
    /* in the writer's byte order: another's version is none of ours */
    uint64_t version, key, payload, checksum;
} head;
static const char magic[8] = "MTH-XLA";
enum { VERSION = 1 };

/* ---------------------------------------------------------------- the key */
/* What decides whether an executable fits: the plugin, what it says about itself and its first device, the flags of the
   compiler, this machine's processor (CPU plugins store machine code), and the module. */
typedef struct {
    char *at;
    size_t bytes;
} key;

static void add_bytes(FILE *file, const void *bytes, size_t n) {
    fwrite(&n, sizeof n, 1, file);
    fwrite(bytes, 1, n, file);
}

static void add_text(FILE *file, const char *text) { add_bytes(file, text ? text : "", text ? strlen(text) : 0); }

static void add_processor(FILE *file) {
    FILE *info = fopen("/proc/cpuinfo", "re");
    char *line = NULL;
    size_t room = 0;
    while (info && getline(&line, &room, info) > 1) /* the first core's */
        if (!strncmp(line, "model name", 10) || !strncmp(line, "flags", 5) || !strncmp(line, "Features", 8))
            add_text(file, line);
    free(line);
    if (info) fclose(info);
}

static mth_status add_device(FILE *file, mth__engine *engine) {
    const PJRT_Api *api = engine->plugin->api;
    MTH__ARGS(PJRT_Device_GetDescription, get);
    get.device = engine->device[0];
    PJRT_TRY(engine->plugin, "describe a device", api->PJRT_Device_GetDescription(&get));
    MTH__ARGS(PJRT_DeviceDescription_Kind, kind);
    kind.device_description = get.device_description;
    PJRT_TRY(engine->plugin, "describe a device", api->PJRT_DeviceDescription_Kind(&kind));
    add_bytes(file, kind.device_kind, kind.device_kind_size);
    return NULL;
}

/* out->at is for free() */
static mth_status key_new(mth__engine *engine, const mth__xla_key *module, key *out) {
    struct stat file;
    const char *path = engine->plugin->path;
    if (stat(path, &file))
        return FAIL(MTH_ERROR_IO, F("the plugin %s can't be looked at: %s", path, mth__errno_text(errno)),
            F("put it back, or leave cache_dir out"));
    int64_t version[] = {
        file.st_size, file.st_mtim.tv_sec, file.st_mtim.tv_nsec, engine->plugin->major, engine->plugin->minor};
    *out = (key){0};
    FILE *stream = open_memstream(&out->at, &out->bytes);
    mth_status status = NULL;
    if (stream) {
        add_text(stream, path);
        add_bytes(stream, version, sizeof version);
        add_text(stream, engine->platform_name);
        add_text(stream, engine->platform_version);
        add_text(stream, getenv("XLA_FLAGS"));
        add_processor(stream);
        status = add_device(stream, engine);
        add_bytes(stream, module->options, module->options_bytes);
        add_bytes(stream, module->text, module->bytes);
    }
    bool whole = stream && !ferror(stream);
    whole = stream && !fclose(stream) && whole; /* fills `out` */
    if (!status && !whole)
        status = FAIL(MTH_ERROR_MEMORY, F("no memory for the key of a cached executable"),
            F("free arrays that are no longer needed"));
    if (status) free(out->at);
    return status;
}

static void file_name(char *room, size_t size, const mth__engine *engine, const key *identity) {
    snprintf(room, size, "%s/%016llx.xla", engine->cache_dir,
        (unsigned long long)mth__xla_hash(VERSION, identity->at, identity->bytes));
}

static uint64_t checksum(const key *identity, const void *payload, size_t bytes) {
    return mth__xla_hash(mth__xla_hash(0, identity->at, identity->bytes), payload, bytes);
}

/* ---------------------------------------------------------------- reading */
/* The file's key and payload, malloc'ed; NULL: none that can be used. */
static char *read_file(const char *path, const key *identity, size_t *payload) {
    uint64_t bytes;
    const char *other;
    int descriptor = mth__open_to_read(path, &bytes, &other);
    FILE *stream = descriptor < 0 ? NULL : fdopen(descriptor, "rb");
    if (!stream) {
        if (descriptor >= 0) close(descriptor);
        return NULL;
    }
    head header;
    char *body = NULL;
    bool usable = false;
    if (!other && fread(&header, sizeof header, 1, stream) == 1 && !memcmp(header.magic, magic, sizeof magic) &&
        header.version == VERSION && header.key == identity->bytes && header.payload &&
        bytes >= sizeof header + header.key && header.payload == bytes - sizeof header - header.key &&
        (body = mth__malloc(header.key + header.payload)) &&
        fread(body, 1, header.key + header.payload, stream) == header.key + header.payload &&
        !memcmp(body, identity->at, identity->bytes)) {
        usable = header.checksum == checksum(identity, body + header.key, header.payload);
        *payload = header.payload;
    }
    fclose(stream);
    if (usable) return body;
    mth__free(body);
    return NULL;
}

static mth_status unsupported(const mth__engine *engine) {
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("cache_dir = '%s': the plugin %s can't store executables", engine->cache_dir, engine->plugin->path),
        F("leave cache_dir out"));
}

static bool unimplemented(const mth__plugin *plugin, PJRT_Error *error) {
    MTH__ARGS(PJRT_Error_GetCode, get);
    get.error = error;
    return !plugin->api->PJRT_Error_GetCode(&get) && get.code == PJRT_Error_Code_UNIMPLEMENTED;
}

mth_status mth__xla_disk_load(mth__engine *engine, const mth__xla_key *module, PJRT_LoadedExecutable **out) {
    const mth__plugin *plugin = engine->plugin;
    *out = NULL;
    if (!MTH__HAS(plugin, PJRT_Executable_Serialize) || !MTH__HAS(plugin, PJRT_Executable_DeserializeAndLoad))
        return unsupported(engine);
    key identity;
    TRY(key_new(engine, module, &identity));
    char path[4096];
    file_name(path, sizeof path, engine, &identity);
    size_t payload;
    char *body = read_file(path, &identity, &payload);
    free(identity.at);
    if (!body) return NULL;
    MTH__ARGS(PJRT_Executable_DeserializeAndLoad, load);
    load.client = engine->client;
    load.serialized_executable = body + identity.bytes;
    load.serialized_executable_size = payload;
    PJRT_Error *error = plugin->api->PJRT_Executable_DeserializeAndLoad(&load);
    mth__free(body);
    if (!error) {
        *out = load.loaded_executable;
        return NULL;
    }
    bool never = unimplemented(plugin, error);
    mth_error_free(mth__pjrt_status(plugin, error, "load an executable"));
    return never ? unsupported(engine) : NULL;
}

/* ---------------------------------------------------------------- writing */
static mth_status unwritable(const mth__engine *engine, const char *path, int code) {
    return mth__error_errno(
        FAIL(MTH_ERROR_IO,
            F("cache_dir = '%s': %s can't be written: %s", engine->cache_dir, path, mth__errno_text(code)),
            F("name a folder that can be written and has room, or leave cache_dir out")),
        code);
}

static mth_status make_folder(const mth__engine *engine) {
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s", engine->cache_dir) >= sizeof path - 64)
        return unwritable(engine, "its path", ENAMETOOLONG);
    for (char *slash = path + 1;; slash++) {
        if (*slash && *slash != '/') continue;
        char old = *slash;
        *slash = 0;
        if (mkdir(path, 0777) && errno != EEXIST) return unwritable(engine, path, errno);
        if (!old) return NULL;
        *slash = old;
    }
}

static mth_status write_file(const mth__engine *engine, const key *identity, const void *payload, size_t bytes) {
    TRY(make_folder(engine));
    char path[4096], aside[sizeof path + 8];
    file_name(path, sizeof path, engine, identity);
    snprintf(aside, sizeof aside, "%s.XXXXXX", path);
    int descriptor = mkostemp(aside, O_CLOEXEC);
    if (descriptor < 0) return unwritable(engine, path, errno);
    FILE *file = fdopen(descriptor, "wb");
    head header = {
        .version = VERSION, .key = identity->bytes, .payload = bytes, .checksum = checksum(identity, payload, bytes)};
    memcpy(header.magic, magic, sizeof magic);
    bool whole = file && fwrite(&header, sizeof header, 1, file) == 1 &&
        fwrite(identity->at, 1, identity->bytes, file) == identity->bytes && fwrite(payload, 1, bytes, file) == bytes;
    int code = errno;
    bool closed = !(file ? fclose(file) : close(descriptor));
    if (whole && closed && !rename(aside, path)) return NULL;
    if (whole) code = errno;
    unlink(aside);
    return unwritable(engine, path, code);
}

mth_status mth__xla_disk_store(mth__engine *engine, const mth__xla_key *module, const PJRT_Executable *executable) {
    const mth__plugin *plugin = engine->plugin;
    MTH__ARGS(PJRT_Executable_Serialize, serialize);
    serialize.executable = executable;
    PJRT_Error *error = plugin->api->PJRT_Executable_Serialize(&serialize);
    if (error) {
        bool never = unimplemented(plugin, error);
        mth_status status = mth__pjrt_status(plugin, error, "serialize an executable");
        if (!never) return status;
        mth_error_free(status);
        return unsupported(engine);
    }
    key identity;
    mth_status status = key_new(engine, module, &identity);
    if (!status) {
        status = write_file(engine, &identity, serialize.serialized_bytes, serialize.serialized_bytes_size);
        free(identity.at);
    }
    if (serialize.serialized_executable_deleter)
        serialize.serialized_executable_deleter(serialize.serialized_executable);
    return status;
}
