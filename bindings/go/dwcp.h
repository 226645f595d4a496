/* SPDX-License-Identifier: Apache-2.0
 *
 * Run virtual machines on KVM and move them, live, between hosts: the C interface of dwcp.
 *
 * For all functions:
 *
 * - A status of DWCP_OK (0) is success. Else nothing was done, and where `error` is not NULL, *error is set to
 *   an error that the caller frees; it is set to NULL on success. Results are written only on success.
 * - Text is UTF-8 and ends with a NUL. Arguments are read during the call only.
 * - Handles are freed once, each with its own function, and not while another thread uses them. NULL where
 *   a handle or an `out` is needed is DWCP_ERR_INVALID_CONFIG.
 * - What is started ends exactly once, also when it is cancelled, when its client is freed, and when there is
 *   a defect in the library, which is DWCP_ERR_INTERNAL.
 * - After fork() the child may use the library with handles of its own; those of its parent are
 *   DWCP_ERR_FORKED, and may be freed.
 * - The library starts threads, which block all signals, and changes nothing else of the process. It is not to
 *   be unloaded.
 */

#ifndef DWCP_H
#define DWCP_H

/* Made from ffi/src by its build script: change it there. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Waits without an end, where a time in milliseconds is asked for.
#define DWCP_NO_TIMEOUT UINT64_MAX

// It is done.
#define DWCP_OK 0

// There is nothing more: the end of a stream, or of a queue that was shut down. Not an error.
#define DWCP_END -1

// It is under way, and its end will be told: see `dwcp_reply_to.ended`. Not an error.
#define DWCP_PENDING -2

// There is no connection, or it was lost; whether the request was executed is not known.
#define DWCP_ERR_CONNECTION 1

// The operating system refused a call on this side.
#define DWCP_ERR_IO 2

// A value could not be turned into JSON, or JSON into a value.
#define DWCP_ERR_SERIALIZATION 3

// What fits nowhere else, such as a code that only newer nodes know.
#define DWCP_ERR_OTHER 4

// The handle was made before fork(), by the parent process.
#define DWCP_ERR_FORKED 5

// The credential is missing, unknown or expired.
#define DWCP_ERR_AUTH 4096

// The peer sent what the protocol does not allow.
#define DWCP_ERR_INVALID_MESSAGE 4097

// No VM has this id.
#define DWCP_ERR_VM_NOT_FOUND 4098

// A named limit is reached.
#define DWCP_ERR_RESOURCE_LIMIT 4099

// A migration cannot start, or ended without moving the VM.
#define DWCP_ERR_MIGRATION 4100

// The VM or job is in a state in which this cannot be done.
#define DWCP_ERR_INVALID_OPERATION 4101

// The time allowed has passed.
#define DWCP_ERR_TIMEOUT 4102

// A snapshot cannot be taken, read or restored.
#define DWCP_ERR_SNAPSHOT 4103

// An argument or a field has a value that is never allowed.
#define DWCP_ERR_INVALID_CONFIG 4104

// The node cannot do what a field asks for.
#define DWCP_ERR_UNSUPPORTED 4105

// The name or id is taken.
#define DWCP_ERR_ALREADY_EXISTS 4106

// Something other than a VM is not known.
#define DWCP_ERR_NOT_FOUND 4107

// The node cannot take the request now; it was not executed.
#define DWCP_ERR_UNAVAILABLE 4108

// The caller took the request back.
#define DWCP_ERR_CANCELLED 4109

// The credential is good, but its role does not allow this.
#define DWCP_ERR_PERMISSION_DENIED 4110

// A defect of the library, or a failure of the node's host.
#define DWCP_ERR_INTERNAL 4351

// The generation of this header. A library of another generation must not be used with it: compare with
// `dwcp_abi_version()` at start.
#define DWCP_ABI_VERSION 1

// A client of a node. Any thread may use it, several at a time.
typedef struct dwcp_client dwcp_client;

// A queue of what has ended. Any thread may use it; whoever takes a completion owns it. It holds what was
// started with it and has not been taken.
typedef struct dwcp_cq dwcp_cq;

// A VM, its config, figures, an event: whatever the API takes and gives that has fields. It is JSON, as
// on the wire: `dwcp_document_bytes()` gives it as it is, and the functions below read and write it field
// by field. What a console prints is the one thing that is not JSON, and has bytes only.
//
// A field is named by a path: "state", "config.memory", "network.interfaces.0.name". "" is the whole
// document. Pairs, such as labels, have names that may hold dots: see `dwcp_document_set_pair()`.
//
// Any thread may use it; while one writes, what others were given of it is gone.
typedef struct dwcp_document dwcp_document;

// An error. Whoever receives it frees it, with `dwcp_error_free()`. It never changes: any thread may
// read it.
typedef struct dwcp_error dwcp_error;

// A node: it runs VMs in this process. Any thread may use it.
typedef struct dwcp_node dwcp_node;

// An operation that is under way, by which it can be cancelled. Any thread may use it.
typedef struct dwcp_op dwcp_op;

// A request that has not been sent. `dwcp_client_call()` and its like take it, whatever comes of it, and
// free it; one that is not used is freed with `dwcp_request_free()`.
//
// The functions that make one return NULL only where there is no memory: what is wrong with an argument
// is the error of the call. Documents are read, not taken. One thread at a time.
typedef struct dwcp_request dwcp_request;

// A stream. Any thread may use it, one at a time may wait for items.
typedef struct dwcp_stream dwcp_stream;

// How a client reaches its node. Fill it with `dwcp_client_options_init()`, then set what is to differ.
// NULL and 0 ask for the default, but for `retry_attempts`.
typedef struct dwcp_client_options {
    // `sizeof(dwcp_client_options)` as the caller's header has it.
    size_t struct_size;
    // Host name or address, or "unix:/path". NULL: from `DWCP_ADDRESS`.
    const char *address;
    // Port. 0: from `DWCP_PORT`, or else 9000.
    uint16_t port;
    // Whether the connection is encrypted. Default true.
    bool tls_enabled;
    // Whether an idle connection is kept alive. Default true.
    bool keep_alive;
    // How often a request that failed is repeated, where that can do no harm. Default 3.
    uint32_t retry_attempts;
    // The credential. NULL: from `DWCP_API_KEY`, or else none.
    const char *api_key;
    // File with the certificates (PEM) that the node's is checked against. NULL: from `DWCP_CA_FILE`, or
    // else the platform's.
    const char *ca_file;
    // The same, as text.
    const char *ca_pem;
    // File with this client's certificate (PEM), and that with its key.
    const char *client_cert;
    // See `client_cert`.
    const char *client_key;
    // Name the node's certificate has to carry. NULL: that in `address`.
    const char *server_name;
    // Longest time for connecting, in milliseconds. Default 30 s.
    uint64_t connect_timeout_ms;
    // Longest time for a request with all its tries. Default 60 s.
    uint64_t request_timeout_ms;
    // Pause before the first repetition. Default 1 s.
    uint64_t retry_backoff_ms;
    // Silence after which a connection is kept alive. Default 30 s.
    uint64_t keep_alive_period_ms;
    // Most streams open at once. Default 100.
    uint32_t max_streams;
    // Most connections. Default 1.
    uint32_t pool_size;
    // What one read takes at most, in bytes. Default 64 KiB.
    size_t buffer_size;
} dwcp_client_options;

// How something ended. Whoever receives it owns what the pointers lead to, and frees each of them; those
// that the operation does not give are NULL.
typedef struct dwcp_completion {
    // What the caller named it by.
    uint64_t tag;
    // `DWCP_OK`, one of `DWCP_ERR_*`, or for a stream `DWCP_END`.
    int32_t status;
    // What went wrong, where something did.
    struct dwcp_error *error;
    // What a call or a stream gave.
    struct dwcp_document *document;
    // What `dwcp_client_subscribe_async()` gave.
    struct dwcp_stream *stream;
    // What `dwcp_client_connect_async()` gave.
    struct dwcp_client *client;
    // What `dwcp_node_start_async()` gave.
    struct dwcp_node *node;
} dwcp_completion;

// Called with the end of an operation, once, on a thread of the library. It owns what the completion leads
// to, though not the completion. It must not wait for the library: a blocking call is
// `DWCP_ERR_INVALID_OPERATION` there. It must not throw or jump out.
typedef void (*dwcp_callback)(void *user_data, const struct dwcp_completion *completion);

// Where the end of an operation is told: to a callback, or to a queue. Fill it with
// `dwcp_reply_to_init()` and set one of the two.
typedef struct dwcp_reply_to {
    // `sizeof(dwcp_reply_to)` as the caller's header has it.
    size_t struct_size;
    // The queue, or NULL.
    const struct dwcp_cq *cq;
    // What the operation is called in its completion.
    uint64_t tag;
    // The callback, or NULL.
    dwcp_callback callback;
    // What the callback is given.
    void *user_data;
    // Where not NULL: an operation that has nothing to wait for ends here, during the call that starts it,
    // and is told to nobody else; `*op` is NULL then. Of one that waits, the status here is `DWCP_PENDING`,
    // and its end is told as above. Written where the call returns `DWCP_OK`.
    struct dwcp_completion *ended;
} dwcp_reply_to;

// Borrowed bytes. The library reads them during the call only; those that it gives are valid until what
// they belong to is changed or freed.
typedef struct dwcp_bytes {
    // The first of them; may be NULL where `len` is 0.
    const uint8_t *data;
    // How many there are.
    size_t len;
} dwcp_bytes;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Sets the size and the defaults.
void dwcp_client_options_init(struct dwcp_client_options *options, size_t struct_size);

// Connects to a node.
int32_t dwcp_client_connect(const struct dwcp_client_options *options,
                            struct dwcp_client **out,
                            struct dwcp_error **error);

// The same without waiting: the completion has the client.
int32_t dwcp_client_connect_async(const struct dwcp_client_options *options,
                                  const struct dwcp_reply_to *reply_to,
                                  struct dwcp_op **op,
                                  struct dwcp_error **error);

// Asks the node, waits for the answer at most so long (`DWCP_NO_TIMEOUT`: as the options of the client
// say), and gives it. Takes the request, whatever comes of it. `out` may be NULL where the answer does not
// matter.
int32_t dwcp_client_call(const struct dwcp_client *client,
                         struct dwcp_request *request,
                         uint64_t timeout_ms,
                         struct dwcp_document **out,
                         struct dwcp_error **error);

// The same without waiting: the completion has the answer as its document.
int32_t dwcp_client_call_async(const struct dwcp_client *client,
                               struct dwcp_request *request,
                               const struct dwcp_reply_to *reply_to,
                               struct dwcp_op **op,
                               struct dwcp_error **error);

// Opens a stream. Takes the request, whatever comes of it.
int32_t dwcp_client_subscribe(const struct dwcp_client *client,
                              struct dwcp_request *request,
                              uint64_t timeout_ms,
                              struct dwcp_stream **out,
                              struct dwcp_error **error);

// The same without waiting: the completion has the stream.
int32_t dwcp_client_subscribe_async(const struct dwcp_client *client,
                                    struct dwcp_request *request,
                                    const struct dwcp_reply_to *reply_to,
                                    struct dwcp_op **op,
                                    struct dwcp_error **error);

// Whether requests can reach the node.
bool dwcp_client_is_connected(const struct dwcp_client *client);

// Whether the node has accepted the client.
bool dwcp_client_is_authenticated(const struct dwcp_client *client);

// What it has sent and received since it was made. Gives `ClientMetrics`.
int32_t dwcp_client_metrics(const struct dwcp_client *client,
                            struct dwcp_document **out,
                            struct dwcp_error **error);

// Ends the connection. What is under way ends with `DWCP_ERR_CONNECTION`.
int32_t dwcp_client_close(const struct dwcp_client *client,
                          uint64_t timeout_ms,
                          struct dwcp_error **error);

// The same without waiting.
int32_t dwcp_client_close_async(const struct dwcp_client *client,
                                const struct dwcp_reply_to *reply_to,
                                struct dwcp_op **op,
                                struct dwcp_error **error);

// Frees it; NULL is allowed. What is under way keeps what it needs, and ends once.
void dwcp_client_free(struct dwcp_client *client);

// An empty queue.
int32_t dwcp_cq_new(struct dwcp_cq **out, struct dwcp_error **error);

// Takes up to `max` completions in the order in which they ended, and says in `count` how many; waits for
// the first at most so long. `DWCP_OK` with at least one, `DWCP_ERR_TIMEOUT` without an error object,
// `DWCP_END` when the queue was shut down and is empty.
int32_t dwcp_cq_next(const struct dwcp_cq *cq,
                     uint64_t timeout_ms,
                     struct dwcp_completion *out,
                     size_t max,
                     size_t *count);

// A descriptor that is readable while something can be taken, and once the queue was shut down: for
// epoll and event loops. It may be so a little longer; then `dwcp_cq_next()` with no time says
// `DWCP_ERR_TIMEOUT`. It belongs to the queue: neither read nor close it. -1 for NULL.
int32_t dwcp_cq_fd(const struct dwcp_cq *cq);

// Wakes all who wait, now and later: `dwcp_cq_next()` says `DWCP_END` once it is empty.
void dwcp_cq_shutdown(const struct dwcp_cq *cq);

// Frees it, and what was not taken; NULL is allowed. Nobody may be waiting. What is under way goes on, and
// its end is nobody's.
void dwcp_cq_free(struct dwcp_cq *cq);

// An empty document, to be filled and handed to a request; `dwcp_document_free()` frees it.
struct dwcp_document *dwcp_document_new(void);

// A document from JSON.
int32_t dwcp_document_parse(struct dwcp_bytes json,
                            struct dwcp_document **out,
                            struct dwcp_error **error);

// Frees it; NULL is allowed.
void dwcp_document_free(struct dwcp_document *document);

// The document as bytes: JSON, or what a console printed. Empty for NULL.
struct dwcp_bytes dwcp_document_bytes(const struct dwcp_document *document);

// The text of a field, or NULL where it has none. Valid until the document is changed or freed.
const char *dwcp_document_text(const struct dwcp_document *document, const char *path);

// The text that a pair has in the map at `path`, such as a label, or NULL.
const char *dwcp_document_pair(const struct dwcp_document *document,
                               const char *path,
                               const char *name);

// A whole number that is not negative.
int32_t dwcp_document_u64(const struct dwcp_document *document,
                          const char *path,
                          uint64_t *out,
                          struct dwcp_error **error);

// A whole number.
int32_t dwcp_document_i64(const struct dwcp_document *document,
                          const char *path,
                          int64_t *out,
                          struct dwcp_error **error);

// Any number.
int32_t dwcp_document_f64(const struct dwcp_document *document,
                          const char *path,
                          double *out,
                          struct dwcp_error **error);

// True or false.
int32_t dwcp_document_bool(const struct dwcp_document *document,
                           const char *path,
                           bool *out,
                           struct dwcp_error **error);

// A part of a document, such as an item of a list, as a document of its own.
int32_t dwcp_document_part(const struct dwcp_document *document,
                           const char *path,
                           struct dwcp_document **out,
                           struct dwcp_error **error);

// How many items a list has, or pairs a map; 0 where there is neither.
size_t dwcp_document_count(const struct dwcp_document *document, const char *path);

// Sets a field to text. The item after the last one of a list adds one: "dns.0", then "dns.1".
int32_t dwcp_document_set_text(const struct dwcp_document *document,
                               const char *path,
                               const char *value,
                               struct dwcp_error **error);

// Sets a field to a whole number that is not negative.
int32_t dwcp_document_set_u64(const struct dwcp_document *document,
                              const char *path,
                              uint64_t value,
                              struct dwcp_error **error);

// Sets a field to a whole number.
int32_t dwcp_document_set_i64(const struct dwcp_document *document,
                              const char *path,
                              int64_t value,
                              struct dwcp_error **error);

// Sets a field to a number, which is not infinite.
int32_t dwcp_document_set_f64(const struct dwcp_document *document,
                              const char *path,
                              double value,
                              struct dwcp_error **error);

// Sets a field to true or false.
int32_t dwcp_document_set_bool(const struct dwcp_document *document,
                               const char *path,
                               bool value,
                               struct dwcp_error **error);

// Sets a pair in the map at `path`, such as a label: "labels", "env", "production".
int32_t dwcp_document_set_pair(const struct dwcp_document *document,
                               const char *path,
                               const char *name,
                               const char *value,
                               struct dwcp_error **error);

// What kind of error it is, one of `DWCP_ERR_*`; `DWCP_OK` for NULL. Newer libraries may have more: one
// that is not known is best treated as `DWCP_ERR_INTERNAL`.
int32_t dwcp_error_code(const struct dwcp_error *error);

// The same as a word, such as "vm_not_found". Valid until the error is freed; never NULL.
const char *dwcp_error_name(const struct dwcp_error *error);

// What happened, for people. Valid until the error is freed; never NULL.
const char *dwcp_error_message(const struct dwcp_error *error);

// Whether the same request may succeed later.
bool dwcp_error_retryable(const struct dwcp_error *error);

// The method that failed, or NULL where it was none. Valid until the error is freed.
const char *dwcp_error_operation(const struct dwcp_error *error);

// The id of the VM, migration or snapshot that it concerns, or NULL. Valid until the error is freed.
const char *dwcp_error_concerns(const struct dwcp_error *error);

// Frees it; NULL is allowed.
void dwcp_error_free(struct dwcp_error *error);

// Starts a node. The options are a document with `name`, and as far as they are to differ from the
// defaults: `backend` ("kvm", "sim"), `data_dir`, `disk_dir`, `listen` (a list of "address:port" and
// "unix:/path"), `api_keys` (a list of `name`, `key`, `role`), `tls` (`dir`, or `certificate`, `key` and
// `authority`), `insecure`, `peers` (name to address, or to `address` and `credential`), `labels`, `limits`
// (`max_vms`, `max_memory`, `max_cpus`, `max_streams`, `max_connections`, `max_inflight`,
// `max_migrations_out`, `max_migrations_in`), `default_image`, `event_ring`, `peer_timeout` (such as "10s").
int32_t dwcp_node_start(const struct dwcp_document *options,
                        struct dwcp_node **out,
                        struct dwcp_error **error);

// The same without waiting: the completion has the node.
int32_t dwcp_node_start_async(const struct dwcp_document *options,
                              const struct dwcp_reply_to *reply_to,
                              struct dwcp_op **op,
                              struct dwcp_error **error);

// A client that calls the node directly, without a connection.
int32_t dwcp_node_client(const struct dwcp_node *node,
                         struct dwcp_client **out,
                         struct dwcp_error **error);

// Its name. Valid until the node is freed; NULL for NULL.
const char *dwcp_node_name(const struct dwcp_node *node);

// Its UUID. Valid until the node is freed; NULL for NULL.
const char *dwcp_node_uuid(const struct dwcp_node *node);

// Where its first listener is, such as "127.0.0.1:9000", or NULL for a node without one. Valid until the
// node is freed.
const char *dwcp_node_address(const struct dwcp_node *node);

// Adds a peer, to which VMs can be moved, or gives it another address. `credential`, which may be NULL, is
// the key of role `node` by which the peer knows this node.
int32_t dwcp_node_add_peer(const struct dwcp_node *node,
                           const char *name,
                           const char *address,
                           const char *credential,
                           struct dwcp_error **error);

// Takes and starts no VMs from now on. There is no way back.
int32_t dwcp_node_drain(const struct dwcp_node *node, struct dwcp_error **error);

// Names and roles of its keys. Gives a list of `name` and `role`.
int32_t dwcp_node_keys(const struct dwcp_node *node,
                       struct dwcp_document **out,
                       struct dwcp_error **error);

// Adds a key with a role: "viewer", "operator", "admin" or "node".
int32_t dwcp_node_add_key(const struct dwcp_node *node,
                          const char *name,
                          const char *key,
                          const char *role,
                          uint64_t timeout_ms,
                          struct dwcp_error **error);

// Removes a key that was added.
int32_t dwcp_node_remove_key(const struct dwcp_node *node,
                             const char *name,
                             uint64_t timeout_ms,
                             struct dwcp_error **error);

// Ends the node: its guests are asked to stop and have so long, then they are ended by force.
int32_t dwcp_node_shutdown(const struct dwcp_node *node,
                           uint64_t timeout_ms,
                           struct dwcp_error **error);

// The same without waiting.
int32_t dwcp_node_shutdown_async(const struct dwcp_node *node,
                                 uint64_t timeout_ms,
                                 const struct dwcp_reply_to *reply_to,
                                 struct dwcp_op **op,
                                 struct dwcp_error **error);

// Frees it; NULL is allowed. A node that was not shut down ends at once, and its VMs with it.
void dwcp_node_free(struct dwcp_node *node);

// Sets the size and clears the rest.
void dwcp_reply_to_init(struct dwcp_reply_to *reply_to, size_t struct_size);

// Asks for the end of an operation. It still ends once, as `DWCP_ERR_CANCELLED` or as it would have where
// that was faster. May be repeated.
void dwcp_op_cancel(const struct dwcp_op *op);

// Frees it; NULL is allowed. The operation goes on.
void dwcp_op_free(struct dwcp_op *op);

// Any method by its name, with its fields as a JSON object: what the constructors below do, for layers
// over this one.
struct dwcp_request *dwcp_request_new(const char *method,
                                      struct dwcp_bytes fields);

// The same for a stream.
struct dwcp_request *dwcp_request_new_stream(const char *method, struct dwcp_bytes fields);

// Frees it; NULL is allowed.
void dwcp_request_free(struct dwcp_request *request);

// Makes a VM of `config` (a `VMConfig`), stopped. The same `key`, unless NULL, gives the same VM for ten
// minutes. Gives the VM.
struct dwcp_request *dwcp_request_create(const struct dwcp_document *config,
                                         const char *key);

// Starts a VM; done when its vCPUs run.
struct dwcp_request *dwcp_request_start(const char *vm_id);

// Stops a VM: at once with `force`, else its guest is asked and has so long (0 for 30 s), or the call ends
// with `DWCP_ERR_TIMEOUT` and it runs on.
struct dwcp_request *dwcp_request_stop(const char *vm_id,
                                       bool force,
                                       uint64_t timeout_ms);

// Removes a VM that is stopped or failed, with its disks.
struct dwcp_request *dwcp_request_destroy(const char *vm_id);

// Holds the vCPUs of a VM that runs.
struct dwcp_request *dwcp_request_pause(const char *vm_id);

// Lets them run again.
struct dwcp_request *dwcp_request_resume(const char *vm_id);

// Starts the guest anew at once, as a reset button does.
struct dwcp_request *dwcp_request_reset(const char *vm_id);

// Replaces the labels, the annotations, or both; NULL keeps them. Gives the VM.
struct dwcp_request *dwcp_request_update(const char *vm_id,
                                         const struct dwcp_document *labels,
                                         const struct dwcp_document *annotations);

// What a VM is and does. Gives the VM.
struct dwcp_request *dwcp_request_get(const char *vm_id);

// The VMs that match `filters`, pairs of text; NULL for all. Gives a list of VMs.
struct dwcp_request *dwcp_request_list(const struct dwcp_document *filters);

// The figures of a VM, means taken over the time before now; 0 for five minutes. Gives `VMMetrics`.
struct dwcp_request *dwcp_request_get_metrics(const char *vm_id, uint64_t window_ms);

// What the built-in guest says of itself.
struct dwcp_request *dwcp_request_guest_report(const char *vm_id);

// Has the built-in guest check all its memory. Gives its report.
struct dwcp_request *dwcp_request_verify(const char *vm_id);

// Types on the console of a VM, at most 64 KiB at once. One client types at a time: the first that does while it
// has a stream of the console, until it has ended that; others fail with `invalid_operation`, naming it.
struct dwcp_request *dwcp_request_console_write(const char *vm_id,
                                                struct dwcp_bytes data);

// Begins to move a VM to the node of that name, as `options` (`MigrationOptions`, or NULL) say. The same
// `key`, unless NULL, begins it once. Gives a `MigrationStatus`.
struct dwcp_request *dwcp_request_migrate(const char *vm_id,
                                          const char *target_node,
                                          const struct dwcp_document *options,
                                          const char *key);

// What moving a VM would be like.
struct dwcp_request *dwcp_request_plan_migration(const char *vm_id,
                                                 const char *target_node,
                                                 const struct dwcp_document *options);

// How a migration goes, or went. Gives a `MigrationStatus`.
struct dwcp_request *dwcp_request_get_migration_status(const char *migration_id);

// Ends a migration; the VM stays. Gives a `MigrationStatus`.
struct dwcp_request *dwcp_request_cancel_migration(const char *migration_id);

// The migrations that the node knows of. Gives a list of `MigrationStatus`.
struct dwcp_request *dwcp_request_list_migrations(void);

// Finds out who has the VM of a migration that lost its peer; with `force` takes it although the peer does
// not answer. Gives a `MigrationStatus`.
struct dwcp_request *dwcp_request_resolve_migration(const char *migration_id,
                                                    bool force);

// Takes a snapshot, as `options` (`SnapshotOptions`, or NULL) say. Gives the `Snapshot`.
struct dwcp_request *dwcp_request_snapshot(const char *vm_id,
                                           const char *name,
                                           const struct dwcp_document *options,
                                           const char *key);

// The snapshots of a VM, oldest first. Gives a list of `Snapshot`.
struct dwcp_request *dwcp_request_list_snapshots(const char *vm_id);

// Makes a VM what it was when the snapshot was taken.
struct dwcp_request *dwcp_request_restore_snapshot(const char *vm_id, const char *snapshot_id);

// Removes a snapshot.
struct dwcp_request *dwcp_request_delete_snapshot(const char *snapshot_id);

// Brings the image in a folder of the node's own host into its store, under `name`, or with NULL under the
// name that its `image.toml` gives it. Needs the role admin. Gives the `Image`.
struct dwcp_request *dwcp_request_import_image(const char *path,
                                               const char *name);

// The images in the node's store, by name; the built-in guest is not among them. Gives a list of `Image`.
struct dwcp_request *dwcp_request_list_images(void);

// Removes an image that no VM names from the node's store. Needs the role admin.
struct dwcp_request *dwcp_request_remove_image(const char *name);

// Whether the node can be relied on. Gives a `Health`.
struct dwcp_request *dwcp_request_health(void);

// What the node is. Gives a `NodeInfo`.
struct dwcp_request *dwcp_request_node(void);

// A stream of what happens to a VM: its present state first. Gives `VMEvent`s.
struct dwcp_request *dwcp_request_watch(const char *vm_id);

// The same of all VMs that match `filters`; NULL for all.
struct dwcp_request *dwcp_request_watch_all(const struct dwcp_document *filters);

// A stream of the figures of a VM; 0 for every second. Gives `VMMetrics`.
struct dwcp_request *dwcp_request_stream_metrics(const char *vm_id, uint64_t interval_ms);

// A stream of how a migration goes, until it ends. Gives `MigrationStatus`.
struct dwcp_request *dwcp_request_migration_progress(const char *migration_id);

// A stream of what a VM prints on its console: bytes.
struct dwcp_request *dwcp_request_console(const char *vm_id);

// Waits for the next item at most so long. `DWCP_OK` with the item, `DWCP_END` at the end,
// `DWCP_ERR_TIMEOUT` when none has come: the stream goes on, and nothing is lost.
int32_t dwcp_stream_next(const struct dwcp_stream *stream,
                         uint64_t timeout_ms,
                         struct dwcp_document **out,
                         struct dwcp_error **error);

// Waits for the next item without blocking, and takes with it what else is there, up to `max` items. The
// completion has a list of them as its document (of a console, their bytes one after the other), or the
// status `DWCP_END`.
int32_t dwcp_stream_next_async(const struct dwcp_stream *stream,
                               size_t max,
                               const struct dwcp_reply_to *reply_to,
                               struct dwcp_op **op,
                               struct dwcp_error **error);

// Ends it, at the node too. Whoever waits for an item gets `DWCP_END`.
void dwcp_stream_close(const struct dwcp_stream *stream);

// Ends it and frees it; NULL is allowed.
void dwcp_stream_free(struct dwcp_stream *stream);

// The generation of the header that the library was made for.
uint32_t dwcp_abi_version(void);

// The version of the library, such as "3.0.0". Not to be freed.
const char *dwcp_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DWCP_H */
