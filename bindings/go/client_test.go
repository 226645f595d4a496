package dwcp_test

import (
	"context"
	"testing"

	"github.com/novacron/dwcp-sdk-go"
)

func TestFirst(t *testing.T) {
	ctx := context.Background()
	node, err := dwcp.StartNode(ctx, dwcp.NodeConfig{Name: "a", Backend: "sim", Listen: []string{"127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := node.Client()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := client.VM().Create(ctx, dwcp.VMConfig{Name: "x", Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", vm)
	if err := client.VM().Start(ctx, vm.ID); err != nil {
		t.Fatal(err)
	}
	vm, err = client.VM().Get(ctx, vm.ID)
	t.Logf("%+v %+v", vm, err)
	_, err = client.VM().Get(ctx, "x")
	t.Log(err)
	if err := node.Shutdown(ctx, 0); err != nil {
		t.Fatal(err)
	}
}
