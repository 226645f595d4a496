// Batch Operations.
package main

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func CreateVMsBatch(client *dwcp.Client, configs []dwcp.VMConfig) ([]dwcp.VM, error) {
	var wg sync.WaitGroup
	results := make([]dwcp.VM, len(configs))
	errors := make([]error, len(configs))

	vmClient := client.VM()

	for i, config := range configs {
		wg.Add(1)
		go func(idx int, cfg dwcp.VMConfig) {
			defer wg.Done()

			vm, err := vmClient.Create(context.Background(), cfg)
			if err != nil {
				errors[idx] = err
				return
			}
			results[idx] = *vm
		}(i, config)
	}

	wg.Wait()

	for _, err := range errors {
		if err != nil {
			return nil, err
		}
	}

	return results, nil
}

func main() {
	ctx := context.Background()
	client := setup.Client(ctx)
	defer client.Disconnect()

	var configs []dwcp.VMConfig
	for i := 0; i < 5; i++ {
		configs = append(configs, dwcp.VMConfig{Name: fmt.Sprintf("batch-%d", i), Memory: 16 << 20, CPUs: 1})
	}
	vms, err := CreateVMsBatch(client, configs)
	if err != nil {
		log.Fatal(err)
	}
	for i, vm := range vms {
		if vm.Name != configs[i].Name {
			log.Fatalf("%+v", vm)
		}
		fmt.Printf("Created VM: %s (ID: %s)\n", vm.Name, vm.ID)
		setup.Remove(ctx, client, vm.ID)
	}
}
