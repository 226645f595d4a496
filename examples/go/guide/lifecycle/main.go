// VM Lifecycle Operations.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func main() {
	ctx := context.Background()
	client := setup.Client(ctx)
	defer client.Disconnect()
	vmClient := client.VM()
	vm := setup.VM(ctx, client, "lifecycle")

	// Start VM
	if err := vmClient.Start(ctx, vm.ID); err != nil {
		log.Fatal(err)
	}

	// Stop VM (graceful)
	if err := vmClient.Stop(ctx, vm.ID, false); err != nil {
		log.Fatal(err)
	}

	// Force stop VM
	if err := vmClient.Start(ctx, vm.ID); err != nil {
		log.Fatal(err)
	}
	if err := vmClient.Stop(ctx, vm.ID, true); err != nil {
		log.Fatal(err)
	}

	// Get VM status
	vm, err := vmClient.Get(ctx, vm.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("VM State: %s\n", vm.State)

	// List all VMs
	vms, err := vmClient.List(ctx, map[string]string{
		"env": "production",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d in production\n", len(vms))

	// Destroy VM
	if err := vmClient.Destroy(ctx, vm.ID); err != nil {
		log.Fatal(err)
	}
}
