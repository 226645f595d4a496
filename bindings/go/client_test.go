package dwcp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

func TestDefaultsAreThoseOfTheGuide(t *testing.T) {
	config := dwcp.DefaultConfig()
	want := dwcp.ClientConfig{
		Port: 9000, TLSEnabled: true, ConnectTimeout: 30 * time.Second, RequestTimeout: time.Minute,
		RetryAttempts: 3, RetryBackoff: time.Second, KeepAlive: true, KeepAlivePeriod: 30 * time.Second,
		MaxStreams: 100, BufferSize: 65536, PoolSize: 1,
	}
	if fmt.Sprintf("%+v", config) != fmt.Sprintf("%+v", want) {
		t.Fatalf("%+v", config)
	}
}

func TestConnectDisconnectAndAgain(t *testing.T) {
	node := newNode(t, func(c *dwcp.NodeConfig) {
		c.APIKeys = []dwcp.NodeKey{{Name: "ops", Key: "operator-key", Role: "operator"}}
	})
	config := configFor(t, node)
	config.APIKey = "operator-key"
	client := must[*dwcp.Client](t)(dwcp.NewClient(config))
	ctx := within(t)
	if client.IsConnected() || client.IsAuthenticated() {
		t.Fatal("connected before Connect")
	}
	_, err := client.VM().Get(ctx, "x")
	wants(t, err, dwcp.ErrNotConnected)
	ok(t, client.Disconnect())
	for round := uint64(1); round <= 2; round++ {
		ok(t, client.Connect(ctx))
		ok(t, client.Connect(ctx))
		if !client.IsConnected() || !client.IsAuthenticated() {
			t.Fatal("not connected after Connect")
		}
		health, err := client.Health(ctx)
		ok(t, err)
		if health.Status != dwcp.HealthHealthy || health.Node != "node-a" {
			t.Fatalf("%+v", health)
		}
		metrics := client.GetMetrics()
		if metrics.ConnectionsTotal != round || metrics.MessagesSent < round || metrics.LastConnected == nil {
			t.Fatalf("%+v", metrics)
		}
		ok(t, client.Disconnect())
		ok(t, client.Disconnect())
		if client.IsConnected() {
			t.Fatal("connected after Disconnect")
		}
		_, err = client.Health(ctx)
		wants(t, err, dwcp.ErrNotConnected)
		if after := client.GetMetrics(); after.MessagesSent < metrics.MessagesSent {
			t.Fatalf("the counters were lost: %+v", after)
		}
	}
}

func TestAWrongConfigIsAnErrorThatNamesTheField(t *testing.T) {
	for field, change := range map[string]func(*dwcp.ClientConfig){
		"Port":           func(c *dwcp.ClientConfig) { c.Port = 70000 },
		"RetryAttempts":  func(c *dwcp.ClientConfig) { c.RetryAttempts = -1 },
		"RequestTimeout": func(c *dwcp.ClientConfig) { c.RequestTimeout = -1 },
		"APIKey":         func(c *dwcp.ClientConfig) { c.APIKey = "a\x00b" },
	} {
		config := dwcp.DefaultConfig()
		change(&config)
		_, err := dwcp.NewClient(config)
		if told := wants(t, err, dwcp.ErrInvalidConfig); told.Message[:len(field)] != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestWhatCannotBeReachedIsAConnectionError(t *testing.T) {
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	config := dwcp.DefaultConfig()
	config.Address, config.Port = "127.0.0.1", listener.Addr().(*net.TCPAddr).Port
	config.TLSEnabled, config.RetryAttempts = false, 0
	ok(t, listener.Close())
	client := must[*dwcp.Client](t)(dwcp.NewClient(config))
	err := client.Connect(within(t))
	told := wants(t, err, dwcp.ErrNotConnected)
	var connection *dwcp.ConnectionError
	if !errors.As(err, &connection) || !told.Retryable || told.Operation != "connect" {
		t.Fatalf("%T %+v", err, told)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	// Nobody answers here.
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer listener.Close()
	config := dwcp.DefaultConfig()
	config.Address, config.Port = "127.0.0.1", listener.Addr().(*net.TCPAddr).Port
	config.TLSEnabled = false
	client := must[*dwcp.Client](t)(dwcp.NewClient(config))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := client.Connect(ctx)
	wants(t, err, dwcp.ErrTimeout)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestAWrongKeyAndAWeakRole(t *testing.T) {
	node := newNode(t, func(c *dwcp.NodeConfig) {
		c.APIKeys = []dwcp.NodeKey{{Key: "viewer-key", Role: "viewer"}}
	})
	config := configFor(t, node)
	config.APIKey = "wrong"
	client := must[*dwcp.Client](t)(dwcp.NewClient(config))
	wants(t, client.Connect(within(t)), dwcp.ErrAuthFailed)
	config.APIKey = "viewer-key"
	client = connected(t, config)
	_, err := client.VM().Create(within(t), dwcp.VMConfig{Name: "x"})
	if told := wants(t, err, dwcp.ErrPermissionDenied); told.Retryable || told.Operation != "create" {
		t.Fatalf("%+v", told)
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *dwcp.Node, client *dwcp.Client) {
		vm := newVM(t, client, false)
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		var calls sync.WaitGroup
		errs := make(chan error, 500)
		for i := 0; i < 500; i++ {
			calls.Add(1)
			go func(i int) {
				defer calls.Done()
				for j := 0; j < 4; j++ {
					got, err := client.VM().Get(ctx, vm.ID)
					if err == nil && got.ID != vm.ID {
						err = fmt.Errorf("another VM: %+v", got)
					}
					if err != nil {
						errs <- err
						return
					}
				}
			}(i)
		}
		calls.Wait()
		close(errs)
		for err := range errs {
			t.Fatal(err)
		}
	})
}

func TestACancelledContext(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *dwcp.Node, client *dwcp.Client) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("changed my mind")
		cancel(cause)
		_, err := client.VM().Get(ctx, "x")
		told := wants(t, err, dwcp.ErrCancelled)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || told.Operation != "get" {
			t.Fatalf("%+v", told)
		}
	})
}

func TestCallsInFlightWhenTheClientDisconnects(t *testing.T) {
	node := newNode(t)
	client := connected(t, configFor(t, node))
	vm := newVM(t, client, true)
	ctx := within(t)
	var calls sync.WaitGroup
	ends := make(chan error, 100)
	started := make(chan struct{}, 100)
	for i := 0; i < 100; i++ {
		calls.Add(1)
		go func() {
			defer calls.Done()
			for first := true; ; first = false {
				_, err := client.VM().Get(ctx, vm.ID)
				if first {
					started <- struct{}{}
				}
				if err != nil {
					ends <- err
					return
				}
			}
		}()
	}
	for i := 0; i < 100; i++ {
		<-started
	}
	ok(t, client.Disconnect())
	calls.Wait()
	close(ends)
	for err := range ends {
		wants(t, err, dwcp.ErrNotConnected)
	}
}

func TestACallThatWaitsEndsWithItsContext(t *testing.T) {
	// A node behind a relay that stops passing on: calls wait.
	node := newNode(t)
	relay := newRelay(t, node.Address())
	config := configFor(t, node)
	config.Port = relay.port()
	client := connected(t, config)
	relay.hold()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	_, err := client.VM().List(ctx, nil)
	wants(t, err, dwcp.ErrTimeout)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	ctx, take := context.WithCancel(context.Background())
	answers := make(chan error)
	relay.forget()
	go func() {
		_, err := client.Health(ctx)
		answers <- err
	}()
	relay.waitForBytes(t)
	take()
	wants(t, <-answers, dwcp.ErrCancelled)
	// And one whose client goes away.
	relay.forget()
	go func() {
		_, err := client.Health(context.Background())
		answers <- err
	}()
	relay.waitForBytes(t)
	ok(t, client.Disconnect())
	wants(t, <-answers, dwcp.ErrNotConnected)
}

func TestTheRequestTimeoutIsATimeout(t *testing.T) {
	node := newNode(t)
	relay := newRelay(t, node.Address())
	config := configFor(t, node)
	config.Port, config.RequestTimeout = relay.port(), 50*time.Millisecond
	client := connected(t, config)
	relay.hold()
	_, err := client.Health(context.Background())
	wants(t, err, dwcp.ErrTimeout)
}
