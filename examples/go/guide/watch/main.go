// Event Watching.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := setup.Client(ctx)
	defer client.Disconnect()
	vmClient := client.VM()
	vmID := setup.Running(ctx, client, "watch").ID

	// Watch VM events
	events, err := vmClient.Watch(ctx, vmID)
	if err != nil {
		log.Fatal(err)
	}

	seen := false
	for event := range events {
		fmt.Printf("[%s] %s: %s (State: %s)\n",
			event.Timestamp.Format("15:04:05"),
			event.Type,
			event.Message,
			event.VM.State)
		if seen = event.VM.State == dwcp.VMStateRunning; seen {
			break
		}
	}
	if !seen {
		log.Fatal(vmClient.Err(events))
	}
	setup.Remove(context.Background(), client, vmID)
}
