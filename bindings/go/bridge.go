package dwcp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// bridge is the way for a tls.Config, which the library cannot read: Go dials TLS, and the library speaks to
// it over a Unix socket in a directory that only this user can enter. Each connection of the library is one
// of TLS.
type bridge struct {
	config   *tls.Config
	target   string
	timeout  time.Duration
	dir      string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu sync.Mutex
	// The connection that shows that the node can be reached, for the library's first one.
	first net.Conn
}

// newBridge dials the node once, so that what is wrong with TLS is the caller's error.
func newBridge(ctx context.Context, config *ClientConfig) (*bridge, error) {
	host, port := config.Address, config.Port
	if host == "" {
		host = os.Getenv("DWCP_ADDRESS")
	}
	if text := os.Getenv("DWCP_PORT"); port == 0 && text != "" {
		number, err := strconv.ParseUint(text, 10, 16)
		if err != nil || number == 0 {
			return nil, invalid("Port: DWCP_PORT must be 1 to 65535, not " + strconv.Quote(text))
		}
		port = int(number)
	}
	if port == 0 {
		port = DefaultConfig().Port
	}
	if host == "" {
		return nil, invalid("Address: missing")
	}
	b := &bridge{config: config.TLSConfig.Clone(), timeout: config.ConnectTimeout}
	if b.timeout == 0 {
		b.timeout = DefaultConfig().ConnectTimeout
	}
	if config.ServerName != "" {
		b.config.ServerName = config.ServerName
	}
	host = strings.Trim(host, "[]")
	b.target = net.JoinHostPort(host, strconv.Itoa(port))
	if b.config.ServerName == "" {
		b.config.ServerName = host
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	first, err := b.dial(ctx)
	if err != nil {
		b.cancel()
		if ctx.Err() != nil {
			return nil, cancelled(ctx, "connect\x00")
		}
		code := CodeConnection
		var netErr net.Error
		if errors.As(err, &netErr) && netErr.Timeout() {
			code = CodeTimeout
		}
		return nil, (&Error{
			Code: code, Message: err.Error(), Retryable: true, Operation: "connect", cause: err,
		}).typed()
	}
	b.first = first
	if err := b.listen(); err != nil {
		b.close()
		return nil, &Error{Code: CodeIO, Message: err.Error(), Operation: "connect", cause: err}
	}
	return b, nil
}

func (b *bridge) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	dialer := tls.Dialer{Config: b.config}
	return dialer.DialContext(ctx, "tcp", b.target)
}

func (b *bridge) listen() (err error) {
	if b.dir, err = os.MkdirTemp("", "dwcp-"); err != nil {
		return err
	}
	if b.listener, err = net.Listen("unix", filepath.Join(b.dir, "s")); err != nil {
		return err
	}
	b.running.Add(1)
	go b.accept()
	return nil
}

func (b *bridge) address() string { return "unix:" + filepath.Join(b.dir, "s") }

func (b *bridge) accept() {
	defer b.running.Done()
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			// It was closed.
			return
		}
		b.running.Add(1)
		go func() {
			defer b.running.Done()
			b.serve(conn)
		}()
	}
}

// serve carries one connection. Where the node cannot be reached it closes it, which the library takes for a
// connection that was lost, and tries again as its options say.
func (b *bridge) serve(near net.Conn) {
	defer near.Close()
	b.mu.Lock()
	far := b.first
	b.first = nil
	b.mu.Unlock()
	if far == nil {
		var err error
		if far, err = b.dial(b.ctx); err != nil {
			return
		}
	}
	defer far.Close()
	stop := context.AfterFunc(b.ctx, func() {
		near.Close()
		far.Close()
	})
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// That it ended is all that matters: both sides are closed then.
		_, _ = io.Copy(far, near)
		far.Close()
		near.Close()
	}()
	_, _ = io.Copy(near, far)
	far.Close()
	near.Close()
	<-done
}

// close ends all connections, and removes the socket.
func (b *bridge) close() {
	b.cancel()
	if b.listener != nil {
		b.listener.Close()
	}
	b.running.Wait()
	if b.first != nil {
		b.first.Close()
	}
	if b.dir != "" {
		os.RemoveAll(b.dir)
	}
}
