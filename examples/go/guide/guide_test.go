// Package guide_test runs every snippet of the guide against a node.
package guide_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

func start(t *testing.T, name string) *dwcp.Node {
	t.Helper()
	dir := t.TempDir()
	backend := os.Getenv("DWCP_BACKEND")
	if backend == "" {
		backend = "sim"
	}
	node, err := dwcp.StartNode(context.Background(), dwcp.NodeConfig{
		Name: name, Backend: backend, DataDir: dir, Listen: []string{"127.0.0.1:0"},
		APIKeys: []dwcp.NodeKey{
			{Key: "operator-key", Role: "operator"}, {Key: "node-to-node-key", Role: "node"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Shutdown(context.Background(), time.Second); err != nil {
			t.Error(err)
		}
	})
	return node
}

func TestEverySnippetRuns(t *testing.T) {
	one, two := start(t, "node-one"), start(t, "node-two")
	for _, pair := range [][2]*dwcp.Node{{one, two}, {two, one}} {
		if err := pair[0].AddPeer(pair[1].Name(), pair[1].Address(), "node-to-node-key"); err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(one.Address())
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	snippets, err := filepath.Glob("*/main.go")
	if err != nil || len(snippets) < 11 {
		t.Fatal(snippets, err)
	}
	built, err := exec.Command("go", "build", "-o", bin+"/", "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, built)
	}
	for _, snippet := range snippets {
		name := filepath.Dir(snippet)
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			command := exec.CommandContext(ctx, filepath.Join(bin, name))
			command.Env = append(os.Environ(), "DWCP_ADDRESS="+host, "DWCP_PORT="+port,
				"DWCP_API_KEY=operator-key", "DWCP_TARGET_NODE=node-two")
			said, err := command.CombinedOutput()
			if err != nil || len(said) == 0 {
				t.Fatalf("%v: %s", err, said)
			}
			t.Logf("%s", said)
		})
	}
	client, err := one.Client()
	if err != nil {
		t.Fatal(err)
	}
	left, err := client.VM().List(context.Background(), nil)
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %+v %v", left, err)
	}
}
