package dwcp

import (
	"context"
	"sync"
	"time"
)

// Client is a client of a node. Any goroutine may use it, several at a time.
type Client struct {
	config ClientConfig
	// Where not nil, the node in this process that it calls directly.
	node *Node

	// Held while the connection is made or ended.
	changing sync.Mutex
	// Guards what follows.
	mu     sync.RWMutex
	native *native
	bridge *bridge
	past   ClientMetrics
	failed failures
}

// NewClient makes a client, which is not connected.
//
// It fails with ErrInvalidConfig for a field that can never work, naming it.
func NewClient(config ClientConfig) (*Client, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	return &Client{config: config}, nil
}

// Connect connects to the node, and returns when the node has accepted the client, or ctx ends, or the
// ConnectTimeout has passed. A client that is connected stays so. After it, a connection that is lost is
// made anew when it is needed.
//
// It fails with ErrNotConnected where the node cannot be reached, ErrAuthFailed where it does not accept the
// credential, and ErrInvalidConfig for a field with a wrong value.
func (c *Client) Connect(ctx context.Context) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	if native, err := c.use("connect\x00"); err == nil && native.isConnected() {
		return nil
	}
	if err := c.end(); err != nil {
		return err
	}
	native, bridge, err := c.dial(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.native, c.bridge = native, bridge
	c.mu.Unlock()
	return nil
}

func (c *Client) dial(ctx context.Context) (*native, *bridge, error) {
	if c.node != nil {
		native, err := c.node.native.client()
		return native, nil, err
	}
	if c.config.TLSConfig == nil {
		native, err := connect(ctx, &c.config)
		return native, nil, err
	}
	bridge, err := newBridge(ctx, &c.config)
	if err != nil {
		return nil, nil, err
	}
	config := c.config
	config.Address, config.TLSEnabled, config.TLSConfig = bridge.address(), false, nil
	native, err := connect(ctx, &config)
	if err != nil {
		bridge.close()
		return nil, nil, err
	}
	return native, bridge, nil
}

// Disconnect ends the connection, and returns when it is closed. Calls that are under way fail with
// ErrNotConnected, and streams end. It waits for a Connect that is under way, which its context ends. It may
// be called again, and Connect connects again.
func (c *Client) Disconnect() error {
	c.changing.Lock()
	defer c.changing.Unlock()
	return c.end()
}

// end ends the connection there is, where changing is held.
func (c *Client) end() error {
	c.mu.Lock()
	native, bridge := c.native, c.bridge
	c.native, c.bridge = nil, nil
	c.mu.Unlock()
	if native == nil {
		return nil
	}
	err := native.close()
	if bridge != nil {
		bridge.close()
	}
	var last ClientMetrics
	if counted := native.metrics(decodeSeldom(&last)); err == nil {
		err = counted
	}
	c.mu.Lock()
	c.past = c.past.plus(last)
	c.mu.Unlock()
	return err
}

// use gives the client of the library for a call.
func (c *Client) use(name method) (*native, error) {
	c.mu.RLock()
	native := c.native
	c.mu.RUnlock()
	if native == nil {
		return nil, notConnected(name)
	}
	return native, nil
}

// IsConnected says whether requests can reach the node.
func (c *Client) IsConnected() bool {
	native, err := c.use("")
	return err == nil && native.isConnected()
}

// IsAuthenticated says whether the node has accepted the client.
func (c *Client) IsAuthenticated() bool {
	native, err := c.use("")
	return err == nil && native.isAuthenticated()
}

// VM gives the calls about VMs.
func (c *Client) VM() *VMClient { return &VMClient{c} }

// ClientMetrics are what a client has sent and received since it was made.
type ClientMetrics struct {
	// Connections made.
	ConnectionsTotal uint64 `json:"connections_total"`
	// Messages sent.
	MessagesSent uint64 `json:"messages_sent"`
	// Messages received.
	MessagesReceived uint64 `json:"messages_received"`
	// Bytes sent.
	BytesSent uint64 `json:"bytes_sent"`
	// Bytes received.
	BytesReceived uint64 `json:"bytes_received"`
	// Requests that ended with an error, and connections that failed.
	ErrorsTotal uint64 `json:"errors_total"`
	// When the last connection was made, or nil.
	LastConnected *time.Time `json:"last_connected,omitempty"`
}

func (m ClientMetrics) plus(later ClientMetrics) ClientMetrics {
	m.ConnectionsTotal += later.ConnectionsTotal
	m.MessagesSent += later.MessagesSent
	m.MessagesReceived += later.MessagesReceived
	m.BytesSent += later.BytesSent
	m.BytesReceived += later.BytesReceived
	m.ErrorsTotal += later.ErrorsTotal
	if later.LastConnected != nil {
		m.LastConnected = later.LastConnected
	}
	return m
}

// GetMetrics returns the counters. A client in the process of its node counts no messages.
func (c *Client) GetMetrics() ClientMetrics {
	c.mu.RLock()
	native, past := c.native, c.past
	c.mu.RUnlock()
	var now ClientMetrics
	if native == nil || native.metrics(decodeSeldom(&now)) != nil {
		// It can only fail in a process that is a fork of this one, and there it counted nothing.
		return past
	}
	return past.plus(now)
}

// HealthStatus says whether a node can be relied on.
type HealthStatus string

// What it can be.
const (
	// It cannot be told.
	HealthUnknown HealthStatus = "unknown"
	// All is well.
	HealthHealthy HealthStatus = "healthy"
	// It works, but something is wrong.
	HealthDegraded HealthStatus = "degraded"
	// It takes and starts no VMs.
	HealthDraining HealthStatus = "draining"
)

// Health says how a node is.
type Health struct {
	// Whether it can be relied on.
	Status HealthStatus `json:"status"`
	// Why not, for people.
	Message string `json:"message"`
	// Name of the node.
	Node string `json:"node"`
	// Version of its software.
	Version string `json:"version"`
	// How long it has been running, in microseconds.
	UptimeUs uint64 `json:"uptime_us"`
	// VMs it has.
	VMs uint64 `json:"vms"`
	// Those that run.
	VMsRunning uint64 `json:"vms_running"`
	// Migrations under way.
	Migrations uint64 `json:"migrations"`
	// When this was so.
	Timestamp time.Time `json:"timestamp"`
}

// Health asks how the node is.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	return ask[Health](ctx, c, "health\x00", nil)
}

// Node asks what the node is: its limits, what it can do, its peers.
func (c *Client) Node(ctx context.Context) (*NodeInfo, error) {
	return ask[NodeInfo](ctx, c, "node\x00", nil)
}

// ask calls a method whose answer is read by its tags.
func ask[T any](ctx context.Context, c *Client, name method, f fields) (*T, error) {
	var answer T
	if err := c.call(ctx, name, f, decodeSeldom(&answer)); err != nil {
		return nil, err
	}
	return &answer, nil
}

func (c *Client) call(ctx context.Context, name method, f fields, read func([]byte) error) error {
	native, err := c.use(name)
	if err != nil {
		return err
	}
	return native.call(ctx, name, f, read)
}
