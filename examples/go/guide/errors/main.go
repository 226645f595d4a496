// Error Handling, with the handler of the best practices.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func handleError(err error) bool {
	switch {
	case errors.Is(err, dwcp.ErrNotConnected):
		// Reconnect
		return true
	case errors.Is(err, dwcp.ErrTimeout):
		// Retry with backoff
		return true
	case errors.Is(err, dwcp.ErrAuthFailed):
		// Don't retry
		return false
	default:
		// Log and potentially retry
		log.Printf("Unexpected error: %v", err)
		return false
	}
}

func main() {
	ctx := context.Background()
	client := setup.Client(ctx)
	defer client.Disconnect()
	vmClient := client.VM()
	vmID := "00000000-0000-4000-8000-000000000000"

	vm, err := vmClient.Get(ctx, vmID)
	if err != nil {
		switch {
		case errors.Is(err, dwcp.ErrVMNotFound):
			fmt.Println("VM not found")
		case errors.Is(err, dwcp.ErrTimeout):
			fmt.Println("Operation timeout")
		case errors.Is(err, dwcp.ErrAuthFailed):
			fmt.Println("Authentication failed")
		case errors.Is(err, dwcp.ErrNotConnected):
			fmt.Println("Not connected to server")
		default:
			log.Fatal(err)
		}
	}
	if vm != nil || !errors.Is(err, dwcp.ErrVMNotFound) || handleError(err) {
		log.Fatalf("%+v %v", vm, err)
	}
	client.Disconnect()
	if _, err := vmClient.Get(ctx, vmID); !handleError(err) {
		log.Fatal(err)
	}
}
