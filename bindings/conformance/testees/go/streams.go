package main

import (
	"context"
	"io"
	"strings"
	"sync"

	"github.com/novacron/dwcp-sdk-go"
)

// stream is one that the judge opened, of whatever kind.
type stream struct {
	// One next at a time.
	taking sync.Mutex
	// Waits for one item; io.EOF at the end, and nil with nothing when the context has ended.
	take func(ctx context.Context) (any, error)
	// Ends it.
	close func()
}

// ofItems is a stream of a channel.
func ofItems[T any](client *dwcp.Client, items <-chan T, cancel context.CancelFunc) *stream {
	take := func(ctx context.Context) (any, error) {
		select {
		case item, open := <-items:
			if open {
				return item, nil
			}
			if err := client.Err(items); err != nil {
				return nil, err
			}
			return nil, io.EOF
		case <-ctx.Done():
			return nil, &dwcp.Error{Code: dwcp.CodeCancelled, Message: "by the caller"}
		}
	}
	return &stream{take: take, close: cancel}
}

// ofConsole is one of what a console prints, as latin-1 text.
func ofConsole(console *dwcp.Console, cancel context.CancelFunc) *stream {
	take := func(context.Context) (any, error) {
		printed := make([]byte, 64<<10)
		count, err := console.Read(printed)
		if err != nil {
			return nil, err
		}
		var text strings.Builder
		for _, c := range printed[:count] {
			text.WriteRune(rune(c))
		}
		return text.String(), nil
	}
	end := func() {
		// It cannot fail.
		_ = console.Close()
		cancel()
	}
	return &stream{take: take, close: end}
}

func (t *testee) open(client *dwcp.Client, r *request) error {
	ctx, cancel := context.WithCancel(context.Background())
	opened, err := open(ctx, cancel, client, r)
	if err != nil {
		cancel()
		return err
	}
	t.mu.Lock()
	before := t.streams[r.Stream]
	t.streams[r.Stream] = opened
	t.mu.Unlock()
	if before != nil {
		before.close()
	}
	return nil
}

func open(
	ctx context.Context, cancel context.CancelFunc, client *dwcp.Client, r *request,
) (*stream, error) {
	vms := client.VM()
	switch r.Kind {
	case "watch":
		events, err := vms.Watch(ctx, r.Args.ID)
		return ofItems(client, events, cancel), err
	case "watch_all":
		events, err := vms.WatchAll(ctx, r.Args.Filters)
		return ofItems(client, events, cancel), err
	case "stream_metrics":
		interval, err := duration("interval", r.Args.Interval)
		if err != nil {
			return nil, err
		}
		metrics, err := vms.StreamMetrics(ctx, r.Args.ID, interval)
		return ofItems(client, metrics, cancel), err
	case "migration_progress":
		progress, err := vms.MigrationProgress(ctx, r.Args.MigrationID)
		return ofItems(client, progress, cancel), err
	case "console":
		console, err := vms.Console(ctx, r.Args.ID)
		if err != nil {
			return nil, err
		}
		return ofConsole(console, cancel), nil
	}
	return nil, unsupported("kind " + r.Kind)
}

func (t *testee) next(ctx context.Context, r *request) (any, error) {
	t.mu.Lock()
	s := t.streams[r.Stream]
	t.mu.Unlock()
	if s == nil {
		return nil, wrong("stream: no " + r.Stream)
	}
	s.taking.Lock()
	defer s.taking.Unlock()
	items := []any{}
	for len(items) < r.Count {
		item, err := s.take(ctx)
		if err == io.EOF {
			return object{"items": items, "ended": true}, nil
		}
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return object{"items": items, "ended": false}, nil
}

// closeStream ends a stream; one that is waited for ends there.
func (t *testee) closeStream(name string) error {
	t.mu.Lock()
	s := t.streams[name]
	t.mu.Unlock()
	if s == nil {
		return wrong("stream: no " + name)
	}
	s.close()
	return nil
}
