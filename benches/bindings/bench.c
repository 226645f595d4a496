/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls of `cargo xtask bench bindings` in C: what to do comes line by line, what it took goes back as JSON.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dwcp.h"

#define SECONDS(n) ((uint64_t)(n) * 1000)
#define AT_ONCE_MAX 500
#define BATCH 256

static dwcp_client *client;
static dwcp_cq *queue;
static dwcp_stream *stream;
static char id[64];
/* The batch that is being read, and where. */
static dwcp_document *batch;
static size_t batch_at, batch_count;

static void check(const char *what, bool holds)
{
    if (!holds) {
        fprintf(stderr, "bench.c: %s\n", what);
        exit(1);
    }
}

static void ok(const char *what, int32_t status, dwcp_error **error)
{
    if (status != DWCP_OK)
        fprintf(stderr, "bench.c: %s: %s\n", what, dwcp_error_message(*error));
    check(what, status == DWCP_OK);
}

static void is_stopped(const dwcp_document *vm)
{
    check("state", strcmp(dwcp_document_text(vm, "state"), "stopped") == 0);
}

static void is_whole(const dwcp_document *vm, const char *label, const char *annotation)
{
    check("labels", strcmp(dwcp_document_pair(vm, label, "tier"), "web") == 0);
    check("annotations", dwcp_document_pair(vm, annotation, "owner") != NULL);
}

static dwcp_document *get(void)
{
    dwcp_error *error = NULL;
    dwcp_document *vm = NULL;
    ok("get", dwcp_client_call(client, dwcp_request_get(id), SECONDS(60), &vm, &error), &error);
    return vm;
}

static void seq(size_t count)
{
    while (count-- > 0) {
        dwcp_document *vm = get();
        is_stopped(vm);
        dwcp_document_free(vm);
    }
}

static void seq_whole(size_t count)
{
    while (count-- > 0) {
        dwcp_document *vm = get();
        is_whole(vm, "labels", "annotations");
        is_whole(vm, "config.labels", "config.annotations");
        dwcp_document_free(vm);
    }
}

static void at_once(size_t count)
{
    dwcp_completion ends[AT_ONCE_MAX];
    dwcp_reply_to reply_to;
    dwcp_reply_to_init(&reply_to, sizeof reply_to);
    reply_to.cq = queue;
    for (reply_to.tag = 0; reply_to.tag < count; reply_to.tag++) {
        dwcp_error *error = NULL;
        dwcp_request *request = dwcp_request_get(id);
        ok("get", dwcp_client_call_async(client, request, &reply_to, NULL, &error), &error);
    }
    while (count > 0) {
        size_t taken = 0;
        check("queue", dwcp_cq_next(queue, SECONDS(60), ends, AT_ONCE_MAX, &taken) == DWCP_OK);
        for (size_t i = 0; i < taken; i++) {
            check("status", ends[i].status == DWCP_OK);
            is_stopped(ends[i].document);
            dwcp_document_free(ends[i].document);
        }
        count -= taken;
    }
}

/* Waits for items, and takes what there is. */
static void pull(void)
{
    dwcp_error *error = NULL;
    dwcp_completion end;
    dwcp_reply_to reply_to;
    size_t taken = 0;
    dwcp_document_free(batch);
    dwcp_reply_to_init(&reply_to, sizeof reply_to);
    reply_to.cq = queue;
    reply_to.ended = &end;
    ok("next", dwcp_stream_next_async(stream, BATCH, &reply_to, NULL, &error), &error);
    if (end.status == DWCP_PENDING)
        check("queue", dwcp_cq_next(queue, SECONDS(60), &end, 1, &taken) == DWCP_OK);
    check("items", end.status == DWCP_OK);
    batch = end.document;
    batch_at = 0;
    batch_count = dwcp_document_count(batch, "");
}

static void items_with(size_t count, bool whole)
{
    while (count-- > 0) {
        char path[4][48];
        if (batch_at == batch_count)
            pull();
        if (whole) {
            snprintf(path[0], sizeof path[0], "%zu.vm.labels", batch_at);
            snprintf(path[1], sizeof path[1], "%zu.vm.annotations", batch_at);
            snprintf(path[2], sizeof path[2], "%zu.vm.config.labels", batch_at);
            snprintf(path[3], sizeof path[3], "%zu.vm.config.annotations", batch_at);
            is_whole(batch, path[0], path[1]);
            is_whole(batch, path[2], path[3]);
        } else {
            dwcp_error *error = NULL;
            uint64_t number = 0;
            snprintf(path[0], sizeof path[0], "%zu.seq", batch_at);
            ok("seq", dwcp_document_u64(batch, path[0], &number, &error), &error);
        }
        batch_at++;
    }
}

static void items(size_t count) { items_with(count, false); }

static void whole_items(size_t count) { items_with(count, true); }

static void update(size_t number)
{
    dwcp_error *error = NULL;
    char fields[160];
    int len = snprintf(fields, sizeof fields,
                       "{\"vm_id\":\"%s\",\"labels\":{\"env\":\"production-%zu\",\"tier\":\"web\"}}", id, number % 10);
    dwcp_bytes bytes = { (const uint8_t *)fields, (size_t)len };
    ok("update", dwcp_client_call(client, dwcp_request_new("update", bytes), SECONDS(60), NULL, &error), &error);
}

/* Opens the stream, and makes so many events: they wait at the node. */
static void watch(size_t count)
{
    dwcp_error *error = NULL;
    ok("watch", dwcp_client_subscribe(client, dwcp_request_watch(id), SECONDS(60), &stream, &error), &error);
    for (size_t i = 0; i < count; i++)
        update(i);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static dwcp_node *start(uint64_t events)
{
    dwcp_error *error = NULL;
    dwcp_node *node = NULL;
    dwcp_document *options = dwcp_document_new();
    ok("name", dwcp_document_set_text(options, "name", "bench", &error), &error);
    ok("backend", dwcp_document_set_text(options, "backend", "sim", &error), &error);
    ok("event_ring", dwcp_document_set_u64(options, "event_ring", events, &error), &error);
    ok("start", dwcp_node_start(options, &node, &error), &error);
    dwcp_document_free(options);
    return node;
}

static void create(void)
{
    static const char CONFIG[] = "{\"name\":\"web-server-01\",\"memory\":67108864,\"cpus\":1,\"image\":\"dwcp/pulse\","
                                 "\"labels\":{\"env\":\"production\",\"tier\":\"web\"},"
                                 "\"annotations\":{\"owner\":\"platform@example.com\"}}";
    dwcp_error *error = NULL;
    dwcp_document *config = NULL, *vm = NULL;
    dwcp_bytes bytes = { (const uint8_t *)CONFIG, sizeof CONFIG - 1 };
    ok("config", dwcp_document_parse(bytes, &config, &error), &error);
    ok("create", dwcp_client_call(client, dwcp_request_create(config, NULL), SECONDS(60), &vm, &error), &error);
    snprintf(id, sizeof id, "%s", dwcp_document_text(vm, "id"));
    dwcp_document_free(vm);
    dwcp_document_free(config);
}

static const struct {
    const char *name;
    void (*run)(size_t count);
} WORKS[] = {
    { "seq", seq },         { "seq-whole", seq_whole },           { "500", at_once },
    { "stream-item", items }, { "stream-item-whole", whole_items },
};

static void measure(const char *name, size_t count, size_t block)
{
    size_t work = 0;
    while (strcmp(WORKS[work].name, name) != 0)
        check("a work that is known", ++work < sizeof WORKS / sizeof *WORKS);
    bool is_stream = strncmp(name, "stream", strlen("stream")) == 0;
    if (is_stream)
        watch(count + block);
    /* The first block is not measured: what was fetched ahead is read with it. */
    WORKS[work].run(block);
    for (size_t at = 0; at < count / block; at++) {
        double began = now();
        WORKS[work].run(block);
        printf("%c%f", at == 0 ? '[' : ',', (now() - began) / (double)block);
    }
    printf("]\n");
    if (is_stream) {
        dwcp_stream_free(stream);
        dwcp_document_free(batch);
        batch = NULL;
        batch_at = batch_count = 0;
    }
}

int main(int argc, char **argv)
{
    dwcp_error *error = NULL;
    char name[32];
    size_t count, block;
    setvbuf(stdout, NULL, _IOLBF, 0);
    check("usage: bench EVENTS", argc == 2);
    dwcp_node *node = start(strtoull(argv[1], NULL, 10));
    ok("client", dwcp_node_client(node, &client, &error), &error);
    ok("queue", dwcp_cq_new(&queue, &error), &error);
    create();
    printf("{\"version\":\"C, %s\"}\n", __VERSION__);
    while (scanf("%31s %zu %zu", name, &count, &block) == 3)
        measure(name, count, block);
    dwcp_cq_free(queue);
    dwcp_client_free(client);
    dwcp_node_free(node);
    return 0;
}
