package dwcp_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// testee is the program that the judge of the conformance tests drives.
type testee struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan map[string]any
	last  int
}

func (e *testee) send(line map[string]any) float64 {
	e.t.Helper()
	e.last++
	line["id"] = e.last
	text, err := json.Marshal(line)
	ok(e.t, err)
	_, err = fmt.Fprintf(e.in, "%s\n", text)
	ok(e.t, err)
	return float64(e.last)
}

func (e *testee) answer(id float64) map[string]any {
	e.t.Helper()
	select {
	case line := <-e.lines:
		if line["id"] != id {
			e.t.Fatalf("the answer to %v is %v", id, line)
		}
		return line
	case <-time.After(patience):
		e.t.Fatal("no answer")
	}
	return nil
}

func (e *testee) do(line map[string]any) map[string]any {
	e.t.Helper()
	answer := e.answer(e.send(line))
	if answer["error"] != nil {
		e.t.Fatalf("%v: %v", line, answer)
	}
	value, _ := answer["ok"].(map[string]any)
	return value
}

func TestTheTesteeOfTheConformanceTests(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a program")
	}
	binary := filepath.Join(t.TempDir(), "testee")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = "../conformance/testees/go"
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	node := newNode(t)
	host, port := split(t, node)
	command := exec.Command(binary)
	in := must[io.WriteCloser](t)(command.StdinPipe())
	out := must[io.ReadCloser](t)(command.StdoutPipe())
	ok(t, command.Start())
	e := &testee{t: t, in: in, lines: make(chan map[string]any, 16)}
	go func() {
		for scan := bufio.NewScanner(out); scan.Scan(); {
			var line map[string]any
			if json.Unmarshal(scan.Bytes(), &line) == nil {
				e.lines <- line
			}
		}
	}()
	type o = map[string]any
	if hello := e.do(o{"do": "hello"}); hello["language"] != "go" || hello["version"] == "" {
		t.Fatal(hello)
	}
	config := o{"address": host, "port": port, "tls_enabled": false, "request_timeout": "20s", "retry_attempts": 0}
	e.do(o{"do": "connect", "client": "c", "config": config})
	call := func(method string, args o) o {
		t.Helper()
		return e.do(o{"do": "call", "client": "c", "method": method, "args": args})
	}
	vm := call("create", o{"config": o{"name": "x", "memory": 16 << 20}})
	id := vm["id"].(string)
	e.do(o{"do": "open", "client": "c", "stream": "w", "kind": "watch", "args": o{"id": id}})
	call("start", o{"id": id})
	// The last says that the guest has filled its memory: nothing comes after it.
	items := e.do(o{"do": "next", "stream": "w", "count": 4})["items"].([]any)
	if len(items) != 4 || items[2].(o)["vm"].(o)["state"] != "running" {
		t.Fatal(items)
	}
	waits := e.send(o{"do": "next", "stream": "w", "count": 1000})
	stop := e.send(o{"do": "cancel", "request": waits})
	first, second := <-e.lines, <-e.lines
	if first["id"] == stop {
		first, second = second, first
	}
	if failed, _ := first["error"].(o); failed["code"] != "cancelled" || second["ok"] == nil {
		t.Fatal(first, second)
	}
	e.do(o{"do": "close_stream", "stream": "w"})
	if end := e.do(o{"do": "next", "stream": "w", "count": 1}); end["ended"] != true {
		t.Fatal(end)
	}
	e.do(o{"do": "write_console", "client": "c", "vm": id, "data": "ÿ\x00"})
	unknown := e.answer(e.send(o{"do": "call", "client": "c", "method": "get", "args": o{"id": "7"}}))["error"].(o)
	if unknown["code"] != "vm_not_found" || unknown["class"] != "ErrVMNotFound" || unknown["retryable"] != false {
		t.Fatal(unknown)
	}
	if odd := e.answer(e.send(o{"do": "dance"}))["error"].(o); odd["code"] != "unsupported" {
		t.Fatal(odd)
	}
	if e.do(o{"do": "memory"})["rss"].(float64) < 1<<20 || e.do(o{"do": "state", "client": "c"})["connected"] != true {
		t.Fatal("no memory, or no connection")
	}
	e.do(o{"do": "disconnect", "client": "c"})
	e.do(o{"do": "disconnect", "client": "c"})
	e.do(o{"do": "exit"})
	ok(t, command.Wait())
}
