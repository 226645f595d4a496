// Story lives a VM's whole life: go run ./story
//
// It starts two nodes in this process, or with --remote A B takes two that run elsewhere.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	remote := flag.Bool("remote", false, "take two nodes that run: their addresses follow")
	key := flag.String("api-key", "", "the credential, with --remote")
	ca := flag.String("ca-file", "", "the authority of the nodes, with --remote")
	peer := flag.String("peer", "node-b", "what the first node calls the second")
	addresses := parse()
	var err error
	if *remote {
		err = told(ctx, addresses, *key, *ca, *peer)
	} else {
		err = embedded(ctx, *peer)
	}
	if err != nil {
		log.Fatalf("story: %v", err)
	}
	fmt.Println("story: ok")
}

// parse reads the command line, in which the addresses stand between the flags.
func parse() (addresses []string) {
	for args := os.Args[1:]; ; args = args[1:] {
		// It ends the program with what is wrong.
		_ = flag.CommandLine.Parse(args)
		if args = flag.Args(); len(args) == 0 {
			return addresses
		}
		addresses = append(addresses, args[0])
	}
}

// embedded tells it with two nodes in this process.
func embedded(ctx context.Context, peer string) (err error) {
	dir, err := os.MkdirTemp("", "dwcp-story-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var nodes []*dwcp.Node
	defer func() {
		for _, node := range nodes {
			err = errors.Join(err, node.Shutdown(context.Background(), 5*time.Second))
		}
		if err == nil {
			fmt.Println("both nodes have ended")
		}
	}()
	for _, name := range []string{"node-a", peer} {
		node, err := dwcp.StartNode(ctx, dwcp.NodeConfig{
			Name:    name,
			Backend: os.Getenv("DWCP_BACKEND"),
			DataDir: filepath.Join(dir, name),
			Listen:  []string{"127.0.0.1:0"},
		})
		if err != nil {
			return err
		}
		nodes = append(nodes, node)
		fmt.Printf("%s listens on %s\n", node.Name(), node.Address())
	}
	if err := nodes[0].AddPeer(nodes[1].Name(), nodes[1].Address(), ""); err != nil {
		return err
	}
	if err := nodes[1].AddPeer(nodes[0].Name(), nodes[0].Address(), ""); err != nil {
		return err
	}
	client, err := nodes[0].Client()
	if err != nil {
		return err
	}
	defer client.Disconnect()
	// There is no TLS between them.
	return story(ctx, client, peer, false)
}

// told tells it with nodes that are reached over TLS.
func told(ctx context.Context, addresses []string, key, ca, peer string) error {
	if len(addresses) != 2 {
		return fmt.Errorf("--remote needs two addresses, not %q", addresses)
	}
	var clients []*dwcp.Client
	for _, address := range addresses {
		config := dwcp.DefaultConfig()
		host, port, found := strings.Cut(address, ":")
		config.Address, config.APIKey, config.CAFile = host, key, ca
		if found {
			number, err := strconv.Atoi(port)
			if err != nil {
				return err
			}
			config.Port = number
		}
		client, err := dwcp.NewClient(config)
		if err != nil {
			return err
		}
		if err := client.Connect(ctx); err != nil {
			return err
		}
		defer client.Disconnect()
		health, err := client.Health(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%s at %s is %s\n", health.Node, address, health.Status)
		clients = append(clients, client)
	}
	return story(ctx, clients[0], peer, true)
}

func story(ctx context.Context, client *dwcp.Client, peer string, encrypt bool) error {
	vms := client.VM()
	vm, err := vms.Create(ctx, dwcp.VMConfig{
		Name:   "story",
		Memory: 64 << 20,
		CPUs:   1,
		Annotations: map[string]string{
			"dwcp.pulse/fill": strconv.Itoa(4 << 20),
		},
	})
	if err != nil {
		return err
	}
	fmt.Printf("created %s (%s), %s\n", vm.Name, vm.ID, vm.State)

	watching, stop := context.WithCancel(ctx)
	defer stop()
	events, err := vms.Watch(watching, vm.ID)
	if err != nil {
		return err
	}
	if err := vms.Start(ctx, vm.ID); err != nil {
		return err
	}
	running := false
	for event := range events {
		fmt.Printf("event %d, %s: %s\n", event.Seq, event.Type, event.VM.State)
		if running = event.VM.State == dwcp.VMStateRunning; running {
			break
		}
	}
	if !running {
		return fmt.Errorf("the watch ended: %w", client.Err(events))
	}
	stop()

	metrics, err := vms.GetMetrics(ctx, vm.ID, "1m")
	if err != nil {
		return err
	}
	fmt.Printf("%.1f %% CPU, %d of %d MiB\n", metrics.CPUUsage, metrics.MemoryUsed>>20,
		(metrics.MemoryUsed+metrics.MemoryAvailable)>>20)
	if err := tenFigures(ctx, client, vm.ID); err != nil {
		return err
	}
	if err := snapshots(ctx, vms, vm.ID); err != nil {
		return err
	}
	if err := migrate(ctx, client, vm.ID, peer, encrypt); err != nil {
		return err
	}

	_, err = vms.Get(ctx, "00000000-0000-4000-8000-000000000000")
	var unknown *dwcp.Error
	if !errors.Is(err, dwcp.ErrVMNotFound) || !errors.As(err, &unknown) {
		return fmt.Errorf("an unknown VM: %w", err)
	}
	fmt.Printf("an unknown VM is an error of its own: %s\n", unknown.Code)

	if err := vms.Stop(ctx, vm.ID, true); err != nil {
		return err
	}
	if err := vms.Destroy(ctx, vm.ID); err != nil {
		return err
	}
	fmt.Println("stopped and destroyed")
	return client.Disconnect()
}

func tenFigures(ctx context.Context, client *dwcp.Client, id string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	figures, err := client.VM().StreamMetrics(ctx, id, 100*time.Millisecond)
	if err != nil {
		return err
	}
	for count := 0; count < 10; count++ {
		metrics, open := <-figures
		if !open {
			return fmt.Errorf("the figures ended after %d: %w", count, client.Err(figures))
		}
		fmt.Printf("figure %d: %.1f %% CPU, %d exits\n", count+1, metrics.CPUUsage, metrics.VMExits)
	}
	return nil
}

func snapshots(ctx context.Context, vms *dwcp.VMClient, id string) error {
	snapshot, err := vms.Snapshot(ctx, id, "before-the-move", dwcp.DefaultSnapshotOptions())
	if err != nil {
		return err
	}
	fmt.Printf("snapshot %s: %d KiB\n", snapshot.Name, snapshot.Size>>10)
	if err := vms.RestoreSnapshot(ctx, id, snapshot.ID); err != nil {
		return err
	}
	vm, err := vms.Get(ctx, id)
	if err != nil {
		return err
	}
	if vm.State != dwcp.VMStateRunning {
		return fmt.Errorf("restored, but %s", vm.State)
	}
	fmt.Printf("restored: %s\n", vm.State)
	return vms.DeleteSnapshot(ctx, snapshot.ID)
}

func migrate(ctx context.Context, client *dwcp.Client, id, peer string, encrypt bool) error {
	options := dwcp.DefaultMigrationOptions()
	options.EncryptTransport = encrypt
	status, err := client.VM().Migrate(ctx, id, peer, options)
	if err != nil {
		return err
	}
	progress, err := client.VM().MigrationProgress(ctx, status.ID)
	if err != nil {
		return err
	}
	for item := range progress {
		item := item
		fmt.Printf("migration %s: %.0f %%\n", item.State, item.Progress)
		status = &item
	}
	if status.State != dwcp.MigrationStateCompleted {
		return fmt.Errorf("the VM stayed: %s %s %w", status.State, status.Error, client.Err(progress))
	}
	vm, err := client.VM().Get(ctx, id)
	if err != nil {
		return err
	}
	if vm.Node != peer || vm.State != dwcp.VMStateRunning {
		return fmt.Errorf("it is %s on %s", vm.State, vm.Node)
	}
	fmt.Printf("moved to %s with %d µs of downtime\n", vm.Node, status.DowntimeUs)
	return nil
}
