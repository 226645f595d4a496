// Testee does what the judge of the conformance tests says: JSON lines on its input and output.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"

	"github.com/novacron/dwcp-sdk-go"
)

// request is a line of the judge.
type request struct {
	ID      json.Number     `json:"id"`
	Do      string          `json:"do"`
	Client  string          `json:"client"`
	Config  json.RawMessage `json:"config"`
	Method  string          `json:"method"`
	Args    arguments       `json:"args"`
	Request json.Number     `json:"request"`
	Stream  string          `json:"stream"`
	Kind    string          `json:"kind"`
	Count   int             `json:"count"`
	VM      string          `json:"vm"`
	Data    string          `json:"data"`
}

// testee is what the judge has made so far.
type testee struct {
	mu      sync.Mutex
	out     *bufio.Writer
	clients map[string]*dwcp.Client
	streams map[string]*stream
	running map[json.Number]context.CancelFunc
}

type object = map[string]any

func main() {
	log.SetFlags(0)
	t := &testee{
		out:     bufio.NewWriter(os.Stdout),
		clients: map[string]*dwcp.Client{},
		streams: map[string]*stream{},
		running: map[json.Number]context.CancelFunc{},
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			log.Fatalf("%s: %v", line, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		t.mu.Lock()
		t.running[r.ID] = cancel
		t.mu.Unlock()
		go func() {
			value, err := t.do(ctx, &r)
			t.mu.Lock()
			delete(t.running, r.ID)
			t.mu.Unlock()
			cancel()
			t.answer(r.ID, value, err)
			if r.Do == "exit" {
				os.Exit(0)
			}
		}()
	}
}

func (t *testee) answer(id json.Number, value any, err error) {
	answer := object{"id": id}
	if err != nil {
		answer["error"] = told(err)
	} else {
		answer["ok"] = value
	}
	line, err := json.Marshal(answer)
	if err != nil {
		log.Fatal(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out.Write(append(line, '\n'))
	if err := t.out.Flush(); err != nil {
		log.Fatal(err)
	}
}

// classes are the Err values by their code.
var classes = []struct {
	name string
	err  error
}{
	{"ErrNotConnected", dwcp.ErrNotConnected}, {"ErrIO", dwcp.ErrIO}, {"ErrSerialization", dwcp.ErrSerialization},
	{"ErrOther", dwcp.ErrOther}, {"ErrForked", dwcp.ErrForked}, {"ErrAuthFailed", dwcp.ErrAuthFailed},
	{"ErrInvalidMessage", dwcp.ErrInvalidMessage}, {"ErrVMNotFound", dwcp.ErrVMNotFound},
	{"ErrResourceLimit", dwcp.ErrResourceLimit}, {"ErrMigration", dwcp.ErrMigration},
	{"ErrInvalidOperation", dwcp.ErrInvalidOperation}, {"ErrTimeout", dwcp.ErrTimeout},
	{"ErrSnapshot", dwcp.ErrSnapshot}, {"ErrInvalidConfig", dwcp.ErrInvalidConfig},
	{"ErrUnsupported", dwcp.ErrUnsupported}, {"ErrAlreadyExists", dwcp.ErrAlreadyExists},
	{"ErrNotFound", dwcp.ErrNotFound}, {"ErrUnavailable", dwcp.ErrUnavailable}, {"ErrCancelled", dwcp.ErrCancelled},
	{"ErrPermissionDenied", dwcp.ErrPermissionDenied}, {"ErrInternal", dwcp.ErrInternal},
}

func told(err error) object {
	for _, class := range classes {
		var e *dwcp.Error
		if errors.Is(err, class.err) && errors.As(err, &e) {
			return object{
				"code": e.Code, "message": e.Message, "retryable": e.Retryable, "class": class.name,
				"operation": e.Operation, "concerns": e.Concerns,
			}
		}
	}
	return object{"code": "other", "message": err.Error(), "retryable": false, "class": fmt.Sprintf("%T", err)}
}

// unsupported is the answer to what this program does not know.
func unsupported(what string) error {
	return &dwcp.Error{Code: dwcp.CodeUnsupported, Message: "the testee does not know " + what}
}

func wrong(what string) error { return &dwcp.Error{Code: dwcp.CodeInvalidConfig, Message: what} }

func (t *testee) client(name string) (*dwcp.Client, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	client := t.clients[name]
	if client == nil {
		return nil, wrong("client: no " + name)
	}
	return client, nil
}

func (t *testee) do(ctx context.Context, r *request) (any, error) {
	none := object{}
	switch r.Do {
	case "hello":
		return object{"language": "go", "version": dwcp.Version()}, nil
	case "connect":
		return none, t.connect(ctx, r)
	case "cancel":
		t.mu.Lock()
		cancel := t.running[r.Request]
		t.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return none, nil
	case "next":
		return t.next(ctx, r)
	case "close_stream":
		return none, t.closeStream(r.Stream)
	case "memory":
		return memory()
	case "exit":
		return none, nil
	}
	client, err := t.client(r.Client)
	if err != nil && isOfClient(r.Do) {
		return nil, err
	}
	switch r.Do {
	case "call":
		return call(ctx, client, r.Method, &r.Args)
	case "open":
		return none, t.open(client, r)
	case "write_console":
		return none, client.VM().WriteConsole(ctx, r.VM, latin1(r.Data))
	case "state":
		return object{"connected": client.IsConnected(), "authenticated": client.IsAuthenticated()}, nil
	case "counters":
		return client.GetMetrics(), nil
	case "disconnect":
		return none, client.Disconnect()
	}
	return nil, unsupported(r.Do)
}

func isOfClient(do string) bool {
	return strings.Contains(" call open write_console state counters disconnect ", " "+do+" ")
}

// latin1 gives the bytes that text stands for, character by character.
func latin1(text string) (data []byte) {
	for _, character := range text {
		if character > 0xff {
			return []byte(text)
		}
		data = append(data, byte(character))
	}
	return data
}

// memory says how much of it this process has.
func memory() (any, error) {
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(status), &size, &resident); err != nil {
		return nil, err
	}
	return object{"rss": resident * int64(os.Getpagesize())}, nil
}
