// Advanced VM Configuration: nodes have no GPU yet, and the error names the fields.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

func main() {
	ctx := context.Background()
	client := setup.Client(ctx)
	defer client.Disconnect()

	// GPU-enabled VM
	vmConfig := dwcp.VMConfig{
		Name:      "ml-workload",
		Memory:    64 * 1024 * 1024,
		CPUs:      16,
		Disk:      500 * 1024 * 1024 * 1024, // 500GB
		Image:     "dwcp/pulse",
		EnableGPU: true,
		GPUType:   "nvidia-tesla-v100",

		// CPU pinning for performance
		CPUPinning: []int{0, 1, 2, 3, 4, 5, 6, 7},
		NUMANodes:  []int{0},
		HugePages:  true,
		IOThreads:  4,

		// Resource limits
		MemoryMax:        64 * 1024 * 1024 * 1024,
		CPUQuota:         90,
		DiskIOPSLimit:    10000,
		NetworkBandwidth: 10 * 1024 * 1024 * 1024, // 10Gbps

		// Node affinity
		Affinity: &dwcp.Affinity{
			NodeSelector: map[string]string{
				"gpu":  "nvidia",
				"zone": "us-west-1a",
			},
			RequiredNodes: []string{"node-gpu-01", "node-gpu-02"},
		},
	}

	_, err := client.VM().Create(ctx, vmConfig)
	if !errors.Is(err, dwcp.ErrUnsupported) || !strings.Contains(err.Error(), "enable_gpu") {
		log.Fatalf("expected an error that names enable_gpu, got %v", err)
	}
	fmt.Println("As expected:", err)
}
