/* Files of tensors: every dtype and layout against the values that were written; headers that lie; files that change
 * while they are read. pread is ours here, so that a file can be cut short between two reads. */
#include "tensor_file.h"
#include "unit.h"
#include "base/dtype.h"
#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int reads, cut_at = -1; /* the read before which the file is cut short to `cut_to` */
static off_t cut_to;
static const char *cut_path;
ssize_t pread(int fd, void *to, size_t n, off_t at) {
    if (reads++ == cut_at && truncate(cut_path, cut_to)) abort();
    return syscall(SYS_pread64, fd, to, n, at);
}

static mth_backend *devices(int64_t n) {
    mth_backend *backend = NULL;
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(n)}), &backend));
    return backend;
}

/* ---------------------------------------------------------------- values */
static uint16_t half_of(int value) { /* of whole numbers that half has */
    if (!value) return 0;
    int exponent = 0;
    while (value >> (exponent + 1)) exponent++;
    return (uint16_t)((exponent + 15) << 10 | ((value << (10 - exponent)) & 1023));
}

static void put(const char *dtype, size_t i, int value, char *data) {
    const float f = (float)value;
    const double d = value;
    const int64_t l = value;
    const uint16_t half = half_of(value);
    if (strcmp(dtype, "F32") == 0)
        memcpy(data + 4 * i, &f, 4);
    else if (strcmp(dtype, "F64") == 0)
        memcpy(data + 8 * i, &d, 8);
    else if (strcmp(dtype, "I64") == 0)
        memcpy(data + 8 * i, &l, 8);
    else if (strcmp(dtype, "I32") == 0)
        memcpy(data + 4 * i, &value, 4);
    else if (strcmp(dtype, "BF16") == 0)
        memcpy(data + 2 * i, (const char *)&f + 2, 2);
    else if (strcmp(dtype, "F16") == 0)
        memcpy(data + 2 * i, &half, 2);
    else
        data[i] = value % 2 == 1;
}

/* Element (i, j) is (i * columns + j) mod 127, which every dtype holds; each shard against it. */
static void check_values(const mth_array *array, int64_t columns, bool transposed) {
    const bool truth = mth_array_get_dtype(array) == MTH_BOOL;
    int wrong = 0;
    for (size_t k = 0; k < mth_array_get_shard_count(array); k++) {
        const mth_shard shard = mth_array_get_shard(array, k);
        for (int64_t i = 0; i < shard.size[0]; i++)
            for (int64_t j = 0; j < shard.size[1]; j++) {
                const int64_t y = shard.start[0] + i, x = shard.start[1] + j,
                              value = (transposed ? x * columns + y : y * columns + x) % 127;
                wrong += mth__dtype_load(mth_array_get_dtype(array), shard.data, i * shard.size[1] + j) !=
                    (double)(truth ? value % 2 : value);
            }
    }
    CHECK(!wrong);
}

TEST(values_of_every_dtype_and_layout) {
    static const struct {
        const char *name;
        size_t size;
    } dtypes[] = {{"F32", 4}, {"F64", 8}, {"I64", 8}, {"I32", 4}, {"BF16", 2}, {"F16", 2}, {"BOOL", 1}};
    static const int64_t shapes[][2] = {/* narrow rows, wide ones, more than one buffer */
        {7, 5}, {3, 6000}, {600, 1500}, {1, 300000}, {300000, 1}};
    mth_backend *backend = devices(3);
    const mth_arg specs[] = {MTH_NONE, MTH_SPEC(mth_int(0), MTH_NONE), MTH_SPEC(MTH_NONE, mth_int(0))};
    char *data = calloc(900000 + 1, 8);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int pad = 0; pad < 2; pad++) { /* with a space more the data is not aligned */
                const size_t n = (size_t)(shapes[s][0] * shapes[s][1]);
                char header[256];
                snprintf(header, sizeof header,
                    "{\"before\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"%s\","
                    "\"shape\":[%d,%d],\"data_offsets\":[1,%zu]}}%s",
                    dtypes[d].name, (int)shapes[s][0], (int)shapes[s][1], 1 + n * dtypes[d].size, pad ? " " : "");
                for (size_t i = 0; i < n; i++) put(dtypes[d].name, i, (int)(i % 127), data + 1);
                const char *path = file_of(header, strlen(header), data, 1 + n * dtypes[d].size);
                for (int i = 0; i < 6; i++) {
                    mth_array *array = NULL;
                    CHECK_STATUS(mth_array_from_safetensors(backend, path, "a", i > 2, &specs[i % 3], &array));
                    if (array) check_values(array, shapes[s][1], i > 2);
                    mth_array_free(array);
                }
            }
    free(data);
    unlink(file_path());
    mth_backend_free(backend);
}

#define WIDE "{\"l\":{\"dtype\":\"I64\",\"shape\":[2,1],\"data_offsets\":[0,16]}}"

TEST(a_layout_is_read_from_one_opening) {
    mth_backend *backend = devices(2);
    const float data[] = {1, 2, 3, 4, 5, 6};
    const char *header = "{\"v\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[16,24]},\"m\":{\"dtype\":\"F32\","
                         "\"shape\":[2,2],\"data_offsets\":[0,16]}}";
    const char *path = file_of(header, strlen(header), data, sizeof data);
    mth_array *m = NULL, *v = NULL;
    mth_arrays *layout = NULL, *read = NULL;
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 0, 2, (int64_t[]){2, 2}, NULL, &m));
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 0, 1, (int64_t[]){2}, NULL, &v));
    CHECK_STATUS(mth_arrays_create((mth_named[]){{"weight", m}, {"bias", v}}, 2, &layout));
    const mth_file_tensor names[] = {{"bias", "v", false}, {"weight", "m", true}};
    CHECK_STATUS(mth_arrays_read_safetensors(layout, path, names, 2, &read));
    float weight[4] = {0}, bias[2] = {0};
    CHECK(mth_arrays_get_count(read) == 2 && strcmp(mth_arrays_get(read, 0).name, "weight") == 0);
    CHECK_STATUS(mth_array_gather(mth_arrays_find(read, "weight"), weight));
    CHECK_STATUS(mth_array_gather(mth_arrays_find(read, "bias"), bias));
    CHECK(weight[0] == 1 && weight[1] == 3 && weight[2] == 2 && weight[3] == 4 && bias[0] == 5 && bias[1] == 6);
    mth_arrays_free(read);
    read = NULL;
    const mth_file_tensor twice[] = {{"bias", "v", false}, {"bias", "v", false}},
                          other[] = {{"bias", "v", false}, {"wieght", "m", false}},
                          absent[] = {{"bias", "v", false}, {"weight", "n", false}},
                          shape[] = {{"bias", "m", false}, {"weight", "m", false}};
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, names, 1, &read), MTH_ERROR_KEY, "'weight' has no tensor");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, twice, 2, &read), MTH_ERROR_KEY, "'bias' is named twice");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, other, 2, &read), MTH_ERROR_KEY, "use 'weight'");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, absent, 2, &read), MTH_ERROR_KEY, "holds no tensor 'n'");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, shape, 2, &read), MTH_ERROR_VALUE, "is float32 (2, 2)");
    CHECK_FAILS(mth_arrays_read_safetensors(NULL, path, names, 2, &read), MTH_ERROR_TYPE, "the layout");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, shape, 2, &read), MTH_ERROR_VALUE, "the sizes of this one");
    mth_arrays *wide = NULL;
    mth_array *column = NULL, *whole = NULL;
    const mth_file_tensor one[] = {{"w", "l", false}}, turned[] = {{"w", "l", true}};
    const char *path_of_wide = file_of(WIDE, strlen(WIDE), (int64_t[]){1, 2}, 16);
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 0, 2, (int64_t[]){2, 1}, NULL, &column));
    CHECK_STATUS(mth_array_full(backend, MTH_INT64, 0, 2, (int64_t[]){1, 2}, NULL, &whole));
    CHECK_STATUS(mth_arrays_create((mth_named[]){{"w", column}}, 1, &wide));
    CHECK_FAILS(mth_arrays_read_safetensors(wide, path_of_wide, one, 1, &read), MTH_ERROR_VALUE,
        "save it as float32, or name another tensor");
    CHECK_FAILS(
        mth_arrays_read_safetensors(wide, path_of_wide, turned, 1, &read), MTH_ERROR_VALUE, "and change transpose");
    mth_arrays_free(wide);
    CHECK_STATUS(mth_arrays_create((mth_named[]){{"w", whole}}, 1, &wide));
    CHECK_FAILS(
        mth_arrays_read_safetensors(wide, path_of_wide, one, 1, &read), MTH_ERROR_VALUE, "change transpose, or name");
    CHECK_STATUS(mth_arrays_read_safetensors(wide, path_of_wide, turned, 1, &read));
    mth_arrays_free(read), mth_arrays_free(wide), mth_array_free(column), mth_array_free(whole);
    read = NULL;
    file_of(header, strlen(header), data, sizeof data);
    CHECK(!read);
    const int64_t live = mth_debug_live_allocations();
    for (int64_t i = 0; !read; i++) { /* any allocation may fail: the arrays read so far are freed */
        mth_debug_fail_allocation(i);
        mth_status status = mth_arrays_read_safetensors(layout, path, names, 2, &read);
        mth_debug_fail_allocation(-1);
        CHECK(!status == (read != NULL) && (!status || mth_error_get_code(status) == MTH_ERROR_MEMORY));
        mth_error_free(status);
        if (!read) CHECK(mth_debug_live_allocations() == live);
    }
    mth_arrays_free(read);
    mth_arrays_free(layout);
    mth_array_free(m);
    mth_array_free(v);
    unlink(file_path());
    mth_backend_free(backend);
}

/* ---------------------------------------------------------------- headers */
#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define B(offsets) "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" offsets "]}"

TEST(headers) {
    mth_backend *backend = devices(1);
    static const char data[64] = {0};
    static const struct {
        const char *header;
        size_t bytes;
        const char *tensor, *error;
        mth_error_code code;
    } cases[] = {
        /* what the format allows */
        {"{" A "}", 8, "a", NULL, 0},
        {"{" A "} \n", 8, "a", NULL, 0},
        {"{ \"a\" : { \"shape\" : [ 2 ] , \"data_offsets\" : [ 0 , 8 ] , \"dtype\" : \"F32\" } }", 8, "a", NULL, 0},
        {"{" B("8,16") "," A ",\"__metadata__\":{\"k\":\"v\",\"l\":\"\\u0041\"}}", 16, "a", NULL, 0},
        {"{\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "a", NULL, 0},
        {"{\"\\/\\\"\\\\\\n\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "/\"\\\n", NULL, 0},
        {"{\"\\u00e9\\u20AC\\ud83d\\ude00\":{\"d\\u0074ype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
            "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", NULL, 0},
        {"{\"\xc3\xa9\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "\xc3\xa9", NULL, 0},
        {"{" A ",\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[8,8]},\"q\":{\"dtype\":\"F4\",\"shape\":[4]"
         ",\"data_offsets\":[8,10]}}",
            10, "a", NULL, 0},
        {"{" A ",\"r\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[8,9]}}", 9, "a", NULL, 0},
        /* not there, or not for us */
        {"{}", 0, "a", "holds no tensor 'a'", MTH_ERROR_KEY},
        {"{}", 0, "a", "give the path of another file: this one holds no tensors at all", MTH_ERROR_KEY},
        {"{\"t\\u0000\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "t",
            "under names without a NUL character (\\u0000)", MTH_ERROR_KEY},
        {"{\"t\\u0000\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}," B("8,16") "}", 16, "t",
            "the only tensor is 'b'", MTH_ERROR_KEY},
        {"{" A "}", 8, "b", "the only tensor is 'a'", MTH_ERROR_KEY},
        {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "a", "holds no tensor",
            MTH_ERROR_KEY},
        {"{\"r\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "r",
            "0 to 8 dimensions", MTH_ERROR_VALUE},
        {"{\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "u", "has the dtype U8",
            MTH_ERROR_UNSUPPORTED},
        /* what lies, though 'a' itself is right */
        {"{" A "," A "}", 8, "a", "has 'a' twice", MTH_ERROR_IO},
        {"{" A ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16, "a", "has 'a' twice",
            MTH_ERROR_IO},
        {"{\"__metadata__\":{}," A ",\"__metadata__\":{}}", 8, "a", "'__metadata__' twice", MTH_ERROR_IO},
        {"{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}," A "}", 8, "a", "__metadata__ has 'k' twice", MTH_ERROR_IO},
        {"{\"__metadata__\":{\"k\":1}," A "}", 8, "a", "no object of texts", MTH_ERROR_IO},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "a", "dtype twice",
            MTH_ERROR_IO},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "a", "shape twice",
            MTH_ERROR_IO},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"data_offsets\":[0,8]}}", 8, "a",
            "data_offsets twice", MTH_ERROR_IO},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"scale\":2}}", 8, "a",
            "unknown field 'scale'", MTH_ERROR_IO},
        {"{" A "," B("4,12") "}", 12, "a", "inside the tensor before it", MTH_ERROR_IO},
        {"{" A "," B("0,8") "}", 8, "a", "inside the tensor before it", MTH_ERROR_IO},
        {"{" A "," B("12,20") "}", 20, "a", "belong to none", MTH_ERROR_IO},
        {"{" B("8,16") "}", 16, "b", "belong to none", MTH_ERROR_IO},
        {"{" A "}", 9, "a", "end at byte 8 of 9", MTH_ERROR_IO},
        {"{" A "}", 7, "a", "claims bytes 0 to 8 of 7", MTH_ERROR_IO},
        {"{}", 1, "a", "end at byte 0 of 1", MTH_ERROR_IO},
        {"{" A "," B("8,12") "}", 12, "a", "tensor 'b' claims bytes 8 to 12", MTH_ERROR_IO},
        {"{" A "," B("16,8") "}", 16, "a", "tensor 'b' claims bytes 16 to 8", MTH_ERROR_IO},
        {"{" A "}x", 8, "a", "goes on behind", MTH_ERROR_IO},
        {"{" A "}{" A "}", 8, "a", "goes on behind", MTH_ERROR_IO},
        {"{" A ",}", 8, "a", "broken JSON", MTH_ERROR_IO},
        {"{" A, 8, "a", "broken JSON", MTH_ERROR_IO},
        {"[" A "]", 8, "a", "does not begin with '{'", MTH_ERROR_IO},
        {" {" A "}", 8, "a", "does not begin with '{'", MTH_ERROR_IO},
        {"{" A ",\"b\":7}", 8, "a", "tensor 'b' is no object", MTH_ERROR_IO},
        {"{" A ",\"b\":{}}", 8, "a", "tensor 'b' is broken JSON", MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "a", "tensor 'b' has no data_offsets", MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16, "a",
            "dtype 'F33', which the format does not have", MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[8,16]}}", 16, "a", "no whole number",
            MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[8,16]}}", 16, "a", "does not end",
            MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[02],\"data_offsets\":[8,16]}}", 16, "a", "no whole number",
            MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[8,16]}}", 16, "a",
            "no whole number", MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[18446744073709551618],\"data_offsets\":[8,16]}}", 16, "a",
            "no whole number", MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,8],\"data_offsets\":[8,16]}}", 16, "a",
            "more elements than", MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[8,16]}}", 16, "a",
            "number of bytes", MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[8,9]}}", 9, "a", "no whole number of bytes",
            MTH_ERROR_IO},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,1e1]}}", 16, "a", "no two whole numbers",
            MTH_ERROR_IO},
        {"{" A ",\"b\n\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "broken JSON",
            MTH_ERROR_IO},
        {"{" A ",\"\\ud800\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "broken JSON",
            MTH_ERROR_IO},
        {"{" A ",\"\\ude00\\ud83d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "broken JSON",
            MTH_ERROR_IO},
        {"{" A ",\"\\u00g0\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "broken JSON",
            MTH_ERROR_IO},
        {"{" A ",\"\\x41\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "broken JSON",
            MTH_ERROR_IO},
        {"{" A ",\"\xff\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "no UTF-8", MTH_ERROR_IO},
        {"{" A ",\"\xc0\x80\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "no UTF-8",
            MTH_ERROR_IO},
        {"{" A ",\"\xed\xa0\x80\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9, "a", "no UTF-8",
            MTH_ERROR_IO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = file_of(cases[i].header, strlen(cases[i].header), data, cases[i].bytes);
        mth_array *array = NULL;
        mth_status status = mth_array_from_safetensors(backend, path, cases[i].tensor, false, NULL, &array);
        const bool right = cases[i].error ? status && mth_error_get_code(status) == cases[i].code &&
                strstr(mth_error_get_message(status), cases[i].error)
                                          : !status;
        if (!right)
            printf("  %s (%zu bytes): %s\n", cases[i].header, cases[i].bytes,
                status ? mth_error_get_message(status) : "accepted");
        CHECK(right && !status == (array != NULL));
        mth_error_free(status);
        mth_array_free(array);
    }
    unlink(file_path());
    mth_backend_free(backend);
}

TEST(nothing_in_a_header_nests) {
    mth_backend *backend = devices(1);
    const size_t n = 1 << 20;
    char *header = malloc(n);
    mth_array *array = NULL;
    for (int i = 0; i < 2; i++) { /* a million of '[' or of '{"a":' */
        for (size_t k = 0; k < n; k++) header[k] = i ? "{\"a\":"[k % 5] : k ? '[' : '{';
        CHECK_FAILS(mth_array_from_safetensors(backend, file_of(header, n, "", 0), "a", false, NULL, &array),
            MTH_ERROR_IO, "no valid safetensors file");
    }
    free(header);
    unlink(file_path());
    mth_backend_free(backend);
}

TEST(the_size_of_a_header) {
    mth_backend *backend = devices(1);
    mth_array *array = NULL;
    const uint64_t sizes[] = {0, 1, 3, 100000001, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        FILE *file = fopen(file_path(), "wb");
        fwrite(&sizes[i], 8, 1, file);
        fwrite("{}", 1, 2, file);
        fclose(file);
        CHECK_FAILS(
            mth_array_from_safetensors(backend, file_path(), "a", false, NULL, &array), MTH_ERROR_IO, "header claims");
    }
    for (int more = 0; more < 2; more++) { /* at the limit, in a file with holes, and one beyond */
        const uint64_t size = 100000000 + (uint64_t)more;
        char *spaces = malloc(size);
        memset(spaces, ' ', size);
        memcpy(spaces, "{" A "}", strlen("{" A "}"));
        const char *path = file_of(spaces, size, "\0\0\0\0\0\0\0", 8);
        if (more)
            CHECK_FAILS(mth_array_from_safetensors(backend, path, "a", false, NULL, &array), MTH_ERROR_IO,
                "the format allows 100000000");
        else
            CHECK_STATUS(mth_array_from_safetensors(backend, path, "a", false, NULL, &array));
        free(spaces);
    }
    mth_array_free(array);
    unlink(file_path());
    mth_backend_free(backend);
}

/* ---------------------------------------------------------------- files */
TEST(a_file_that_is_cut_short_while_it_is_read) {
    mth_backend *backend = devices(2);
    const char *header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2000,1000],\"data_offsets\":[0,8000000]}}";
    const size_t length = strlen(header), bytes = 8000000;
    char *data = calloc(bytes, 1);
    const mth_arg specs[] = {MTH_NONE, MTH_SPEC(mth_int(0), MTH_NONE), MTH_SPEC(MTH_NONE, mth_int(0))};
    cut_path = file_path();
    for (int i = 0; i < 6; i++) {
        mth_array *array = NULL;
        const char *path = file_of(header, length, data, bytes);
        reads = 0;
        CHECK_STATUS(mth_array_from_safetensors(backend, path, "a", i > 2, &specs[i % 3], &array));
        mth_array_free(array);
        const int all = reads;
        CHECK(all >= 3);
        for (int at = 0; at < all;
            at += all < 20 ? 1 : all / 10) { /* before the size, before the header, in the data */
            array = NULL;
            file_of(header, length, data, bytes);
            reads = 0, cut_at = at, cut_to = at < 2 ? at * 8 : (off_t)(8 + length);
            CHECK_FAILS(mth_array_from_safetensors(backend, path, "a", i > 2, &specs[i % 3], &array), MTH_ERROR_IO,
                "cut short while it was read");
            CHECK(!array);
            cut_at = -1;
        }
    }
    free(data);
    unlink(file_path());
    mth_backend_free(backend);
}

TEST(what_is_no_file) {
    mth_backend *backend = devices(1);
    mth_array *array = NULL;
    unlink(file_path());
    mth_status status = mth_array_from_safetensors(backend, file_path(), "a", false, NULL, &array);
    CHECK(mth_error_get_code(status) == MTH_ERROR_IO && mth_error_get_errno(status) == ENOENT);
    mth_error_free(status);
    status = mth_array_from_safetensors(backend, "/tmp", "a", false, NULL, &array);
    CHECK(mth_error_get_code(status) == MTH_ERROR_IO && mth_error_get_errno(status) == EISDIR);
    mth_error_free(status);
    if (mkfifo(file_path(), 0600)) abort();
    alarm(20); /* ends the test where opening a pipe waits */
    CHECK_FAILS(
        mth_array_from_safetensors(backend, file_path(), "a", false, NULL, &array), MTH_ERROR_IO, "is a pipe, no file");
    CHECK_FAILS(mth_array_from_safetensors(backend, "/dev/zero", "a", false, NULL, &array), MTH_ERROR_IO,
        "is a device, no file");
    alarm(0);
    unlink(file_path());
    mth_backend_free(backend);
}
RUN()
