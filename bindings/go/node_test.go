package dwcp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

func TestNodeOptionsThatAreWrong(t *testing.T) {
	for text, config := range map[string]dwcp.NodeConfig{
		"name":      {Backend: "sim"},
		"backend":   {Name: "a", Backend: "xen"},
		"role":      {Name: "a", Backend: "sim", APIKeys: []dwcp.NodeKey{{Key: "kings-key", Role: "king"}}},
		"tls":       {Name: "a", Backend: "sim", TLS: &dwcp.NodeTLS{Key: "k.pem"}},
		"EventRing": {Name: "a", Backend: "sim", EventRing: -1},
	} {
		_, err := dwcp.StartNode(within(t), config)
		if told := wants(t, err, dwcp.ErrInvalidConfig); !strings.Contains(told.Message, text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, err := dwcp.StartNode(within(t), dwcp.NodeConfig{Name: "a", Backend: "sim", Listen: []string{"0.0.0.0:0"}})
	if err == nil {
		t.Fatal("it listens for everybody")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = dwcp.StartNode(ctx, dwcp.NodeConfig{Name: "a", Backend: "sim"})
	wants(t, err, dwcp.ErrCancelled)
}

func TestANodeItsKeysAndItsEnd(t *testing.T) {
	node, err := dwcp.StartNode(within(t), dwcp.NodeConfig{
		Name: "node-a", Backend: "sim", Listen: []string{"127.0.0.1:0"}, DataDir: t.TempDir(),
		APIKeys: []dwcp.NodeKey{{Name: "ops", Key: "operator-key", Role: "operator"}},
		Labels:  map[string]string{"zone": "1"}, Limits: dwcp.NodeLimits{MaxVMs: 1},
		Peers: map[string]dwcp.NodePeer{"node-b": {Address: "127.0.0.1:1", Credential: "node-to-node-key"}},
	})
	ok(t, err)
	if node.Name() != "node-a" || len(node.UUID()) != 36 || node.Address() == "" {
		t.Fatal(node.Name(), node.UUID(), node.Address())
	}
	ok(t, node.AddPeer("node-c", "127.0.0.1:2", ""))
	client := must[*dwcp.Client](t)(node.Client())
	info, err := client.Node(within(t))
	ok(t, err)
	if info.Limits.MaxVMs != 1 || info.Labels["zone"] != "1" || len(info.Peers) != 2 || info.Backend != "sim" ||
		info.UUID != node.UUID() {
		t.Fatalf("%+v", info)
	}
	vm := newVM(t, client, false)
	_, err = client.VM().Create(within(t), dwcp.VMConfig{Name: "second"})
	wants(t, err, dwcp.ErrResourceLimit)

	ok(t, node.Keys().Add("look", "viewer-key", "viewer"))
	wants(t, node.Keys().Add("bad", "another-key", "king"), dwcp.ErrInvalidConfig)
	list, err := node.Keys().List()
	ok(t, err)
	if len(list) != 2 || list[0].Key != "" || list[0].Name == "" || list[0].Role == "" {
		t.Fatalf("%+v", list)
	}
	config := configFor(t, node)
	config.APIKey = "viewer-key"
	viewer := connected(t, config)
	wants(t, viewer.VM().Start(within(t), vm.ID), dwcp.ErrPermissionDenied)
	ok(t, node.Keys().Remove("look"))
	if err := node.Keys().Remove("look"); err == nil {
		t.Fatal("removed twice")
	}
	ok(t, node.Drain())
	wants(t, client.VM().Start(within(t), vm.ID), dwcp.ErrUnavailable)
	ok(t, node.Shutdown(within(t), time.Second))
	if _, err := client.VM().List(within(t), nil); err == nil {
		t.Fatal("it answers after its end")
	}
}

// tlsNode gives a node with TLS, and its authority.
func tlsNode(t *testing.T) (*dwcp.Node, string) {
	dir := filepath.Join(t.TempDir(), "tls")
	node := newNode(t, func(c *dwcp.NodeConfig) {
		c.TLS = &dwcp.NodeTLS{Dir: dir}
		c.APIKeys = []dwcp.NodeKey{{Key: "operator-key", Role: "operator"}}
	})
	return node, filepath.Join(dir, "ca.pem")
}

func TestTLSWithAnAuthority(t *testing.T) {
	node, ca := tlsNode(t)
	config := configFor(t, node)
	config.TLSEnabled, config.APIKey = true, "operator-key"
	for _, change := range []func(*dwcp.ClientConfig){
		func(c *dwcp.ClientConfig) { c.CAFile = ca },
		func(c *dwcp.ClientConfig) { c.CAPEM = read(t, ca) },
	} {
		config := config
		change(&config)
		if !connected(t, config).IsAuthenticated() {
			t.Fatal("not authenticated")
		}
	}
	client := must[*dwcp.Client](t)(dwcp.NewClient(config))
	if err := client.Connect(within(t)); err == nil {
		t.Fatal("an authority that nobody knows was believed")
	}
}

func TestTLSConfig(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	node, ca := tlsNode(t)
	relay := newRelay(t, node.Address())
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(read(t, ca))) {
		t.Fatal("no certificate")
	}
	config := configFor(t, node)
	config.Port, config.RetryAttempts, config.RetryBackoff = relay.port(), 5, 5*time.Millisecond
	config.TLSEnabled, config.APIKey = true, "operator-key"
	config.TLSConfig = &tls.Config{RootCAs: pool}
	client := connected(t, config)
	vm := newVM(t, client, true)
	dirs := must[[]string](t)(filepath.Glob(filepath.Join(temp, "dwcp-*")))
	if len(dirs) != 1 {
		t.Fatal(dirs)
	}
	if info, err := os.Stat(dirs[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatal(info, err)
	}
	// A connection that is lost is made anew, through TLS again.
	relay.cut()
	if _, err := client.VM().Get(within(t), vm.ID); err != nil {
		t.Fatal(err)
	}
	if made := client.GetMetrics().ConnectionsTotal; made != 2 {
		t.Fatalf("%d connections", made)
	}
	metrics := must[<-chan dwcp.VMMetrics](t)(client.VM().StreamMetrics(within(t), vm.ID, 10*time.Millisecond))
	next(t, client, metrics)
	ok(t, client.Disconnect())
	ended(t, metrics)
	if _, err := os.Stat(dirs[0]); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the socket is left", err)
	}

	config.TLSConfig = &tls.Config{}
	client = must[*dwcp.Client](t)(dwcp.NewClient(config))
	err := client.Connect(within(t))
	wants(t, err, dwcp.ErrNotConnected)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Fatalf("%v", err)
	}
	config.CAFile = ca
	_, err = dwcp.NewClient(config)
	wants(t, err, dwcp.ErrInvalidConfig)
	left := must[[]string](t)(filepath.Glob(filepath.Join(temp, "dwcp-*")))
	if len(left) != 0 {
		t.Fatal(left)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	node := newNode(t)
	vm := newVM(t, must[*dwcp.Client](t)(node.Client()), true)
	config := configFor(t, node)
	round := func() {
		client := must[*dwcp.Client](t)(dwcp.NewClient(config))
		ctx, cancel := context.WithCancel(within(t))
		ok(t, client.Connect(ctx))
		events := must[<-chan dwcp.VMEvent](t)(client.VM().Watch(ctx, vm.ID))
		next(t, client, events)
		metrics := must[<-chan dwcp.VMMetrics](t)(client.VM().StreamMetrics(ctx, vm.ID, 10*time.Millisecond))
		next(t, client, metrics)
		_, err := client.VM().Get(ctx, "x")
		wants(t, err, dwcp.ErrVMNotFound)
		cancel()
		ended(t, events)
		ended(t, metrics)
		ok(t, client.Disconnect())
	}
	round()
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	for i := 0; i < 20; i++ {
		round()
	}
	// The node closes its ends, and finalizers run, when they come to it.
	deadline := time.Now().Add(patience)
	for {
		runtime.GC()
		g, f := runtime.NumGoroutine(), descriptors(t)
		if g <= goroutines && f <= files {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines after %d, %d descriptors after %d", g, goroutines, f, files)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
