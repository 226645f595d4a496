package dwcp

/*
#include <stdlib.h>
#include "dwcp.h"

// What an operation came to, with a view of the document: one call instead of two.
typedef struct {
	dwcp_completion end;
	dwcp_bytes json;
	dwcp_op *op;
} dwcp_go_end;

static int32_t dwcp_go_started(int32_t status, dwcp_go_end *out) {
	if (status == DWCP_OK) {
		out->json = dwcp_document_bytes(out->end.document);
	}
	return status;
}

static void dwcp_go_reply_to(dwcp_reply_to *reply_to, const dwcp_cq *cq, uint64_t tag, dwcp_go_end *out) {
	dwcp_reply_to_init(reply_to, sizeof *reply_to);
	reply_to->cq = cq;
	reply_to->tag = tag;
	reply_to->ended = &out->end;
	out->op = NULL;
}

static int32_t dwcp_go_call(const dwcp_client *client, const char *method, const uint8_t *fields, size_t len,
		bool stream, const dwcp_cq *cq, uint64_t tag, bool op, dwcp_go_end *out, dwcp_error **error) {
	dwcp_reply_to reply_to;
	dwcp_bytes bytes = { fields, len };
	dwcp_go_reply_to(&reply_to, cq, tag, out);
	if (stream) {
		return dwcp_go_started(dwcp_client_subscribe_async(client, dwcp_request_new_stream(method, bytes),
			&reply_to, op ? &out->op : NULL, error), out);
	}
	return dwcp_go_started(dwcp_client_call_async(client, dwcp_request_new(method, bytes),
		&reply_to, op ? &out->op : NULL, error), out);
}

static int32_t dwcp_go_next(const dwcp_stream *stream, size_t max, const dwcp_cq *cq, uint64_t tag,
		dwcp_go_end *out, dwcp_error **error) {
	dwcp_reply_to reply_to;
	dwcp_go_reply_to(&reply_to, cq, tag, out);
	return dwcp_go_started(dwcp_stream_next_async(stream, max, &reply_to, NULL, error), out);
}

static int32_t dwcp_go_connect(const dwcp_client_options *options, const dwcp_cq *cq, uint64_t tag,
		dwcp_go_end *out, dwcp_error **error) {
	dwcp_reply_to reply_to;
	dwcp_go_reply_to(&reply_to, cq, tag, out);
	return dwcp_client_connect_async(options, &reply_to, &out->op, error);
}

static int32_t dwcp_go_close(const dwcp_client *client, const dwcp_cq *cq, uint64_t tag,
		dwcp_go_end *out, dwcp_error **error) {
	dwcp_reply_to reply_to;
	dwcp_go_reply_to(&reply_to, cq, tag, out);
	return dwcp_client_close_async(client, &reply_to, NULL, error);
}

static int32_t dwcp_go_node_start(const uint8_t *options, size_t len, const dwcp_cq *cq, uint64_t tag,
		dwcp_go_end *out, dwcp_error **error) {
	dwcp_reply_to reply_to;
	dwcp_document *document;
	dwcp_bytes bytes = { options, len };
	dwcp_go_reply_to(&reply_to, cq, tag, out);
	int32_t status = dwcp_document_parse(bytes, &document, error);
	if (status != DWCP_OK) {
		return status;
	}
	status = dwcp_node_start_async(document, &reply_to, &out->op, error);
	dwcp_document_free(document);
	return status;
}

static int32_t dwcp_go_node_shutdown(const dwcp_node *node, uint64_t timeout_ms, const dwcp_cq *cq, uint64_t tag,
		dwcp_go_end *out, dwcp_error **error) {
	dwcp_reply_to reply_to;
	dwcp_go_reply_to(&reply_to, cq, tag, out);
	return dwcp_node_shutdown_async(node, timeout_ms, &reply_to, &out->op, error);
}

static size_t dwcp_go_cq_next(const dwcp_cq *cq, dwcp_completion *ends, dwcp_bytes *views, size_t max) {
	size_t count = 0;
	dwcp_cq_next(cq, DWCP_NO_TIMEOUT, ends, max, &count);
	for (size_t i = 0; i < count; i++) {
		views[i] = dwcp_document_bytes(ends[i].document);
	}
	return count;
}
*/
import "C"

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
	"unsafe"
)

func init() {
	if version := uint32(C.dwcp_abi_version()); version != C.DWCP_ABI_VERSION {
		panic(fmt.Sprintf("dwcp: the header is of generation %d, the library of %d", C.DWCP_ABI_VERSION, version))
	}
}

// Version is the version of the library, such as "3.0.0".
func Version() string { return C.GoString(C.dwcp_version()) }

// batch is how many completions are taken at once.
const batch = 256

// itemsMax is how many items of a stream are taken at once; as many wait in its channel.
const itemsMax = 128

// result is what an operation came to. Whoever takes it frees what the pointers lead to.
type result C.dwcp_go_end

// pending is one operation, from its start to its end. It is used again for another one once that end was
// taken; there is always one end.
type pending struct {
	// What the call that starts it writes: its end, or that it is under way.
	now result
	// What the queue brought, once ended says so.
	later result
	ended chan struct{}
	fail  *C.dwcp_error
}

var pendings = sync.Pool{New: func() any { return &pending{ended: make(chan struct{}, 1)} }}

// queue is the completion queue of the process, with who waits for what.
type queue struct {
	cq      *C.dwcp_cq
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*pending
}

// ends gives the one queue. Its goroutine, and with it a thread, waits for ever.
var ends = sync.OnceValue(func() *queue {
	q := &queue{waiting: make(map[uint64]*pending)}
	var fail *C.dwcp_error
	if C.dwcp_cq_new(&q.cq, &fail) != C.DWCP_OK {
		panic(takeError(fail))
	}
	go q.drain()
	return q
})

func (q *queue) drain() {
	// In C memory, which the library may write to while this goroutine waits.
	completions := (*[batch]C.dwcp_completion)(C.calloc(batch, C.size_t(unsafe.Sizeof(C.dwcp_completion{}))))
	views := (*[batch]C.dwcp_bytes)(C.calloc(batch, C.size_t(unsafe.Sizeof(C.dwcp_bytes{}))))
	var who [batch]*pending
	for {
		count := int(C.dwcp_go_cq_next(q.cq, &completions[0], &views[0], batch))
		q.mu.Lock()
		for i := range who[:count] {
			tag := uint64(completions[i].tag)
			who[i] = q.waiting[tag]
			delete(q.waiting, tag)
		}
		q.mu.Unlock()
		for i, p := range who[:count] {
			p.later.end, p.later.json = completions[i], views[i]
			who[i] = nil
			p.ended <- struct{}{}
		}
	}
}

// register names an operation that is about to be started.
func (q *queue) register(p *pending) C.uint64_t {
	q.mu.Lock()
	q.last++
	tag := q.last
	q.waiting[tag] = p
	q.mu.Unlock()
	return C.uint64_t(tag)
}

// wait returns what a started operation came to, or its error. An operation that had nothing to wait for has
// ended already. When ctx ends before it does, the library is asked to end it, by stop or by the operation's
// handle; it does so at once, or has just ended it otherwise.
func (q *queue) wait(ctx context.Context, p *pending, tag C.uint64_t, status C.int32_t, stop func()) (*result, error) {
	if status != C.DWCP_OK || p.now.end.status != C.DWCP_PENDING {
		q.mu.Lock()
		delete(q.waiting, uint64(tag))
		q.mu.Unlock()
		if status != C.DWCP_OK {
			return nil, takeError(p.fail).typed()
		}
		return p.now.check(nil)
	}
	if ctx.Done() == nil {
		<-p.ended
	} else {
		select {
		case <-p.ended:
		case <-ctx.Done():
			if stop != nil {
				stop()
			} else {
				C.dwcp_op_cancel(p.now.op)
			}
			<-p.ended
		}
	}
	if p.now.op != nil {
		C.dwcp_op_free(p.now.op)
	}
	return p.later.check(ctx)
}

// check turns the error of a result into one of Go. That something was cancelled is told as what ctx says.
func (r *result) check(ctx context.Context) (*result, error) {
	if r.end.error == nil {
		return r, nil
	}
	err := takeError(r.end.error)
	if ctx != nil && ctx.Err() != nil && err.Code == CodeCancelled {
		err.becauseOf(ctx)
	}
	return nil, err.typed()
}

// bytes is the document of a result, until it is freed.
func (r *result) bytes() []byte {
	return unsafe.Slice((*byte)(r.json.data), int(r.json.len))
}

// takeError makes an error of Go of one of C, and frees that.
func takeError(fail *C.dwcp_error) *Error {
	defer C.dwcp_error_free(fail)
	return &Error{
		Code:      ErrorCode(C.GoString(C.dwcp_error_name(fail))),
		Message:   C.GoString(C.dwcp_error_message(fail)),
		Retryable: bool(C.dwcp_error_retryable(fail)),
		Operation: C.GoString(C.dwcp_error_operation(fail)),
		Concerns:  C.GoString(C.dwcp_error_concerns(fail)),
	}
}

// native is a client of the library.
type native struct{ ptr *C.dwcp_client }

func newNative(ptr *C.dwcp_client) *native {
	n := &native{ptr}
	runtime.SetFinalizer(n, func(n *native) { C.dwcp_client_free(n.ptr) })
	return n
}

// chars are valid as long as the name, which is a constant.
func (m method) chars() *C.char { return (*C.char)(unsafe.Pointer(unsafe.StringData(string(m)))) }

// connect makes a client that is connected.
func connect(ctx context.Context, config *ClientConfig) (*native, error) {
	if ctx.Err() != nil {
		return nil, cancelled(ctx, "connect\x00")
	}
	options := newOptions(config)
	defer options.free()
	q, p := ends(), pendings.Get().(*pending)
	defer pendings.Put(p)
	tag := q.register(p)
	status := C.dwcp_go_connect(options.c, q.cq, tag, (*C.dwcp_go_end)(&p.now), &p.fail)
	r, err := q.wait(ctx, p, tag, status, nil)
	if err != nil {
		return nil, err
	}
	return newNative(r.end.client), nil
}

// startNode starts a node with the options as JSON.
func startNode(ctx context.Context, options []byte) (*nativeNode, error) {
	if ctx.Err() != nil {
		return nil, cancelled(ctx, "node_start\x00")
	}
	q, p := ends(), pendings.Get().(*pending)
	defer pendings.Put(p)
	tag := q.register(p)
	status := C.dwcp_go_node_start((*C.uint8_t)(unsafe.SliceData(options)), C.size_t(len(options)),
		q.cq, tag, (*C.dwcp_go_end)(&p.now), &p.fail)
	r, err := q.wait(ctx, p, tag, status, nil)
	if err != nil {
		return nil, err
	}
	return newNativeNode(r.end.node), nil
}

func (n *nativeNode) shutdown(ctx context.Context, timeout time.Duration) error {
	q, p := ends(), pendings.Get().(*pending)
	defer pendings.Put(p)
	tag := q.register(p)
	status := C.dwcp_go_node_shutdown(n.ptr, millis(timeout), q.cq, tag, (*C.dwcp_go_end)(&p.now), &p.fail)
	_, err := q.wait(ctx, p, tag, status, nil)
	runtime.KeepAlive(n)
	return err
}

// call asks for something and hands the answer's JSON to read, which may be nil and must not keep it.
func (n *native) call(ctx context.Context, name method, f fields, read func([]byte) error) error {
	if ctx.Err() != nil {
		return cancelled(ctx, name)
	}
	q, p := ends(), pendings.Get().(*pending)
	defer pendings.Put(p)
	r, err := n.ask(ctx, q, p, name, f, false)
	if err != nil {
		return err
	}
	defer C.dwcp_document_free(r.end.document)
	if read == nil {
		return nil
	}
	return read(r.bytes())
}

// subscribe opens a stream.
func (n *native) subscribe(ctx context.Context, name method, f fields) (*nativeStream, error) {
	if ctx.Err() != nil {
		return nil, cancelled(ctx, name)
	}
	q, p := ends(), pendings.Get().(*pending)
	defer pendings.Put(p)
	r, err := n.ask(ctx, q, p, name, f, true)
	if err != nil {
		return nil, err
	}
	return newNativeStream(r.end.stream), nil
}

func (n *native) ask(ctx context.Context, q *queue, p *pending, name method, f fields, stream bool) (*result, error) {
	object := f.end()
	tag := q.register(p)
	status := C.dwcp_go_call(n.ptr, name.chars(), (*C.uint8_t)(unsafe.SliceData(object)), C.size_t(len(object)),
		C.bool(stream), q.cq, tag, C.bool(ctx.Done() != nil), (*C.dwcp_go_end)(&p.now), &p.fail)
	r, err := q.wait(ctx, p, tag, status, nil)
	runtime.KeepAlive(n)
	return r, err
}

// close ends the connection, and with it what is under way.
func (n *native) close() error {
	q, p := ends(), pendings.Get().(*pending)
	defer pendings.Put(p)
	tag := q.register(p)
	status := C.dwcp_go_close(n.ptr, q.cq, tag, (*C.dwcp_go_end)(&p.now), &p.fail)
	_, err := q.wait(context.Background(), p, tag, status, nil)
	runtime.KeepAlive(n)
	return err
}

func (n *native) isConnected() bool {
	defer runtime.KeepAlive(n)
	return bool(C.dwcp_client_is_connected(n.ptr))
}

func (n *native) isAuthenticated() bool {
	defer runtime.KeepAlive(n)
	return bool(C.dwcp_client_is_authenticated(n.ptr))
}

func (n *native) metrics(read func([]byte) error) error {
	defer runtime.KeepAlive(n)
	var r result
	var fail *C.dwcp_error
	if C.dwcp_client_metrics(n.ptr, &r.end.document, &fail) != C.DWCP_OK {
		return takeError(fail).typed()
	}
	defer C.dwcp_document_free(r.end.document)
	r.json = C.dwcp_document_bytes(r.end.document)
	return read(r.bytes())
}

// nativeStream is a stream of the library. One goroutine at a time asks for items.
type nativeStream struct{ ptr *C.dwcp_stream }

func newNativeStream(ptr *C.dwcp_stream) *nativeStream {
	s := &nativeStream{ptr}
	runtime.SetFinalizer(s, (*nativeStream).free)
	return s
}

// next waits for items and hands them to read: a JSON list of up to itemsMax of them, or what a console
// printed. It returns io.EOF at the end, also where that came because ctx ended.
func (s *nativeStream) next(ctx context.Context, read func([]byte) error) error {
	q, p := ends(), pendings.Get().(*pending)
	defer pendings.Put(p)
	tag := q.register(p)
	status := C.dwcp_go_next(s.ptr, itemsMax, q.cq, tag, (*C.dwcp_go_end)(&p.now), &p.fail)
	r, err := q.wait(ctx, p, tag, status, s.close)
	runtime.KeepAlive(s)
	if err != nil {
		return err
	}
	if r.end.status == C.DWCP_END {
		return io.EOF
	}
	defer C.dwcp_document_free(r.end.document)
	return read(r.bytes())
}

// close ends it, at the node too; whoever waits for items gets the end.
func (s *nativeStream) close() {
	C.dwcp_stream_close(s.ptr)
	runtime.KeepAlive(s)
}

// free ends it and frees it. Nobody may use it meanwhile or afterwards.
func (s *nativeStream) free() {
	runtime.SetFinalizer(s, nil)
	C.dwcp_stream_free(s.ptr)
}
