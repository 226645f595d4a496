package dwcp

import (
	"crypto/tls"
	"fmt"
	"math"
	"strings"
	"time"
)

// ClientConfig says how a client reaches its node. Begin with DefaultConfig: a zero value asks for the
// default, but for RetryAttempts and the booleans, which are what they are. Address, Port, APIKey and CAFile
// are taken from DWCP_ADDRESS, DWCP_PORT, DWCP_API_KEY and DWCP_CA_FILE where they are zero, which Port is
// not in DefaultConfig.
type ClientConfig struct {
	// Host name or address, or "unix:/path". Required, here or in the environment.
	Address string
	// Port. Default 9000.
	Port int
	// The credential; empty for none.
	APIKey string
	// Whether the connection is encrypted. Default true.
	TLSEnabled bool
	// TLS by Go's own library instead of the one inside: see the package's README. Needs TLSEnabled and no
	// CAFile, CAPEM, ClientCert and ClientKey, which it stands for.
	TLSConfig *tls.Config
	// File with the certificates (PEM) that the node's is checked against; empty for the platform's.
	CAFile string
	// The same, as text.
	CAPEM string
	// File with this client's certificate (PEM).
	ClientCert string
	// File with its key (PEM).
	ClientKey string
	// Name the node's certificate has to carry; empty for that in Address.
	ServerName string
	// Longest time for connecting. Default 30 s.
	ConnectTimeout time.Duration
	// Longest time for a request with all its tries. Default 60 s.
	RequestTimeout time.Duration
	// How often a request that failed is repeated, where that can do no harm. Default 3.
	RetryAttempts int
	// Pause before the first repetition, which then doubles. Default 1 s.
	RetryBackoff time.Duration
	// Whether an idle connection is kept alive. Default true.
	KeepAlive bool
	// Silence after which it is kept alive. Default 30 s.
	KeepAlivePeriod time.Duration
	// Most streams open at once. Default 100.
	MaxStreams int
	// What one read takes at most, in bytes. Default 64 KiB.
	BufferSize int
	// Most connections. Default 1.
	PoolSize int
}

// DefaultConfig has everything but the address and the credential.
func DefaultConfig() ClientConfig {
	return ClientConfig{
		Port:            9000,
		TLSEnabled:      true,
		ConnectTimeout:  30 * time.Second,
		RequestTimeout:  60 * time.Second,
		RetryAttempts:   3,
		RetryBackoff:    time.Second,
		KeepAlive:       true,
		KeepAlivePeriod: 30 * time.Second,
		MaxStreams:      100,
		BufferSize:      64 << 10,
		PoolSize:        1,
	}
}

// check finds what no node is needed for to see.
func (c *ClientConfig) check() error {
	numbers := []struct {
		name       string
		value, max int
	}{
		{"Port", c.Port, math.MaxUint16},
		{"RetryAttempts", c.RetryAttempts, math.MaxUint32},
		{"MaxStreams", c.MaxStreams, math.MaxUint32},
		{"BufferSize", c.BufferSize, math.MaxInt},
		{"PoolSize", c.PoolSize, math.MaxUint32},
	}
	for _, field := range numbers {
		if field.value < 0 || field.value > field.max {
			return invalid(fmt.Sprintf("%s: must be 0 to %d, not %d", field.name, field.max, field.value))
		}
	}
	times := []struct {
		name  string
		value time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout},
		{"RequestTimeout", c.RequestTimeout},
		{"RetryBackoff", c.RetryBackoff},
		{"KeepAlivePeriod", c.KeepAlivePeriod},
	}
	for _, field := range times {
		if field.value < 0 {
			return invalid(fmt.Sprintf("%s: must not be negative", field.name))
		}
	}
	texts := []struct{ name, value string }{
		{"Address", c.Address}, {"APIKey", c.APIKey}, {"CAFile", c.CAFile}, {"CAPEM", c.CAPEM},
		{"ClientCert", c.ClientCert}, {"ClientKey", c.ClientKey}, {"ServerName", c.ServerName},
	}
	for _, field := range texts {
		if strings.IndexByte(field.value, 0) >= 0 {
			return invalid(field.name + ": has a NUL")
		}
	}
	if c.TLSConfig != nil {
		switch {
		case !c.TLSEnabled:
			return invalid("TLSConfig: needs TLSEnabled")
		case c.CAFile != "" || c.CAPEM != "" || c.ClientCert != "" || c.ClientKey != "":
			return invalid("TLSConfig: stands for CAFile, CAPEM, ClientCert and ClientKey, which must be empty")
		case strings.HasPrefix(c.Address, "unix:") || strings.Contains(c.Address, "://"):
			return invalid("TLSConfig: needs a host name or address in Address")
		}
	}
	return nil
}
