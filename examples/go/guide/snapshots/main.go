// Snapshots.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func main() {
	ctx := context.Background()
	client := setup.Client(ctx)
	defer client.Disconnect()
	vmClient := client.VM()
	vmID := setup.Running(ctx, client, "snapshots").ID

	// Create snapshot
	options := dwcp.SnapshotOptions{
		IncludeMemory: true,
		Description:   "Pre-upgrade backup",
		Quiesce:       true,
	}

	snapshot, err := vmClient.Snapshot(ctx, vmID, "snap-v1.0", options)
	if err != nil {
		log.Fatal(err)
	}

	fmt.Printf("Created snapshot: %s (%.1f GB)\n",
		snapshot.Name,
		float64(snapshot.Size)/(1024*1024*1024))

	// List snapshots
	snapshots, err := vmClient.ListSnapshots(ctx, vmID)
	if err != nil {
		log.Fatal(err)
	}

	for _, snap := range snapshots {
		fmt.Printf("- %s: %s (%s)\n",
			snap.Name,
			snap.Description,
			snap.CreatedAt.Format(time.RFC3339))
	}

	// Restore from snapshot
	if err := vmClient.RestoreSnapshot(ctx, vmID, snapshot.ID); err != nil {
		log.Fatal(err)
	}

	// Delete snapshot
	if err := vmClient.DeleteSnapshot(ctx, snapshot.ID); err != nil {
		log.Fatal(err)
	}
	setup.Remove(ctx, client, vmID)
}
