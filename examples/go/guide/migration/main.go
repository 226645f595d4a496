// Live Migration, to the node named DWCP_TARGET_NODE.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func main() {
	ctx := context.Background()
	client := setup.Client(ctx)
	defer client.Disconnect()
	vmClient := client.VM()
	vmID := setup.Running(ctx, client, "migration").ID

	// Configure migration options
	options := dwcp.MigrationOptions{
		Live:             true,
		MaxDowntime:      500,                // 500ms
		Bandwidth:        1024 * 1024 * 1024, // 1 GiB/s
		Compression:      true,
		AutoConverge:     true,
		PostCopy:         false,
		Parallel:         4,
		VerifyChecksum:   true,
		EncryptTransport: os.Getenv("DWCP_CA_FILE") != "",
	}

	// Start migration
	status, err := vmClient.Migrate(ctx, vmID, os.Getenv("DWCP_TARGET_NODE"), options)
	if err != nil {
		log.Fatal(err)
	}

	// Monitor migration progress
	for {
		time.Sleep(100 * time.Millisecond)

		status, err := vmClient.GetMigrationStatus(ctx, status.ID)
		if err != nil {
			log.Fatal(err)
		}

		fmt.Printf("Progress: %.1f%% | Throughput: %.1f MB/s\n",
			status.Progress,
			float64(status.Throughput)/(1024*1024))

		if status.State == dwcp.MigrationStateCompleted {
			fmt.Printf("Migration completed!\n")
			fmt.Printf("Total downtime: %d ms\n", status.Downtime)
			break
		}

		if status.State == dwcp.MigrationStateFailed {
			log.Fatalf("Migration failed: %s", status.Error)
		}
	}
	setup.Remove(ctx, client, vmID)
}
