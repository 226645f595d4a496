// Package setup is what the snippets leave out: a client for the node in the environment.
package setup

import (
	"context"
	"log"
	"os"
	"strconv"

	"github.com/novacron/dwcp-sdk-go"
)

// Config is for the node at DWCP_ADDRESS and DWCP_PORT, with the credential in DWCP_API_KEY and the
// authority in DWCP_CA_FILE; without an authority it does without TLS.
func Config() dwcp.ClientConfig {
	config := dwcp.DefaultConfig()
	config.Address = os.Getenv("DWCP_ADDRESS")
	config.APIKey = os.Getenv("DWCP_API_KEY")
	config.CAFile = os.Getenv("DWCP_CA_FILE")
	config.TLSEnabled = config.CAFile != ""
	if port := os.Getenv("DWCP_PORT"); port != "" {
		number, err := strconv.Atoi(port)
		if err != nil {
			log.Fatal(err)
		}
		config.Port = number
	}
	return config
}

// Client is connected to it; end with Disconnect.
func Client(ctx context.Context) *dwcp.Client {
	client, err := dwcp.NewClient(Config())
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	return client
}

// VM makes a small VM of that name; remove it with Remove.
func VM(ctx context.Context, client *dwcp.Client, name string) *dwcp.VM {
	vm, err := client.VM().Create(ctx, dwcp.VMConfig{Name: name, Memory: 16 << 20, CPUs: 1})
	if err != nil {
		log.Fatal(err)
	}
	return vm
}

// Running is VM, started.
func Running(ctx context.Context, client *dwcp.Client, name string) *dwcp.VM {
	vm := VM(ctx, client, name)
	if err := client.VM().Start(ctx, vm.ID); err != nil {
		log.Fatal(err)
	}
	return vm
}

// Remove stops and destroys a VM.
func Remove(ctx context.Context, client *dwcp.Client, id string) {
	vm, err := client.VM().Get(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	if vm.State != dwcp.VMStateStopped {
		if err := client.VM().Stop(ctx, id, true); err != nil {
			log.Fatal(err)
		}
	}
	if err := client.VM().Destroy(ctx, id); err != nil {
		log.Fatal(err)
	}
}
