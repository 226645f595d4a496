package dwcp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

// A client of a node that runs elsewhere.
func ExampleNewClient() {
	config := dwcp.DefaultConfig()
	config.Address = "node-01.example.com"
	config.APIKey = "your-api-key"

	client, err := dwcp.NewClient(config)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Disconnect()
	fmt.Println(client.IsConnected())
	// Output: false
}

// A node in this process, and a VM's short life.
func ExampleStartNode() {
	ctx := context.Background()
	node, err := dwcp.StartNode(ctx, dwcp.NodeConfig{Name: "node-01", Backend: "sim"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Shutdown(ctx, time.Second)
	client, err := node.Client()
	if err != nil {
		log.Fatal(err)
	}
	vms := client.VM()
	vm, err := vms.Create(ctx, dwcp.VMConfig{Name: "web", Memory: 64 << 20})
	if err != nil {
		log.Fatal(err)
	}
	if err := vms.Start(ctx, vm.ID); err != nil {
		log.Fatal(err)
	}
	if vm, err = vms.Get(ctx, vm.ID); err != nil {
		log.Fatal(err)
	}
	fmt.Println(vm.Name, vm.State, "on", vm.Node)
	// Output: web running on node-01
}

// Watching a VM until it runs.
func ExampleVMClient_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	node, err := dwcp.StartNode(ctx, dwcp.NodeConfig{Name: "node-01", Backend: "sim"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Shutdown(context.Background(), time.Second)
	client, err := node.Client()
	if err != nil {
		log.Fatal(err)
	}
	vms := client.VM()
	vm, err := vms.Create(ctx, dwcp.VMConfig{Name: "web", Memory: 64 << 20})
	if err != nil {
		log.Fatal(err)
	}
	events, err := vms.Watch(ctx, vm.ID)
	if err != nil {
		log.Fatal(err)
	}
	if err := vms.Start(ctx, vm.ID); err != nil {
		log.Fatal(err)
	}
	for event := range events {
		fmt.Println(event.Type, event.VM.State)
		if event.VM.State == dwcp.VMStateRunning {
			break
		}
	}
	// Output:
	// current stopped
	// starting starting
	// started running
}

// Asking what kind of error it is.
func ExampleError() {
	ctx := context.Background()
	node, err := dwcp.StartNode(ctx, dwcp.NodeConfig{Name: "node-01", Backend: "sim"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Shutdown(ctx, time.Second)
	client, err := node.Client()
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.VM().Create(ctx, dwcp.VMConfig{Name: "web", EnableTPM: true})
	var told *dwcp.Error
	if errors.Is(err, dwcp.ErrUnsupported) && errors.As(err, &told) {
		fmt.Println(told.Code, told.Operation, told.Retryable)
	}
	// Output: unsupported create false
}
