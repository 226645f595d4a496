/* SPDX-License-Identifier: Apache-2.0
 *
 * What the header promises, tried: documents, the three shapes, cancelling, misuse, fork. Needs no KVM.
 * Ends with "N checks passed", or with the first that does not hold. With --no-fork it does not fork: a
 * child leaves what its parent's threads had, and a checker of leaks would count that.
 */
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dwcp.h"

#define SECONDS(n) ((uint64_t)(n) * 1000)
#define IN_FLIGHT 500

static int passed;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            _exit(1);                                                                              \
        }                                                                                          \
        passed++;                                                                                  \
    } while (0)

/* Pointers to the error, for C does not say which of the arguments is evaluated first. */
static void ok(int32_t status, dwcp_error **error)
{
    if (status != DWCP_OK)
        fprintf(stderr, "%s: %s\n", dwcp_error_name(*error), dwcp_error_message(*error));
    CHECK(status == DWCP_OK && *error == NULL);
}

/* Checks that it failed so, and that the text says why. */
static void fails(int32_t status, dwcp_error **error, int32_t code, const char *why)
{
    if (status != code)
        fprintf(stderr, "expected %d: %d %s\n", (int)code, (int)status, dwcp_error_message(*error));
    CHECK(status == code && dwcp_error_code(*error) == code);
    if (strstr(dwcp_error_message(*error), why) == NULL)
        fprintf(stderr, "expected \"%s\" in: %s\n", why, dwcp_error_message(*error));
    CHECK(strstr(dwcp_error_message(*error), why) != NULL);
    dwcp_error_free(*error);
    *error = NULL;
}

static dwcp_node *start_node(void)
{
    dwcp_error *error = NULL;
    dwcp_node *node = NULL;
    dwcp_document *options = dwcp_document_new();
    ok(dwcp_document_set_text(options, "name", "node-c", &error), &error);
    ok(dwcp_document_set_text(options, "backend", "sim", &error), &error);
    ok(dwcp_document_set_text(options, "listen.0", "127.0.0.1:0", &error), &error);
    ok(dwcp_node_start(options, &node, &error), &error);
    dwcp_document_free(options);
    return node;
}

static void put(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

/* A node with a store of images, which ends here. */
static void images(void)
{
    /* The smallest kernel: an ELF file with one segment of 16 bytes, to be loaded at 16 MiB. */
    static const uint8_t kernel[136] = {
        [0] = 0x7f, 'E', 'L', 'F', 2, 1, 1, [16] = 2, [18] = 62, [20] = 1, [27] = 1, [32] = 64,
        [52] = 64, [54] = 56, [56] = 1, [64] = 1, [68] = 5, [72] = 120, [83] = 1, [91] = 1,
        [96] = 16, [104] = 16, [113] = 16, [120] = 0xf4};
    static const char about[] = "format = 1\nname = \"mini\"\n[kernel]\nfile = \"vmlinuz\"\n";
    char top[] = "/tmp/dwcp-abi-XXXXXX", folder[64], data[64], disks[64], command[64];
    dwcp_error *error = NULL;
    dwcp_node *node = NULL;
    dwcp_client *client = NULL;
    dwcp_document *given = NULL;
    CHECK(mkdtemp(top) != NULL);
    snprintf(folder, sizeof folder, "%s/mini", top);
    snprintf(data, sizeof data, "%s/data", top);
    snprintf(disks, sizeof disks, "%s/disks", top);
    snprintf(command, sizeof command, "rm -r %s", top);
    CHECK(mkdir(folder, 0700) == 0);
    put(folder, "vmlinuz", kernel, sizeof kernel);
    put(folder, "image.toml", about, sizeof about - 1);

    dwcp_document *options = dwcp_document_new();
    ok(dwcp_document_set_text(options, "name", "node-i", &error), &error);
    ok(dwcp_document_set_text(options, "backend", "sim", &error), &error);
    ok(dwcp_document_set_text(options, "data_dir", data, &error), &error);
    ok(dwcp_document_set_text(options, "disk_dir", disks, &error), &error);
    ok(dwcp_node_start(options, &node, &error), &error);
    dwcp_document_free(options);
    ok(dwcp_node_client(node, &client, &error), &error);
    ok(dwcp_client_call(client, dwcp_request_import_image(folder, "web"), SECONDS(10), &given, &error), &error);
    CHECK(strcmp(dwcp_document_text(given, "name"), "web") == 0);
    CHECK(strlen(dwcp_document_text(given, "digest")) == 64);
    dwcp_document_free(given);
    ok(dwcp_client_call(client, dwcp_request_import_image(folder, NULL), SECONDS(10), NULL, &error), &error);
    ok(dwcp_client_call(client, dwcp_request_list_images(), SECONDS(10), &given, &error), &error);
    CHECK(strcmp(dwcp_document_text(given, "0.name"), "mini") == 0);
    CHECK(strcmp(dwcp_document_text(given, "1.name"), "web") == 0);
    dwcp_document_free(given);
    dwcp_document *config = dwcp_document_new();
    ok(dwcp_document_set_text(config, "name", "named", &error), &error);
    ok(dwcp_document_set_text(config, "image", "mini", &error), &error);
    ok(dwcp_document_set_u64(config, "disk", 1 << 20, &error), &error);
    ok(dwcp_client_call(client, dwcp_request_create(config, NULL), SECONDS(10), &given, &error), &error);
    dwcp_document_free(config);
    CHECK(access(disks, F_OK) == 0);
    fails(dwcp_client_call(client, dwcp_request_remove_image("mini"), SECONDS(10), NULL, &error), &error,
          DWCP_ERR_INVALID_OPERATION, dwcp_document_text(given, "id"));
    dwcp_document_free(given);
    ok(dwcp_client_call(client, dwcp_request_remove_image("web"), SECONDS(10), NULL, &error), &error);
    fails(dwcp_client_call(client, dwcp_request_remove_image("web"), SECONDS(10), NULL, &error), &error,
          DWCP_ERR_NOT_FOUND, "web");
    fails(dwcp_client_call(client, dwcp_request_import_image(NULL, NULL), SECONDS(10), NULL, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "path");
    put(folder, "vmlinuz", "a text", 6);
    fails(dwcp_client_call(client, dwcp_request_import_image(folder, "t"), SECONDS(10), NULL, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "kernel: ");
    ok(dwcp_client_close(client, SECONDS(5), &error), &error);
    dwcp_client_free(client);
    ok(dwcp_node_shutdown(node, SECONDS(5), &error), &error);
    dwcp_node_free(node);
    CHECK(system(command) == 0);
}

static void create(dwcp_client *client, char *id, size_t size)
{
    dwcp_error *error = NULL;
    dwcp_document *vm = NULL;
    dwcp_document *config = dwcp_document_new();
    ok(dwcp_document_set_text(config, "name", "abi", &error), &error);
    ok(dwcp_document_set_u64(config, "memory", 32 << 20, &error), &error);
    ok(dwcp_document_set_pair(config, "labels", "a.b/c", "d", &error), &error);
    ok(dwcp_client_call(client, dwcp_request_create(config, NULL), SECONDS(10), &vm, &error), &error);
    snprintf(id, size, "%s", dwcp_document_text(vm, "id"));
    CHECK(strcmp(dwcp_document_pair(vm, "config.labels", "a.b/c"), "d") == 0);
    dwcp_document_free(vm);
    dwcp_document_free(config);
}

static void documents(void)
{
    dwcp_error *error = NULL;
    dwcp_document *document = dwcp_document_new();
    uint64_t u = 0;
    int64_t i = 0;
    double f = 0;
    bool b = false;
    ok(dwcp_document_set_text(document, "a.b.0.c", "text", &error), &error);
    ok(dwcp_document_set_text(document, "a.b.1.c", "more", &error), &error);
    ok(dwcp_document_set_u64(document, "u", UINT64_MAX, &error), &error);
    ok(dwcp_document_set_i64(document, "i", -7, &error), &error);
    ok(dwcp_document_set_f64(document, "f", 0.5, &error), &error);
    ok(dwcp_document_set_bool(document, "t", true, &error), &error);
    CHECK(strcmp(dwcp_document_text(document, "a.b.1.c"), "more") == 0);
    CHECK(dwcp_document_text(document, "a.b.2.c") == NULL && dwcp_document_text(document, "u") == NULL);
    CHECK(dwcp_document_count(document, "a.b") == 2 && dwcp_document_count(document, "") == 5);
    ok(dwcp_document_u64(document, "u", &u, &error), &error);
    ok(dwcp_document_i64(document, "i", &i, &error), &error);
    ok(dwcp_document_f64(document, "f", &f, &error), &error);
    ok(dwcp_document_bool(document, "t", &b, &error), &error);
    CHECK(u == UINT64_MAX && i == -7 && f > 0.4 && f < 0.6 && b);

    fails(dwcp_document_u64(document, "i", &u, &error), &error, DWCP_ERR_INVALID_CONFIG, "i: is no whole");
    CHECK(u == UINT64_MAX);
    fails(dwcp_document_bool(document, "none", &b, &error), &error, DWCP_ERR_INVALID_CONFIG, "none:");
    fails(dwcp_document_set_u64(document, "a.b.9", 1, &error), &error, DWCP_ERR_INVALID_CONFIG, "\"9\"");
    fails(dwcp_document_set_u64(document, "u.x", 1, &error), &error, DWCP_ERR_INVALID_CONFIG, "\"x\"");
    fails(dwcp_document_set_text(document, "x", "\xff", &error), &error, DWCP_ERR_INVALID_CONFIG, "UTF-8");
    fails(dwcp_document_set_f64(document, "x", 1e308 * 10, &error), &error, DWCP_ERR_INVALID_CONFIG, "finite");

    dwcp_document *item = NULL;
    ok(dwcp_document_part(document, "a.b.1", &item, &error), &error);
    CHECK(strcmp(dwcp_document_text(item, "c"), "more") == 0);
    dwcp_document_free(item);
    fails(dwcp_document_part(document, "a.b.2", &item, &error), &error, DWCP_ERR_INVALID_CONFIG, "a.b.2");

    dwcp_bytes json = dwcp_document_bytes(document);
    dwcp_document *copy = NULL;
    ok(dwcp_document_parse(json, &copy, &error), &error);
    CHECK(dwcp_document_bytes(copy).len == json.len);
    dwcp_document_free(copy);
    dwcp_bytes broken = {(const uint8_t *)"{\"a\":", 5};
    fails(dwcp_document_parse(broken, &copy, &error), &error, DWCP_ERR_INVALID_CONFIG, "json:");
    dwcp_document_free(document);
}

static void misuse(dwcp_client *client)
{
    dwcp_error *error = NULL;
    dwcp_document *answer = NULL;
    dwcp_stream *stream = NULL;
    fails(dwcp_client_call(NULL, dwcp_request_health(), 0, &answer, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "client: is NULL");
    fails(dwcp_client_call(client, NULL, 0, &answer, &error), &error, DWCP_ERR_INVALID_CONFIG,
          "request: is NULL");
    fails(dwcp_client_call(client, dwcp_request_start(NULL), 0, &answer, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "vm_id: is NULL");
    fails(dwcp_client_call(client, dwcp_request_watch("x"), 0, &answer, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "dwcp_client_subscribe");
    fails(dwcp_client_subscribe(client, dwcp_request_get("x"), 0, &stream, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "dwcp_client_call");
    fails(dwcp_client_subscribe(client, dwcp_request_watch("x"), 0, NULL, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "out: is NULL");
    dwcp_bytes fields = {(const uint8_t *)"{}", 2};
    fails(dwcp_client_call(client, dwcp_request_new("strat", fields), 0, &answer, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "start");
    CHECK(answer == NULL && stream == NULL);
    /* Nobody has to want the error. */
    CHECK(dwcp_client_call(client, NULL, 0, NULL, NULL) == DWCP_ERR_INVALID_CONFIG);

    dwcp_client_options options;
    dwcp_client *other = NULL;
    dwcp_client_options_init(&options, sizeof options);
    CHECK(options.struct_size == sizeof options && options.tls_enabled && options.retry_attempts == 3);
    options.address = "127.0.0.1";
    options.struct_size = 8;
    fails(dwcp_client_connect(&options, &other, &error), &error, DWCP_ERR_INVALID_CONFIG, "struct_size");
    dwcp_client_options_init(&options, sizeof options);
    options.address = "unix:/nowhere/at/all";
    options.retry_attempts = 0;
    fails(dwcp_client_connect(&options, &other, &error), &error, DWCP_ERR_CONNECTION, "");

    dwcp_reply_to neither;
    dwcp_reply_to_init(&neither, sizeof neither);
    fails(dwcp_client_call_async(client, dwcp_request_health(), &neither, NULL, &error), &error,
          DWCP_ERR_INVALID_CONFIG, "either");
    CHECK(dwcp_error_code(NULL) == DWCP_OK && dwcp_cq_fd(NULL) == -1);
    dwcp_error_free(NULL);
    dwcp_document_free(NULL);
    dwcp_request_free(NULL);
    dwcp_client_free(NULL);
    dwcp_stream_free(NULL);
    dwcp_node_free(NULL);
    dwcp_cq_free(NULL);
    dwcp_op_free(NULL);
    dwcp_request_free(dwcp_request_health());
}

static void blocking(dwcp_client *client, const char *id)
{
    dwcp_error *error = NULL;
    dwcp_document *document = NULL;
    ok(dwcp_client_call(client, dwcp_request_get(id), DWCP_NO_TIMEOUT, &document, &error), &error);
    CHECK(strcmp(dwcp_document_text(document, "state"), "stopped") == 0);
    dwcp_document_free(document);
    int32_t status = dwcp_client_call(client, dwcp_request_pause(id), SECONDS(10), NULL, &error);
    CHECK(strcmp(dwcp_error_operation(error), "pause") == 0);
    CHECK(strcmp(dwcp_error_concerns(error), id) == 0 && !dwcp_error_retryable(error));
    CHECK(strcmp(dwcp_error_name(error), "invalid_operation") == 0);
    fails(status, &error, DWCP_ERR_INVALID_OPERATION, "stopped");
}

struct told {
    pthread_mutex_t lock;
    pthread_cond_t came;
    int times;
    int32_t status;
    int32_t blocked;
    dwcp_client *client;
};

static void tell(void *user_data, const dwcp_completion *completion)
{
    struct told *told = user_data;
    dwcp_error *error = NULL;
    /* It would wait for this very thread. */
    int32_t blocked = dwcp_client_call(told->client, dwcp_request_health(), 0, NULL, &error);
    dwcp_error_free(error);
    dwcp_error_free(completion->error);
    dwcp_document_free(completion->document);
    pthread_mutex_lock(&told->lock);
    told->times++;
    told->status = completion->status;
    told->blocked = blocked;
    pthread_cond_signal(&told->came);
    pthread_mutex_unlock(&told->lock);
}

static void callbacks(dwcp_client *client, const char *id)
{
    dwcp_error *error = NULL;
    struct told told = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, -99, 0, client};
    dwcp_reply_to reply_to;
    dwcp_reply_to_init(&reply_to, sizeof reply_to);
    reply_to.callback = tell;
    reply_to.user_data = &told;
    /* Held while it starts: the callback must not come on this thread. */
    pthread_mutex_lock(&told.lock);
    ok(dwcp_client_call_async(client, dwcp_request_get(id), &reply_to, NULL, &error), &error);
    while (told.times == 0)
        pthread_cond_wait(&told.came, &told.lock);
    pthread_mutex_unlock(&told.lock);
    CHECK(told.times == 1 && told.status == DWCP_OK);
    CHECK(told.blocked == DWCP_ERR_INVALID_OPERATION);
}

/* Waits at the descriptor, then takes one. */
static dwcp_completion take(dwcp_cq *cq)
{
    dwcp_completion completion;
    size_t count = 0;
    struct pollfd fd = {dwcp_cq_fd(cq), POLLIN, 0};
    int32_t status;
    do {
        CHECK(poll(&fd, 1, 30000) == 1);
        status = dwcp_cq_next(cq, 0, &completion, 1, &count);
    } while (status == DWCP_ERR_TIMEOUT);
    CHECK(status == DWCP_OK && count == 1);
    return completion;
}

static void queues(dwcp_client *client, const char *id)
{
    dwcp_error *error = NULL;
    dwcp_cq *cq = NULL;
    dwcp_op *op = NULL;
    dwcp_completion completion;
    dwcp_reply_to reply_to;
    size_t count = 7;
    bool seen[IN_FLIGHT] = {false};
    ok(dwcp_cq_new(&cq, &error), &error);
    CHECK(dwcp_cq_next(cq, 0, &completion, 1, &count) == DWCP_ERR_TIMEOUT && count == 0);
    dwcp_reply_to_init(&reply_to, sizeof reply_to);
    reply_to.cq = cq;
    for (uint64_t tag = 0; tag < IN_FLIGHT; tag++) {
        reply_to.tag = tag;
        ok(dwcp_client_call_async(client, dwcp_request_get(id), &reply_to, NULL, &error), &error);
    }
    for (int left = IN_FLIGHT; left > 0; left--) {
        completion = take(cq);
        CHECK(completion.status == DWCP_OK && completion.error == NULL);
        CHECK(completion.tag < IN_FLIGHT && !seen[completion.tag]);
        seen[completion.tag] = true;
        CHECK(strcmp(dwcp_document_text(completion.document, "id"), id) == 0);
        dwcp_document_free(completion.document);
    }
    CHECK(dwcp_cq_next(cq, 0, &completion, 1, &count) == DWCP_ERR_TIMEOUT);

    /* A stream, whose first item is there and whose second one never comes: taken back, it goes on. */
    reply_to.tag = 1000;
    ok(dwcp_client_subscribe_async(client, dwcp_request_watch(id), &reply_to, NULL, &error), &error);
    completion = take(cq);
    CHECK(completion.tag == 1000 && completion.stream != NULL);
    dwcp_stream *stream = completion.stream;
    ok(dwcp_stream_next_async(stream, 16, &reply_to, NULL, &error), &error);
    completion = take(cq);
    CHECK(strcmp(dwcp_document_text(completion.document, "0.type"), "current") == 0);
    dwcp_document_free(completion.document);
    ok(dwcp_stream_next_async(stream, 16, &reply_to, &op, &error), &error);
    dwcp_document *item = NULL;
    fails(dwcp_stream_next(stream, 0, &item, &error), &error, DWCP_ERR_INVALID_OPERATION, "one batch");
    dwcp_op_cancel(op);
    dwcp_op_cancel(op);
    completion = take(cq);
    CHECK(completion.status == DWCP_ERR_CANCELLED && completion.document == NULL);
    dwcp_error_free(completion.error);
    dwcp_op_free(op);
    fails(dwcp_stream_next(stream, 1, &item, &error), &error, DWCP_ERR_TIMEOUT, "1ms");
    ok(dwcp_stream_next_async(stream, 16, &reply_to, NULL, &error), &error);
    dwcp_stream_close(stream);
    completion = take(cq);
    CHECK(completion.status == DWCP_END && completion.error == NULL);
    CHECK(dwcp_stream_next(stream, SECONDS(10), &item, &error) == DWCP_END && item == NULL);
    dwcp_stream_free(stream);

    dwcp_cq_shutdown(cq);
    CHECK(dwcp_cq_next(cq, DWCP_NO_TIMEOUT, &completion, 1, &count) == DWCP_END);
    dwcp_cq_free(cq);
}

/* The client goes while its calls are under way: each still ends, once. */
static void freed_with_calls_in_flight(const char *address)
{
    dwcp_error *error = NULL;
    dwcp_client *client = NULL;
    dwcp_cq *cq = NULL;
    dwcp_client_options options;
    dwcp_reply_to reply_to;
    char host[64];
    snprintf(host, sizeof host, "%s", address);
    char *port = strrchr(host, ':');
    *port = '\0';
    dwcp_client_options_init(&options, sizeof options);
    options.address = host;
    options.port = (uint16_t)strtoul(port + 1, NULL, 10);
    options.tls_enabled = false;
    ok(dwcp_client_connect(&options, &client, &error), &error);
    CHECK(dwcp_client_is_connected(client) && dwcp_client_is_authenticated(client));
    ok(dwcp_cq_new(&cq, &error), &error);
    dwcp_reply_to_init(&reply_to, sizeof reply_to);
    reply_to.cq = cq;
    for (int i = 0; i < IN_FLIGHT; i++)
        ok(dwcp_client_call_async(client, dwcp_request_node(), &reply_to, NULL, &error), &error);
    dwcp_document *counters = NULL;
    ok(dwcp_client_metrics(client, &counters, &error), &error);
    uint64_t sent = 0;
    ok(dwcp_document_u64(counters, "messages_sent", &sent, &error), &error);
    CHECK(sent > 0);
    dwcp_document_free(counters);
    dwcp_client_free(client);
    for (int left = IN_FLIGHT; left > 0; left--) {
        dwcp_completion completion = take(cq);
        CHECK((completion.document == NULL) == (completion.status != DWCP_OK));
        dwcp_document_free(completion.document);
        dwcp_error_free(completion.error);
    }
    dwcp_cq_free(cq);
}

/* A child has what it makes, and nothing of its parent's. */
static void forked(dwcp_client *client)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dwcp_error *error = NULL;
        dwcp_client *own = NULL;
        fails(dwcp_client_call(client, dwcp_request_health(), SECONDS(10), NULL, &error), &error,
              DWCP_ERR_FORKED, "fork");
        CHECK(!dwcp_client_is_connected(client));
        dwcp_node *node = start_node();
        ok(dwcp_node_client(node, &own, &error), &error);
        ok(dwcp_client_call(own, dwcp_request_health(), SECONDS(10), NULL, &error), &error);
        dwcp_client_free(own);
        ok(dwcp_node_shutdown(node, SECONDS(1), &error), &error);
        dwcp_node_free(node);
        dwcp_client_free(client);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void keys(dwcp_node *node)
{
    dwcp_error *error = NULL;
    dwcp_document *list = NULL;
    ok(dwcp_node_add_key(node, "eye", "a-long-secret", "viewer", SECONDS(10), &error), &error);
    fails(dwcp_node_add_key(node, "eye", "another-secret", "viewer", SECONDS(10), &error), &error,
          DWCP_ERR_ALREADY_EXISTS, "eye");
    fails(dwcp_node_add_key(node, "e", "another-secret", "king", SECONDS(10), &error), &error,
          DWCP_ERR_INVALID_CONFIG, "king");
    ok(dwcp_node_keys(node, &list, &error), &error);
    CHECK(strcmp(dwcp_document_text(list, "0.role"), "viewer") == 0);
    dwcp_document_free(list);
    ok(dwcp_node_add_key(node, "hand", "another-secret", "operator", SECONDS(10), &error), &error);
    fails(dwcp_node_remove_key(node, "nobody", SECONDS(10), &error), &error, DWCP_ERR_NOT_FOUND, "nobody");
    ok(dwcp_node_remove_key(node, "hand", SECONDS(10), &error), &error);
}

int main(int argc, char **argv)
{
    dwcp_error *error = NULL;
    dwcp_client *client = NULL;
    char id[64];
    CHECK(dwcp_abi_version() == DWCP_ABI_VERSION && strlen(dwcp_version()) >= 5);
    documents();
    images();
    dwcp_node *node = start_node();
    CHECK(strcmp(dwcp_node_name(node), "node-c") == 0 && strlen(dwcp_node_uuid(node)) == 36);
    ok(dwcp_node_client(node, &client, &error), &error);
    create(client, id, sizeof id);
    misuse(client);
    blocking(client, id);
    callbacks(client, id);
    queues(client, id);
    freed_with_calls_in_flight(dwcp_node_address(node));
    if (argc < 2 || strcmp(argv[1], "--no-fork") != 0)
        forked(client);
    keys(node);
    ok(dwcp_node_drain(node, &error), &error);
    ok(dwcp_node_shutdown(node, SECONDS(5), &error), &error);
    fails(dwcp_client_call(client, dwcp_request_health(), SECONDS(10), NULL, &error), &error,
          DWCP_ERR_UNAVAILABLE, "");
    ok(dwcp_client_close(client, SECONDS(5), &error), &error);
    dwcp_client_free(client);
    dwcp_node_free(node);
    printf("%d checks passed\n", passed);
    return 0;
}
