/* SPDX-License-Identifier: Apache-2.0
 *
 * Two nodes in this process, a VM on one of them, and its move to the other while it runs:
 *
 *   story
 *
 * The same against two nodes that run elsewhere, over TLS; NAME is what the first calls the second:
 *
 *   story --remote ADDRESS_A ADDRESS_B --api-key KEY --ca-file CA.pem --peer NAME
 *
 * DWCP_BACKEND says what runs the VMs of the nodes in this process: kvm, the default, or sim.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dwcp.h"

#define SECONDS(n) ((uint64_t)(n) * 1000)

/* Ends the program where something failed that must not. A pointer to the error, for C does not say which
   of the arguments is evaluated first. */
static void check(const char *what, int32_t status, dwcp_error **error)
{
    if (status == DWCP_OK)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, dwcp_error_name(*error), dwcp_error_message(*error));
    dwcp_error_free(*error);
    exit(1);
}

/* Asks, and gives the answer, which the caller frees. */
static dwcp_document *ask(dwcp_client *client, const char *what, dwcp_request *request)
{
    dwcp_error *error = NULL;
    dwcp_document *answer = NULL;
    check(what, dwcp_client_call(client, request, SECONDS(60), &answer, &error), &error);
    return answer;
}

/* Asks for something that has no answer. */
static void tell(dwcp_client *client, const char *what, dwcp_request *request)
{
    dwcp_document_free(ask(client, what, request));
    printf("%s\n", what);
}

static dwcp_stream *open_stream(dwcp_client *client, const char *what, dwcp_request *request)
{
    dwcp_error *error = NULL;
    dwcp_stream *stream = NULL;
    check(what, dwcp_client_subscribe(client, request, SECONDS(60), &stream, &error), &error);
    return stream;
}

/* The next item, or NULL at the end of the stream. */
static dwcp_document *next(dwcp_stream *stream, const char *what)
{
    dwcp_error *error = NULL;
    dwcp_document *item = NULL;
    int32_t status = dwcp_stream_next(stream, SECONDS(60), &item, &error);
    if (status == DWCP_END)
        return NULL;
    check(what, status, &error);
    return item;
}

static double number(const dwcp_document *document, const char *path)
{
    dwcp_error *error = NULL;
    double value = 0;
    check(path, dwcp_document_f64(document, path, &value, &error), &error);
    return value;
}

static dwcp_node *start_node(const char *name, const char *backend, const char *dir)
{
    dwcp_error *error = NULL;
    dwcp_node *node = NULL;
    char path[256];
    dwcp_document *options = dwcp_document_new();
    snprintf(path, sizeof path, "%s/%s", dir, name);
    check("name", dwcp_document_set_text(options, "name", name, &error), &error);
    check("backend", dwcp_document_set_text(options, "backend", backend, &error), &error);
    check("data_dir", dwcp_document_set_text(options, "data_dir", path, &error), &error);
    check("listen", dwcp_document_set_text(options, "listen.0", "127.0.0.1:0", &error), &error);
    check("start a node", dwcp_node_start(options, &node, &error), &error);
    dwcp_document_free(options);
    printf("%s listens at %s\n", name, dwcp_node_address(node));
    return node;
}

/* What is told of either pair of nodes: `here` has the VM first, and calls the other one `there`. */
static void story(dwcp_client *here, dwcp_client *there, const char *target, bool encrypt)
{
    dwcp_error *error = NULL;
    char id[64];
    char snapshot_id[64];
    char migration_id[64];

    dwcp_document *config = dwcp_document_new();
    check("name", dwcp_document_set_text(config, "name", "story-c", &error), &error);
    check("memory", dwcp_document_set_u64(config, "memory", 64 << 20, &error), &error);
    check("cpus", dwcp_document_set_u64(config, "cpus", 1, &error), &error);
    check("fill",
          dwcp_document_set_pair(config, "annotations", "dwcp.pulse/fill", "4194304", &error), &error);
    dwcp_document *vm = ask(here, "create", dwcp_request_create(config, NULL));
    snprintf(id, sizeof id, "%s", dwcp_document_text(vm, "id"));
    printf("created %s, which is %s\n", id, dwcp_document_text(vm, "state"));
    dwcp_document_free(vm);
    dwcp_document_free(config);

    dwcp_stream *events = open_stream(here, "watch", dwcp_request_watch(id));
    tell(here, "start", dwcp_request_start(id));
    bool is_running = false;
    while (!is_running) {
        dwcp_document *event = next(events, "watch");
        if (event == NULL) {
            fprintf(stderr, "the watch ended before the VM ran\n");
            exit(1);
        }
        const char *state = dwcp_document_text(event, "vm.state");
        printf("event %s: %s\n", dwcp_document_text(event, "type"), state);
        is_running = state != NULL && strcmp(state, "running") == 0;
        dwcp_document_free(event);
    }
    dwcp_stream_free(events);

    dwcp_document *metrics = ask(here, "metrics", dwcp_request_get_metrics(id, SECONDS(60)));
    printf("memory used: %.0f of %.0f bytes\n", number(metrics, "memory_used"),
           number(metrics, "memory_used") + number(metrics, "memory_available"));
    dwcp_document_free(metrics);

    dwcp_stream *figures = open_stream(here, "metrics", dwcp_request_stream_metrics(id, 50));
    for (int i = 0; i < 10; i++) {
        dwcp_document *item = next(figures, "metrics");
        if (item == NULL) {
            fprintf(stderr, "the figures ended after %d\n", i);
            exit(1);
        }
        printf("cpu: %.1f %%\n", number(item, "cpu_usage"));
        dwcp_document_free(item);
    }
    dwcp_stream_free(figures);

    dwcp_document *snapshot = ask(here, "snapshot", dwcp_request_snapshot(id, "before", NULL, NULL));
    snprintf(snapshot_id, sizeof snapshot_id, "%s", dwcp_document_text(snapshot, "id"));
    printf("snapshot %s: %.1f MiB\n", dwcp_document_text(snapshot, "name"),
           number(snapshot, "size") / (1 << 20));
    dwcp_document_free(snapshot);
    tell(here, "restored", dwcp_request_restore_snapshot(id, snapshot_id));

    dwcp_document *options = dwcp_document_new();
    check("options", dwcp_document_set_bool(options, "encrypt_transport", encrypt, &error), &error);
    dwcp_document *status = ask(here, "migrate", dwcp_request_migrate(id, target, options, NULL));
    snprintf(migration_id, sizeof migration_id, "%s", dwcp_document_text(status, "id"));
    dwcp_document_free(status);
    dwcp_document_free(options);
    dwcp_stream *progress = open_stream(here, "progress", dwcp_request_migration_progress(migration_id));
    for (dwcp_document *item; (item = next(progress, "progress")) != NULL;) {
        printf("migration %s: %.0f %%\n", dwcp_document_text(item, "state"), number(item, "progress"));
        dwcp_document_free(item);
    }
    dwcp_stream_free(progress);
    status = ask(here, "migration", dwcp_request_get_migration_status(migration_id));
    if (strcmp(dwcp_document_text(status, "state"), "completed") != 0) {
        const char *why = dwcp_document_text(status, "error");
        fprintf(stderr, "the migration ended otherwise: %s\n", why ? why : "it does not say");
        exit(1);
    }
    printf("moved, with %.1f ms of silence\n", number(status, "downtime"));
    dwcp_document_free(status);
    vm = ask(there, "get", dwcp_request_get(id));
    printf("it is %s on %s\n", dwcp_document_text(vm, "state"), dwcp_document_text(vm, "node"));
    dwcp_document_free(vm);

    const char *nobody = "00000000-0000-4000-8000-000000000000";
    int32_t code = dwcp_client_call(here, dwcp_request_get(nobody), SECONDS(60), NULL, &error);
    if (code != DWCP_ERR_VM_NOT_FOUND || dwcp_error_code(error) != code) {
        fprintf(stderr, "an unknown VM is not known to be unknown: %d\n", (int)code);
        exit(1);
    }
    printf("%s of %s: %s\n", dwcp_error_operation(error), dwcp_error_concerns(error),
           dwcp_error_name(error));
    dwcp_error_free(error);

    tell(there, "stopped", dwcp_request_stop(id, true, 0));
    tell(there, "destroyed", dwcp_request_destroy(id));
}

static void embedded(void)
{
    dwcp_error *error = NULL;
    dwcp_client *here = NULL;
    dwcp_client *there = NULL;
    char dir[] = "/tmp/dwcp-story-XXXXXX";
    char command[300];
    const char *backend = getenv("DWCP_BACKEND");
    if (mkdtemp(dir) == NULL) {
        perror("mkdtemp");
        exit(1);
    }
    dwcp_node *a = start_node("node-a", backend ? backend : "kvm", dir);
    dwcp_node *b = start_node("node-b", backend ? backend : "kvm", dir);
    check("peer", dwcp_node_add_peer(a, "node-b", dwcp_node_address(b), NULL, &error), &error);
    check("peer", dwcp_node_add_peer(b, "node-a", dwcp_node_address(a), NULL, &error), &error);
    check("client", dwcp_node_client(a, &here, &error), &error);
    check("client", dwcp_node_client(b, &there, &error), &error);

    story(here, there, "node-b", false);

    dwcp_client_free(here);
    dwcp_client_free(there);
    check("shutdown", dwcp_node_shutdown(a, SECONDS(5), &error), &error);
    check("shutdown", dwcp_node_shutdown(b, SECONDS(5), &error), &error);
    dwcp_node_free(a);
    dwcp_node_free(b);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    if (system(command) != 0)
        fprintf(stderr, "%s is left\n", dir);
}

static dwcp_client *connect_to(char *address, const char *key, const char *ca_file)
{
    dwcp_error *error = NULL;
    dwcp_client *client = NULL;
    dwcp_client_options options;
    dwcp_client_options_init(&options, sizeof options);
    char *port = strrchr(address, ':');
    if (port != NULL) {
        *port = '\0';
        options.port = (uint16_t)strtoul(port + 1, NULL, 10);
    }
    options.address = address;
    options.api_key = key;
    options.ca_file = ca_file;
    check("connect", dwcp_client_connect(&options, &client, &error), &error);
    return client;
}

int main(int argc, char **argv)
{
    char *a = NULL;
    char *b = NULL;
    const char *key = NULL;
    const char *ca_file = NULL;
    const char *peer = "node-b";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (dwcp_abi_version() != DWCP_ABI_VERSION) {
        fprintf(stderr, "the library is not the one of this header\n");
        return 1;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--remote") == 0 && i + 2 < argc) {
            a = argv[++i];
            b = argv[++i];
        } else if (strcmp(argv[i], "--api-key") == 0 && i + 1 < argc) {
            key = argv[++i];
        } else if (strcmp(argv[i], "--ca-file") == 0 && i + 1 < argc) {
            ca_file = argv[++i];
        } else if (strcmp(argv[i], "--peer") == 0 && i + 1 < argc) {
            peer = argv[++i];
        } else {
            fprintf(stderr, "%s: see the beginning of story.c\n", argv[i]);
            return 2;
        }
    }
    if (a == NULL) {
        embedded();
    } else {
        dwcp_client *here = connect_to(a, key, ca_file);
        dwcp_client *there = connect_to(b, key, ca_file);
        story(here, there, peer, true);
        dwcp_client_free(here);
        dwcp_client_free(there);
    }
    printf("story: ok\n");
    return 0;
}
