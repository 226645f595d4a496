/* SPDX-License-Identifier: Apache-2.0
 *
 * The testee for C: does what lines of JSON on its standard input ask, in one thread, which sleeps until
 * there is a line or a completion.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dwcp.h"

/* Text that grows. */
struct text {
    char *bytes;
    size_t len;
    size_t room;
};

static void add(struct text *text, const char *bytes, size_t len)
{
    if (text->len + len + 1 > text->room) {
        text->room = (text->len + len + 1) * 2;
        text->bytes = realloc(text->bytes, text->room);
        if (text->bytes == NULL)
            abort();
    }
    if (len > 0)
        memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
    text->bytes[text->len] = '\0';
}

static void put(struct text *text, const char *format, ...)
{
    char line[512];
    va_list values;
    va_start(values, format);
    int len = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    if (len < 0 || (size_t)len >= sizeof line)
        abort();
    add(text, line, (size_t)len);
}

/* A string of JSON: bytes above 127 as they are where they are UTF-8, or each as a character. */
static void quote(struct text *text, const char *bytes, size_t len, bool is_utf8)
{
    add(text, "\"", 1);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '"' || c == '\\' || c < ' ' || (!is_utf8 && c > 126))
            put(text, "\\u%04x", c);
        else
            add(text, bytes + i, 1);
    }
    add(text, "\"", 1);
}

/* Things by name; there are few. */
struct named {
    struct named *next;
    char name[64];
    void *thing;
};

static void **find(struct named **list, const char *name)
{
    for (struct named *one = *list; one != NULL; one = one->next)
        if (strcmp(one->name, name) == 0)
            return &one->thing;
    struct named *one = calloc(1, sizeof *one);
    if (one == NULL)
        abort();
    snprintf(one->name, sizeof one->name, "%s", name);
    one->next = *list;
    *list = one;
    return &one->thing;
}

/* A request that has not been answered. */
struct pending {
    struct pending *next;
    uint64_t id;
    dwcp_op *op;
    bool gives_nothing;
    bool is_console;
    /* Where what it gives goes: a client or a stream by name. */
    void **place;
    /* For items: which stream, how many are still wanted, those that have come. */
    dwcp_stream *stream;
    size_t wanted;
    struct text items;
};

static dwcp_cq *cq;
static struct named *clients;
static struct named *streams;
static struct named *consoles;
static struct pending *all;

static struct pending *begin(uint64_t id)
{
    struct pending *one = calloc(1, sizeof *one);
    if (one == NULL)
        abort();
    one->id = id;
    one->next = all;
    all = one;
    return one;
}

static struct pending **pending(uint64_t id)
{
    struct pending **one = &all;
    while (*one != NULL && (*one)->id != id)
        one = &(*one)->next;
    return one;
}

static void finish(uint64_t id)
{
    struct pending **one = pending(id);
    struct pending *gone = *one;
    if (gone == NULL)
        return;
    *one = gone->next;
    dwcp_op_free(gone->op);
    free(gone->items.bytes);
    free(gone);
}

static void say(struct text *line)
{
    add(line, "\n", 1);
    fwrite(line->bytes, 1, line->len, stdout);
    fflush(stdout);
    free(line->bytes);
}

static void answer(uint64_t id, const char *json, size_t len)
{
    struct text line = {0};
    put(&line, "{\"id\":%llu,\"ok\":", (unsigned long long)id);
    add(&line, json, len);
    add(&line, "}", 1);
    say(&line);
    finish(id);
}

static void refuse(uint64_t id, const char *code, const char *message, bool retryable)
{
    struct text line = {0};
    put(&line, "{\"id\":%llu,\"error\":{\"code\":\"%s\",\"class\":\"DWCP_ERR_", (unsigned long long)id, code);
    for (const char *c = code; *c != '\0'; c++)
        put(&line, "%c", *c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
    put(&line, "\",\"retryable\":%s,\"message\":", retryable ? "true" : "false");
    quote(&line, message, strlen(message), true);
    add(&line, "}}", 2);
    say(&line);
    finish(id);
}

/* Answers with an error, and frees it. */
static void fail(uint64_t id, dwcp_error *error)
{
    refuse(id, dwcp_error_name(error), dwcp_error_message(error), dwcp_error_retryable(error));
    dwcp_error_free(error);
}

static const char *text(const dwcp_document *request, const char *path)
{
    return dwcp_document_text(request, path);
}

static uint64_t number(const dwcp_document *request, const char *path)
{
    uint64_t value = 0;
    /* What is missing is 0. */
    (void)dwcp_document_u64(request, path, &value, NULL);
    return value;
}

/* Milliseconds; what the protocol writes as text is whole seconds, minutes or milliseconds here. */
static uint64_t millis(const dwcp_document *request, const char *path)
{
    const char *value = text(request, path);
    char *unit = NULL;
    if (value == NULL)
        return 0;
    uint64_t count = strtoull(value, &unit, 10);
    if (strcmp(unit, "ms") == 0)
        return count;
    return count * (strcmp(unit, "m") == 0 ? 60000 : 1000);
}

/* A part of the request as a document of its own, or NULL. */
static dwcp_document *part(const dwcp_document *request, const char *path)
{
    dwcp_document *found = NULL;
    /* What is missing asks for nothing. */
    (void)dwcp_document_part(request, path, &found, NULL);
    return found;
}

struct method {
    const char *name;
    dwcp_request *(*make)(const char *id);
    const char *argument;
    bool gives_nothing;
};

/* Those that take no more than what they are about. */
static const struct method METHODS[] = {
    {"start", dwcp_request_start, "args.id", true},
    {"destroy", dwcp_request_destroy, "args.id", true},
    {"pause", dwcp_request_pause, "args.id", true},
    {"resume", dwcp_request_resume, "args.id", true},
    {"reset", dwcp_request_reset, "args.id", true},
    {"get", dwcp_request_get, "args.id", false},
    {"guest_report", dwcp_request_guest_report, "args.id", false},
    {"verify", dwcp_request_verify, "args.id", false},
    {"list_snapshots", dwcp_request_list_snapshots, "args.id", false},
    {"get_migration_status", dwcp_request_get_migration_status, "args.migration_id", false},
    {"cancel_migration", dwcp_request_cancel_migration, "args.migration_id", false},
    {"delete_snapshot", dwcp_request_delete_snapshot, "args.snapshot_id", true},
};

static dwcp_request *make(const dwcp_document *request, const char *method, bool *gives_nothing)
{
    const char *id = text(request, "args.id");
    dwcp_document *given = NULL;
    dwcp_document *more = NULL;
    dwcp_request *made = NULL;
    bool force = false;
    *gives_nothing = false;
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++) {
        if (strcmp(method, METHODS[i].name) == 0) {
            *gives_nothing = METHODS[i].gives_nothing;
            return METHODS[i].make(text(request, METHODS[i].argument));
        }
    }
    (void)dwcp_document_bool(request, "args.force", &force, NULL);
    if (strcmp(method, "create") == 0) {
        given = part(request, "args.config");
        made = dwcp_request_create(given, NULL);
    } else if (strcmp(method, "stop") == 0) {
        *gives_nothing = true;
        made = dwcp_request_stop(id, force, millis(request, "args.timeout"));
    } else if (strcmp(method, "update") == 0) {
        given = part(request, "args.labels");
        more = part(request, "args.annotations");
        made = dwcp_request_update(id, given, more);
    } else if (strcmp(method, "list") == 0) {
        given = part(request, "args.filters");
        made = dwcp_request_list(given);
    } else if (strcmp(method, "get_metrics") == 0) {
        made = dwcp_request_get_metrics(id, millis(request, "args.duration"));
    } else if (strcmp(method, "migrate") == 0) {
        given = part(request, "args.options");
        made = dwcp_request_migrate(id, text(request, "args.target"), given, NULL);
    } else if (strcmp(method, "plan_migration") == 0) {
        given = part(request, "args.options");
        made = dwcp_request_plan_migration(id, text(request, "args.target"), given);
    } else if (strcmp(method, "list_migrations") == 0) {
        made = dwcp_request_list_migrations();
    } else if (strcmp(method, "resolve_migration") == 0) {
        made = dwcp_request_resolve_migration(text(request, "args.migration_id"), force);
    } else if (strcmp(method, "snapshot") == 0) {
        given = part(request, "args.options");
        made = dwcp_request_snapshot(id, text(request, "args.name"), given, NULL);
    } else if (strcmp(method, "restore_snapshot") == 0) {
        *gives_nothing = true;
        made = dwcp_request_restore_snapshot(id, text(request, "args.snapshot_id"));
    } else if (strcmp(method, "health") == 0) {
        made = dwcp_request_health();
    } else if (strcmp(method, "node") == 0) {
        made = dwcp_request_node();
    }
    dwcp_document_free(given);
    dwcp_document_free(more);
    return made;
}

static dwcp_reply_to here(uint64_t id)
{
    dwcp_reply_to reply_to;
    dwcp_reply_to_init(&reply_to, sizeof reply_to);
    reply_to.cq = cq;
    reply_to.tag = id;
    return reply_to;
}

static void connect_client(uint64_t id, const dwcp_document *request)
{
    dwcp_error *error = NULL;
    dwcp_client_options options;
    dwcp_reply_to reply_to = here(id);
    struct pending *one = begin(id);
    dwcp_client_options_init(&options, sizeof options);
    options.address = text(request, "config.address");
    options.port = (uint16_t)number(request, "config.port");
    options.api_key = text(request, "config.api_key");
    options.ca_pem = text(request, "config.ca_pem");
    (void)dwcp_document_bool(request, "config.tls_enabled", &options.tls_enabled, NULL);
    options.retry_attempts = (uint32_t)number(request, "config.retry_attempts");
    options.connect_timeout_ms = millis(request, "config.connect_timeout");
    options.request_timeout_ms = millis(request, "config.request_timeout");
    options.retry_backoff_ms = millis(request, "config.retry_backoff");
    one->place = find(&clients, text(request, "client"));
    dwcp_client_free(*one->place);
    *one->place = NULL;
    if (dwcp_client_connect_async(&options, &reply_to, &one->op, &error) != DWCP_OK)
        fail(id, error);
}

static void call(uint64_t id, dwcp_client *client, const dwcp_document *request)
{
    dwcp_error *error = NULL;
    dwcp_reply_to reply_to = here(id);
    struct pending *one = begin(id);
    const char *method = text(request, "method");
    dwcp_request *made = make(request, method ? method : "", &one->gives_nothing);
    if (made == NULL) {
        refuse(id, "unsupported", "method", false);
        return;
    }
    if (dwcp_client_call_async(client, made, &reply_to, &one->op, &error) != DWCP_OK)
        fail(id, error);
}

static void open_stream(uint64_t id, dwcp_client *client, const dwcp_document *request)
{
    dwcp_error *error = NULL;
    dwcp_reply_to reply_to = here(id);
    struct pending *one = begin(id);
    const char *kind = text(request, "kind");
    const char *vm = text(request, "args.id");
    dwcp_request *made = NULL;
    if (strcmp(kind, "watch") == 0) {
        made = dwcp_request_watch(vm);
    } else if (strcmp(kind, "watch_all") == 0) {
        dwcp_document *filters = part(request, "args.filters");
        made = dwcp_request_watch_all(filters);
        dwcp_document_free(filters);
    } else if (strcmp(kind, "stream_metrics") == 0) {
        made = dwcp_request_stream_metrics(vm, millis(request, "args.interval"));
    } else if (strcmp(kind, "migration_progress") == 0) {
        made = dwcp_request_migration_progress(text(request, "args.migration_id"));
    } else {
        made = dwcp_request_console(vm);
    }
    one->place = find(&streams, text(request, "stream"));
    *find(&consoles, text(request, "stream")) = strcmp(kind, "console") == 0 ? cq : NULL;
    dwcp_stream_free(*one->place);
    *one->place = NULL;
    if (dwcp_client_subscribe_async(client, made, &reply_to, &one->op, &error) != DWCP_OK)
        fail(id, error);
}

/* Asks for the items that are still wanted. */
static void pull(struct pending *one)
{
    dwcp_error *error = NULL;
    dwcp_reply_to reply_to = here(one->id);
    dwcp_op_free(one->op);
    one->op = NULL;
    if (dwcp_stream_next_async(one->stream, one->wanted, &reply_to, &one->op, &error) != DWCP_OK)
        fail(one->id, error);
}

static void answer_items(struct pending *one, bool ended)
{
    struct text line = {0};
    put(&line, "{\"items\":[");
    add(&line, one->items.bytes, one->items.len);
    put(&line, "],\"ended\":%s}", ended ? "true" : "false");
    answer(one->id, line.bytes, line.len);
    free(line.bytes);
}

static void next(uint64_t id, const dwcp_document *request)
{
    struct pending *one = begin(id);
    const char *name = text(request, "stream");
    one->stream = *find(&streams, name);
    one->is_console = *find(&consoles, name) != NULL;
    one->wanted = (size_t)number(request, "count");
    if (one->stream == NULL || one->wanted == 0)
        answer_items(one, one->stream == NULL);
    else
        pull(one);
}

/* Items that came. */
static void take_items(struct pending *one, const dwcp_completion *completion)
{
    if (completion->status == DWCP_END) {
        answer_items(one, true);
        return;
    }
    dwcp_bytes bytes = dwcp_document_bytes(completion->document);
    if (one->items.len > 0)
        add(&one->items, ",", 1);
    size_t count = 1;
    if (one->is_console) {
        quote(&one->items, (const char *)bytes.data, bytes.len, false);
    } else {
        add(&one->items, (const char *)bytes.data + 1, bytes.len - 2);
        count = dwcp_document_count(completion->document, "");
    }
    one->wanted -= count < one->wanted ? count : one->wanted;
    if (one->wanted == 0)
        answer_items(one, false);
    else
        pull(one);
}

static void complete(const dwcp_completion *completion)
{
    struct pending *one = *pending(completion->tag);
    if (one == NULL) {
        fprintf(stderr, "nobody waits for %llu\n", (unsigned long long)completion->tag);
        exit(4);
    }
    if (completion->error != NULL) {
        fail(one->id, completion->error);
    } else if (one->stream != NULL) {
        take_items(one, completion);
    } else if (one->place != NULL) {
        *one->place = completion->client ? (void *)completion->client : (void *)completion->stream;
        answer(one->id, "{}", 2);
    } else if (one->gives_nothing) {
        answer(one->id, "null", 4);
    } else if (completion->document != NULL) {
        dwcp_bytes bytes = dwcp_document_bytes(completion->document);
        answer(one->id, (const char *)bytes.data, bytes.len);
    } else {
        answer(one->id, "{}", 2);
    }
    dwcp_document_free(completion->document);
}

static void state(uint64_t id, dwcp_client *client)
{
    struct text line = {0};
    put(&line, "{\"connected\":%s,\"authenticated\":%s}",
        dwcp_client_is_connected(client) ? "true" : "false",
        dwcp_client_is_authenticated(client) ? "true" : "false");
    answer(id, line.bytes, line.len);
    free(line.bytes);
}

static void counters(uint64_t id, dwcp_client *client)
{
    dwcp_error *error = NULL;
    dwcp_document *metrics = NULL;
    if (dwcp_client_metrics(client, &metrics, &error) != DWCP_OK) {
        fail(id, error);
        return;
    }
    dwcp_bytes bytes = dwcp_document_bytes(metrics);
    answer(id, (const char *)bytes.data, bytes.len);
    dwcp_document_free(metrics);
}

static void memory(uint64_t id)
{
    char line[64];
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%*u %lu", &pages) != 1)
        exit(5);
    fclose(file);
    int len = snprintf(line, sizeof line, "{\"rss\":%lu}", pages * (unsigned long)sysconf(_SC_PAGESIZE));
    answer(id, line, (size_t)len);
}

static void serve(const dwcp_document *request)
{
    uint64_t id = number(request, "id");
    const char *what = text(request, "do");
    const char *name = text(request, "client");
    dwcp_client *client = name ? *find(&clients, name) : NULL;
    dwcp_error *error = NULL;
    if (strcmp(what, "hello") == 0) {
        struct text line = {0};
        put(&line, "{\"language\":\"c\",\"version\":\"%s\"}", dwcp_version());
        answer(id, line.bytes, line.len);
        free(line.bytes);
    } else if (strcmp(what, "connect") == 0) {
        connect_client(id, request);
    } else if (strcmp(what, "call") == 0) {
        call(id, client, request);
    } else if (strcmp(what, "open") == 0) {
        open_stream(id, client, request);
    } else if (strcmp(what, "next") == 0) {
        next(id, request);
    } else if (strcmp(what, "cancel") == 0) {
        struct pending *one = *pending(number(request, "request"));
        if (one != NULL)
            dwcp_op_cancel(one->op);
        answer(id, "{}", 2);
    } else if (strcmp(what, "close_stream") == 0) {
        dwcp_stream_close(*find(&streams, text(request, "stream")));
        answer(id, "{}", 2);
    } else if (strcmp(what, "write_console") == 0) {
        const char *data = text(request, "data");
        dwcp_bytes bytes = {(const uint8_t *)data, strlen(data)};
        dwcp_reply_to reply_to = here(id);
        dwcp_request *made = dwcp_request_console_write(text(request, "vm"), bytes);
        struct pending *one = begin(id);
        one->gives_nothing = true;
        if (dwcp_client_call_async(client, made, &reply_to, &one->op, &error) != DWCP_OK)
            fail(id, error);
    } else if (strcmp(what, "state") == 0) {
        state(id, client);
    } else if (strcmp(what, "counters") == 0) {
        counters(id, client);
    } else if (strcmp(what, "disconnect") == 0) {
        dwcp_reply_to reply_to = here(id);
        struct pending *one = begin(id);
        if (dwcp_client_close_async(client, &reply_to, &one->op, &error) != DWCP_OK)
            fail(id, error);
    } else if (strcmp(what, "memory") == 0) {
        memory(id);
    } else if (strcmp(what, "exit") == 0) {
        answer(id, "{}", 2);
        exit(0);
    } else {
        refuse(id, "unsupported", what, false);
    }
}

/* Takes the lines that have come; false at the end of the input. */
static bool read_lines(struct text *input)
{
    char bytes[65536];
    ssize_t len = read(STDIN_FILENO, bytes, sizeof bytes);
    if (len <= 0)
        return false;
    add(input, bytes, (size_t)len);
    char *end;
    while ((end = memchr(input->bytes, '\n', input->len)) != NULL) {
        size_t line = (size_t)(end - input->bytes);
        dwcp_bytes json = {(const uint8_t *)input->bytes, line};
        dwcp_document *request = NULL;
        if (dwcp_document_parse(json, &request, NULL) != DWCP_OK)
            exit(3);
        serve(request);
        dwcp_document_free(request);
        input->len -= line + 1;
        memmove(input->bytes, end + 1, input->len);
    }
    return true;
}

int main(void)
{
    struct text input = {0};
    if (dwcp_cq_new(&cq, NULL) != DWCP_OK)
        return 2;
    for (;;) {
        struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {dwcp_cq_fd(cq), POLLIN, 0}};
        dwcp_completion completions[64];
        size_t count = 0;
        if (poll(fds, 2, -1) < 0)
            return 2;
        if (fds[0].revents != 0 && !read_lines(&input))
            return 0;
        if (dwcp_cq_next(cq, 0, completions, 64, &count) != DWCP_OK)
            continue;
        for (size_t i = 0; i < count; i++)
            complete(&completions[i]);
    }
}
