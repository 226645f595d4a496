package dwcp

import (
	"context"
	"encoding/json"
	"time"
)

// NodeConfig says what a node is started with. Only Name is required; a zero value asks for nothing.
type NodeConfig struct {
	// Name, by which its peers know it: 1 to 128 of A–Z a–z 0–9 . _ -
	Name string
	// "kvm", the default, or "sim": VMs that are played, for tests.
	Backend string
	// Where VMs, snapshots and keys are kept; empty for nowhere: they end with the node.
	DataDir string
	// Where the disks of its VMs are; empty for disks/ below DataDir.
	DiskDir string
	// Where it listens: "address:port", with port 0 for any, and "unix:/path"; empty for nowhere.
	Listen []string
	// The keys by which clients and peers are let in. Without any it serves Unix sockets and loopback as
	// admin, and refuses to listen elsewhere.
	APIKeys []NodeKey
	// With what certificate it serves and dials its peers; nil for none.
	TLS *NodeTLS
	// Allows to listen beyond loopback without TLS.
	Insecure bool
	// The nodes that VMs can be moved to, by name.
	Peers map[string]NodePeer
	// Labels of the node.
	Labels map[string]string
	// What it allows; zero values for the defaults.
	Limits NodeLimits
	// The image of VMs that name none.
	DefaultImage string
	// How many events are kept for watches that lost their connection.
	EventRing int
	// How long a peer may be silent in a migration. Default 10 s.
	PeerTimeout time.Duration
}

// NodeKey is a key of a node.
type NodeKey struct {
	// What it is called; empty for a name that the node finds.
	Name string `json:"name,omitempty"`
	// The secret. Empty in what NodeKeys.List returns.
	Key string `json:"key,omitempty"`
	// What it allows: "viewer", "operator", "admin", or "node" for peers.
	Role string `json:"role"`
}

// NodeTLS is a certificate: Dir, or Certificate and Key with or without Authority. All are files, in PEM.
type NodeTLS struct {
	// A directory, in which what is missing is made.
	Dir string `json:"dir,omitempty"`
	// The node's certificate, and those that lead from it to the authority.
	Certificate string `json:"certificate,omitempty"`
	// Its key.
	Key string `json:"key,omitempty"`
	// What its peers' certificates are checked against.
	Authority string `json:"authority,omitempty"`
}

// NodePeer is another node.
type NodePeer struct {
	// Where it listens.
	Address string `json:"address"`
	// The key of role "node" by which it knows this node; empty for none.
	Credential string `json:"credential,omitempty"`
}

// NodeLimits are what a node allows. In NodeConfig 0 is the default.
type NodeLimits struct {
	// Longest message, in bytes.
	MaxFrame uint64 `json:"max_frame,omitempty"`
	// Streams of one connection.
	MaxStreams uint64 `json:"max_streams,omitempty"`
	// Connections.
	MaxConnections uint64 `json:"max_connections,omitempty"`
	// Requests of one connection that are under way.
	MaxInflight uint64 `json:"max_inflight,omitempty"`
	// Memory of all VMs, in bytes.
	MaxMemory uint64 `json:"max_memory,omitempty"`
	// vCPUs of all VMs.
	MaxCPUs uint64 `json:"max_cpus,omitempty"`
	// VMs.
	MaxVMs uint64 `json:"max_vms,omitempty"`
	// Migrations from here that are under way at once.
	MaxMigrationsOut uint64 `json:"max_migrations_out,omitempty"`
	// Migrations to here that are under way at once.
	MaxMigrationsIn uint64 `json:"max_migrations_in,omitempty"`
}

// NodeInfo is what a node is.
type NodeInfo struct {
	// Its name.
	Name string `json:"name"`
	// Its UUID.
	UUID string `json:"uuid"`
	// Version of its software.
	Version string `json:"version"`
	// What runs its VMs: "kvm" or "sim".
	Backend string `json:"backend"`
	// VMs it has.
	VMs uint64 `json:"vms"`
	// Memory of the host, in bytes.
	MemoryTotal uint64 `json:"memory_total"`
	// Of which VMs can have, in bytes.
	MemoryAvailable uint64 `json:"memory_available"`
	// CPUs of the host.
	CPUs int `json:"cpus"`
	// What it allows.
	Limits NodeLimits `json:"limits"`
	// What it can do beyond the necessary, by the name of the thing, such as "tpm".
	Capabilities map[string]bool `json:"capabilities"`
	// Its labels.
	Labels map[string]string `json:"labels"`
	// Names of its peers.
	Peers []string `json:"peers"`
}

func (c *NodeConfig) json() ([]byte, error) {
	if c.EventRing < 0 {
		return nil, invalid("EventRing: must not be negative")
	}
	if c.PeerTimeout < 0 {
		return nil, invalid("PeerTimeout: must not be negative")
	}
	written, err := json.Marshal(struct {
		Name         string              `json:"name"`
		Backend      string              `json:"backend,omitempty"`
		DataDir      string              `json:"data_dir,omitempty"`
		DiskDir      string              `json:"disk_dir,omitempty"`
		Listen       []string            `json:"listen,omitempty"`
		APIKeys      []NodeKey           `json:"api_keys,omitempty"`
		TLS          *NodeTLS            `json:"tls,omitempty"`
		Insecure     bool                `json:"insecure,omitempty"`
		Peers        map[string]NodePeer `json:"peers,omitempty"`
		Labels       map[string]string   `json:"labels,omitempty"`
		Limits       NodeLimits          `json:"limits"`
		DefaultImage string              `json:"default_image,omitempty"`
		EventRing    int                 `json:"event_ring,omitempty"`
		PeerTimeout  string              `json:"peer_timeout,omitempty"`
	}{
		c.Name, c.Backend, c.DataDir, c.DiskDir, c.Listen, c.APIKeys, c.TLS, c.Insecure, c.Peers, c.Labels,
		c.Limits, c.DefaultImage, c.EventRing, durationText(c.PeerTimeout),
	})
	if err != nil {
		return nil, invalid(err.Error())
	}
	return written, nil
}

// Node runs VMs in this process. Any goroutine may use it. It ends with Shutdown; one that is forgotten
// ends, and its VMs with it, once neither it nor a client of it is reachable.
type Node struct{ native *nativeNode }

// StartNode starts a node; it serves when it returns.
//
// It fails with ErrInvalidConfig for a wrong field, naming it, with ErrUnsupported where the host has no
// KVM, and with ErrIO for an address or a directory that cannot be used.
func StartNode(ctx context.Context, config NodeConfig) (*Node, error) {
	options, err := config.json()
	if err != nil {
		return nil, err
	}
	native, err := startNode(ctx, options)
	if err != nil {
		return nil, err
	}
	return &Node{native}, nil
}

// Name is the node's name.
func (n *Node) Name() string { return n.native.name() }

// UUID is the node's UUID.
func (n *Node) UUID() string { return n.native.uuid() }

// Address is where its first listener is, such as "127.0.0.1:9000"; empty for a node without one.
func (n *Node) Address() string { return n.native.address() }

// Client makes a client that calls the node directly, without a connection: it is connected, as admin.
func (n *Node) Client() (*Client, error) {
	native, err := n.native.client()
	if err != nil {
		return nil, err
	}
	return &Client{node: n, native: native}, nil
}

// AddPeer adds a node that VMs can be moved to, or gives it another address. credential is the key of role
// "node" by which the peer knows this node, or empty.
func (n *Node) AddPeer(name, address, credential string) error {
	return n.native.addPeer(name, address, credential)
}

// Drain makes it take and start no VMs from now on. There is no way back.
func (n *Node) Drain() error { return n.native.drain() }

// Shutdown ends the node, and returns when it has ended: its guests are asked to stop and have so long, then
// they are ended by force. When ctx ends first it fails, and the node goes on ending.
func (n *Node) Shutdown(ctx context.Context, timeout time.Duration) error {
	return n.native.shutdown(ctx, timeout)
}

// Keys are the keys by which clients and peers are let in.
func (n *Node) Keys() *NodeKeys { return &NodeKeys{n} }

// NodeKeys changes the keys of a node while it runs.
type NodeKeys struct{ node *Node }

// List returns names and roles, not the keys.
func (k *NodeKeys) List() ([]NodeKey, error) {
	var keys []NodeKey
	err := k.node.native.keys(decodeSeldom(&keys))
	return keys, err
}

// Add adds a key, which is kept with the node's data.
func (k *NodeKeys) Add(name, key, role string) error { return k.node.native.addKey(name, key, role) }

// Remove removes a key that was added.
func (k *NodeKeys) Remove(name string) error { return k.node.native.removeKey(name) }
