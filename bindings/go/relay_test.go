package dwcp_test

import (
	"net"
	"sync"
	"testing"
	"time"
)

// relay passes bytes between a client and a node until it is told to hold what clients send.
type relay struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	holding  bool
	conns    []net.Conn
	held     chan struct{}
}

func newRelay(t testing.TB, target string) *relay {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	r := &relay{listener: listener, target: target, held: make(chan struct{}, 1024)}
	go r.accept()
	t.Cleanup(func() {
		listener.Close()
		r.cut()
	})
	return r
}

func (r *relay) port() int { return r.listener.Addr().(*net.TCPAddr).Port }

func (r *relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", r.target)
		if err != nil {
			near.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, near, far)
		r.mu.Unlock()
		go r.pass(far, near, true)
		go r.pass(near, far, false)
	}
}

func (r *relay) pass(to, from net.Conn, holdable bool) {
	defer to.Close()
	defer from.Close()
	bytes := make([]byte, 64<<10)
	for {
		n, err := from.Read(bytes)
		if err != nil {
			return
		}
		r.mu.Lock()
		holding := r.holding && holdable
		r.mu.Unlock()
		if holding {
			select {
			case r.held <- struct{}{}:
			default:
			}
			continue
		}
		if _, err := to.Write(bytes[:n]); err != nil {
			return
		}
	}
}

func (r *relay) hold() {
	r.mu.Lock()
	r.holding = true
	r.mu.Unlock()
}

// cut ends all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
}

// waitForBytes waits until a client has sent something that is held, after what was held before.
func (r *relay) waitForBytes(t testing.TB) {
	t.Helper()
	select {
	case <-r.held:
	case <-time.After(patience):
		t.Fatal("the client sent nothing")
	}
}

// forget forgets what was held until now.
func (r *relay) forget() {
	for {
		select {
		case <-r.held:
		default:
			return
		}
	}
}
