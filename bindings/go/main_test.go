package dwcp_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		ok(t, err)
		return value
	}
}

func wants(t testing.TB, err, want error) *dwcp.Error {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("wanted %v, got %v", want, err)
	}
	var told *dwcp.Error
	if !errors.As(err, &told) {
		t.Fatalf("%T is no *dwcp.Error", err)
	}
	return told
}

// newNode starts a node of played VMs that listens on loopback.
func newNode(t testing.TB, change ...func(*dwcp.NodeConfig)) *dwcp.Node {
	t.Helper()
	config := dwcp.NodeConfig{Name: "node-a", Backend: "sim", Listen: []string{"127.0.0.1:0"}}
	for _, change := range change {
		change(&config)
	}
	node, err := dwcp.StartNode(within(t), config)
	ok(t, err)
	t.Cleanup(func() { ok(t, node.Shutdown(context.Background(), 0)) })
	return node
}

// split gives host and port of a node.
func split(t testing.TB, node *dwcp.Node) (string, int) {
	t.Helper()
	host, port, found := strings.Cut(node.Address(), ":")
	number, err := strconv.Atoi(port)
	if !found || err != nil {
		t.Fatalf("address %q", node.Address())
	}
	return host, number
}

func configFor(t testing.TB, node *dwcp.Node) dwcp.ClientConfig {
	t.Helper()
	config := dwcp.DefaultConfig()
	config.Address, config.Port = split(t, node)
	config.TLSEnabled = false
	config.RetryAttempts = 0
	return config
}

// connected gives a client over a connection.
func connected(t testing.TB, config dwcp.ClientConfig) *dwcp.Client {
	t.Helper()
	client, err := dwcp.NewClient(config)
	ok(t, err)
	ok(t, client.Connect(within(t)))
	t.Cleanup(func() { ok(t, client.Disconnect()) })
	return client
}

// eachWay runs a test in the process of the node, and over a connection.
func eachWay(t *testing.T, test func(t *testing.T, node *dwcp.Node, client *dwcp.Client)) {
	t.Run("in process", func(t *testing.T) {
		node := newNode(t)
		test(t, node, must[*dwcp.Client](t)(node.Client()))
	})
	t.Run("connection", func(t *testing.T) {
		node := newNode(t)
		test(t, node, connected(t, configFor(t, node)))
	})
}

func newVM(t testing.TB, client *dwcp.Client, running bool) *dwcp.VM {
	t.Helper()
	ctx := within(t)
	vm, err := client.VM().Create(ctx, dwcp.VMConfig{Name: "web", Memory: 16 << 20, CPUs: 1})
	ok(t, err)
	if running {
		ok(t, client.VM().Start(ctx, vm.ID))
	}
	return vm
}

func next[T any](t testing.TB, client *dwcp.Client, items <-chan T) T {
	t.Helper()
	select {
	case item, open := <-items:
		if !open {
			t.Fatalf("the stream ended: %v", client.Err(items))
		}
		return item
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	panic("not reached")
}

// ended waits for the end of a stream.
func ended[T any](t testing.TB, items <-chan T) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-items:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the stream did not end")
		}
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	ok(t, err)
	return len(names)
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	ok(t, err)
	return string(text)
}
