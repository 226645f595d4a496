// Real-time Metrics, and Connection Management.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := setup.Client(ctx)
	defer client.Disconnect()
	vmClient := client.VM()
	vmID := setup.Running(ctx, client, "metrics").ID

	// Get current metrics
	metrics, err := vmClient.GetMetrics(ctx, vmID, "5m")
	if err != nil {
		log.Fatal(err)
	}

	fmt.Printf("CPU Usage: %.2f%%\n", metrics.CPUUsage)
	fmt.Printf("Memory: %.1f/%.1f GB\n",
		float64(metrics.MemoryUsed)/(1024*1024*1024),
		float64(metrics.MemoryAvailable)/(1024*1024*1024))
	fmt.Printf("Network RX: %.1f MB\n",
		float64(metrics.NetworkRx)/(1024*1024))
	fmt.Printf("Network TX: %.1f MB\n",
		float64(metrics.NetworkTx)/(1024*1024))

	// Stream real-time metrics
	metricsCh, err := vmClient.StreamMetrics(ctx, vmID, 50*time.Millisecond)
	if err != nil {
		log.Fatal(err)
	}

	count := 0
	for metrics := range metricsCh {
		fmt.Printf("[%s] CPU: %.2f%% | Mem: %.1f GB\n",
			metrics.Timestamp.Format("15:04:05"),
			metrics.CPUUsage,
			float64(metrics.MemoryUsed)/(1024*1024*1024))
		if count++; count == 3 {
			break
		}
	}
	if count != 3 {
		log.Fatal(vmClient.Err(metricsCh))
	}
	setup.Remove(ctx, client, vmID)
}
