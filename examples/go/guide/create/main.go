// Creating a VM: a virtual TPM and a network are more than nodes can do yet, and the error says so.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func main() {
	ctx := context.Background()
	client := setup.Client(ctx)
	defer client.Disconnect()

	vmConfig := dwcp.VMConfig{
		Name:   "web-server",
		Memory: 64 * 1024 * 1024,
		CPUs:   4,
		Disk:   40 * 1024 * 1024 * 1024, // 40GB
		Image:  "dwcp/pulse",
		Network: dwcp.NetworkConfig{
			Mode: "bridge",
			Interfaces: []dwcp.NetIf{
				{
					Name:      "eth0",
					Type:      "virtio",
					IPAddress: "192.168.1.100",
					Netmask:   "255.255.255.0",
				},
			},
			DNS:     []string{"8.8.8.8", "8.8.4.4"},
			Gateway: "192.168.1.1",
		},
		Labels: map[string]string{
			"env":  "production",
			"tier": "web",
		},
		EnableGPU: false,
		EnableTPM: true,
		Priority:  5,
	}

	vmClient := client.VM()
	vm, err := vmClient.Create(ctx, vmConfig)
	if errors.Is(err, dwcp.ErrUnsupported) {
		fmt.Println("As expected:", err)
		// What this node can do.
		vmConfig.EnableTPM, vmConfig.Priority, vmConfig.Disk = false, 0, 0
		vmConfig.Network = dwcp.NetworkConfig{}
		vm, err = vmClient.Create(ctx, vmConfig)
	}
	if err != nil {
		log.Fatal(err)
	}

	fmt.Printf("Created VM: %s (ID: %s)\n", vm.Name, vm.ID)
	setup.Remove(ctx, client, vm.ID)
}
