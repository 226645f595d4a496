package dwcp

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// failuresMax is how many streams a client remembers the errors of.
const failuresMax = 1024

// failures are the errors of the streams that ended by one, the oldest first.
type failures struct {
	mu     sync.Mutex
	errs   map[any]error
	oldest []any
}

func (f *failures) add(stream any, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.errs == nil {
		f.errs = make(map[any]error)
	}
	if len(f.oldest) == failuresMax {
		delete(f.errs, f.oldest[0])
		f.oldest = append(f.oldest[:0], f.oldest[1:]...)
	}
	f.errs[stream] = err
	f.oldest = append(f.oldest, stream)
}

// Err returns the error that ended a stream, given the channel of it: nil while it is open, and where it
// ended by itself or because its context did. The errors of the last 1,024 streams that failed are kept.
func (c *Client) Err(stream any) error {
	c.failed.mu.Lock()
	defer c.failed.mu.Unlock()
	return c.failed.errs[stream]
}

// Err is that of the client.
func (v *VMClient) Err(stream any) error { return v.client.Err(stream) }

// open opens a stream and fills a channel with its items, until the stream ends or ctx does. What nobody
// takes waits in the channel, then in the library, then at the node, each of which has a limit.
func open[T any](
	ctx context.Context, c *Client, name method, f fields, item func(*reader, *T),
) (<-chan T, error) {
	native, err := c.use(name)
	if err != nil {
		return nil, err
	}
	stream, err := native.subscribe(ctx, name, f)
	if err != nil {
		return nil, err
	}
	items := make(chan T, itemsMax)
	go func() {
		err := pump(ctx, stream, items, item)
		if err != nil && err != io.EOF && ctx.Err() == nil {
			c.failed.add((<-chan T)(items), err)
		}
		stream.free()
		close(items)
	}()
	return items, nil
}

// errDone ends a pump whose context has ended.
var errDone = errors.New("the context has ended")

func pump[T any](ctx context.Context, stream *nativeStream, items chan<- T, item func(*reader, *T)) error {
	list := make([]T, 0, itemsMax)
	for {
		list = list[:0]
		err := stream.next(ctx, func(json []byte) error {
			return decode(json, func(r *reader) {
				for first := true; r.item(&first); {
					var zero T
					list = append(list, zero)
					item(r, &list[len(list)-1])
				}
			})
		})
		if err != nil {
			return err
		}
		for i := range list {
			select {
			case items <- list[i]:
			case <-ctx.Done():
				return errDone
			}
		}
	}
}

// Watch returns a stream of what happens to a VM: its present state first, then events in the order of Seq.
// The channel is closed when ctx ends or the stream does; see Err. A connection that is lost is mended
// underneath. Whoever stops reading has to cancel ctx.
func (v *VMClient) Watch(ctx context.Context, id string) (<-chan VMEvent, error) {
	return open(ctx, v.client, "watch\x00", ofVM(id), (*reader).event)
}

// WatchAll is Watch for all VMs that match the filters, or all with nil.
func (v *VMClient) WatchAll(ctx context.Context, filters map[string]string) (<-chan VMEvent, error) {
	f, err := fields(nil).json("filters", filters)
	if err != nil {
		return nil, err
	}
	return open(ctx, v.client, "watch\x00", f, (*reader).event)
}

// StreamMetrics returns a stream of the figures of a VM, one each interval; 0 for every second. The channel
// is closed as that of Watch.
func (v *VMClient) StreamMetrics(
	ctx context.Context, id string, interval time.Duration,
) (<-chan VMMetrics, error) {
	f := ofVM(id)
	if interval != 0 {
		f = f.text("interval", interval.String())
	}
	return open(ctx, v.client, "stream_metrics\x00", f, (*reader).metrics)
}

// MigrationProgress returns a stream of how a migration goes, until it ends. The channel is closed as that
// of Watch; its last item is how it ended.
func (v *VMClient) MigrationProgress(ctx context.Context, migrationID string) (<-chan MigrationStatus, error) {
	return open(ctx, v.client, "migration_progress\x00", ofMigration(migrationID), (*reader).migration)
}

// migration reads a status by its tags: there are few of them.
func (r *reader) migration(status *MigrationStatus) {
	r.skipSpace()
	start := r.at
	r.skip(0)
	if !r.bad && decodeSeldom(status)(r.json[start:r.at]) != nil {
		r.fail()
	}
}

// Console is the console of a VM: reading gives what it prints from now on, writing types on it. One
// goroutine may read while another writes. One client types at a time: the first that does while it has the
// console open, until it has closed it; others get an error with ErrInvalidOperation that names it.
type Console struct {
	vm     *VMClient
	id     string
	ctx    context.Context
	stream *nativeStream
	unread []byte
	stop   func() bool
}

// Console opens the console of a VM that runs. It is usable until it is closed or ctx ends.
func (v *VMClient) Console(ctx context.Context, id string) (*Console, error) {
	native, err := v.client.use("console\x00")
	if err != nil {
		return nil, err
	}
	stream, err := native.subscribe(ctx, "console\x00", ofVM(id))
	if err != nil {
		return nil, err
	}
	console := &Console{vm: v, id: id, ctx: ctx, stream: stream}
	console.stop = context.AfterFunc(ctx, stream.close)
	return console, nil
}

// Read waits until the VM prints something. It returns io.EOF at the end: when the VM has stopped, or the
// console was closed. When ctx has ended it says so.
func (c *Console) Read(into []byte) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	for len(c.unread) == 0 {
		err := c.stream.next(context.Background(), func(printed []byte) error {
			c.unread = append(c.unread[:0], printed...)
			return nil
		})
		if err == io.EOF && c.ctx.Err() != nil {
			return 0, cancelled(c.ctx, "console\x00")
		}
		if err != nil {
			return 0, err
		}
	}
	count := copy(into, c.unread)
	c.unread = c.unread[count:]
	return count, nil
}

// Write types on the console; returns when the bytes are queued.
func (c *Console) Write(data []byte) (int, error) {
	return c.vm.writeConsole(c.ctx, c.id, data)
}

// Close ends it; whoever reads gets io.EOF.
func (c *Console) Close() error {
	c.stop()
	c.stream.close()
	return nil
}
