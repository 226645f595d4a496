package dwcp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

func TestTheLifeOfAVM(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *dwcp.Node, client *dwcp.Client) {
		ctx, vms := within(t), client.VM()
		vm, err := vms.CreateWithKey(ctx, dwcp.VMConfig{
			Name: "web", Memory: 16 << 20, CPUs: 1, Labels: map[string]string{"env": "production", "tier.1": "ü\"\\"},
			Annotations: map[string]string{"dwcp.pulse/fill": "1048576"},
		}, "key-1")
		ok(t, err)
		again, err := vms.CreateWithKey(ctx, dwcp.VMConfig{
			Name: "web", Memory: 16 << 20, CPUs: 1, Labels: map[string]string{"env": "production", "tier.1": "ü\"\\"},
			Annotations: map[string]string{"dwcp.pulse/fill": "1048576"},
		}, "key-1")
		ok(t, err)
		if again.ID != vm.ID || vm.State != dwcp.VMStateStopped || vm.Node != "node-a" ||
			vm.Labels["tier.1"] != "ü\"\\" || vm.Config.Memory != 16<<20 || vm.Config.Image != "dwcp/pulse" {
			t.Fatalf("%+v %+v", vm, again)
		}
		if age := time.Since(vm.CreatedAt); age < -time.Minute || age > time.Minute {
			t.Fatalf("created %v ago", age)
		}
		state := func(want dwcp.VMState) {
			t.Helper()
			got, err := vms.Get(ctx, vm.ID)
			ok(t, err)
			if got.State != want {
				t.Fatalf("%s, not %s", got.State, want)
			}
		}
		wants(t, vms.Pause(ctx, vm.ID), dwcp.ErrInvalidOperation)
		ok(t, vms.Start(ctx, vm.ID))
		state(dwcp.VMStateRunning)
		ok(t, vms.Pause(ctx, vm.ID))
		state(dwcp.VMStatePaused)
		ok(t, vms.Resume(ctx, vm.ID))
		ok(t, vms.Reset(ctx, vm.ID))
		state(dwcp.VMStateRunning)
		wants(t, vms.Destroy(ctx, vm.ID), dwcp.ErrInvalidOperation)

		metrics, err := vms.GetMetrics(ctx, vm.ID, "5m")
		ok(t, err)
		if metrics.MemoryUsed+metrics.MemoryAvailable != 16<<20 || metrics.Timestamp.IsZero() {
			t.Fatalf("%+v", metrics)
		}
		_, err = vms.GetMetrics(ctx, vm.ID, "soon")
		wants(t, err, dwcp.ErrInvalidConfig)

		updated, err := vms.Update(ctx, vm.ID, map[string]string{"env": "test"}, nil)
		ok(t, err)
		if updated.Labels["env"] != "test" || len(updated.Labels) != 1 || len(updated.Annotations) != 1 {
			t.Fatalf("%+v", updated)
		}
		for _, want := range []struct {
			filters map[string]string
			count   int
		}{{nil, 1}, {map[string]string{"env": "test"}, 1}, {map[string]string{"env": "production"}, 0}} {
			list, err := vms.List(ctx, want.filters)
			ok(t, err)
			if len(list) != want.count || list == nil {
				t.Fatalf("%v: %+v", want.filters, list)
			}
		}
		ok(t, vms.StopWithin(ctx, vm.ID, 5*time.Second))
		state(dwcp.VMStateStopped)
		ok(t, vms.Start(ctx, vm.ID))
		ok(t, vms.Stop(ctx, vm.ID, true))
		ok(t, vms.Destroy(ctx, vm.ID))
		_, err = vms.Get(ctx, vm.ID)
		told := wants(t, err, dwcp.ErrVMNotFound)
		if told.Code != dwcp.CodeVMNotFound || told.Retryable || told.Operation != "get" || told.Concerns != vm.ID {
			t.Fatalf("%+v", told)
		}
	})
}

func TestWhatIsAskedForAndCannotBeDone(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *dwcp.Node, client *dwcp.Client) {
		ctx, vms := within(t), client.VM()
		_, err := vms.Create(ctx, dwcp.VMConfig{Name: "x", EnableTPM: true, EnableGPU: true})
		told := wants(t, err, dwcp.ErrUnsupported)
		if !strings.Contains(told.Message, "enable_tpm") || !strings.Contains(told.Message, "enable_gpu") {
			t.Fatal(err)
		}
		for field, config := range map[string]dwcp.VMConfig{
			"name":   {},
			"memory": {Name: "x", Memory: 1},
			"cpus":   {Name: "x", CPUs: -1},
		} {
			_, err := vms.Create(ctx, config)
			if told := wants(t, err, dwcp.ErrInvalidConfig); !strings.Contains(told.Message, field) {
				t.Errorf("%s: %v", field, err)
			}
		}
		_, err = vms.GetMigrationStatus(ctx, "00000000-0000-4000-8000-000000000000")
		wants(t, err, dwcp.ErrNotFound)
		list, err := vms.List(ctx, nil)
		ok(t, err)
		if len(list) != 0 {
			t.Fatalf("something was made: %+v", list)
		}
	})
}

func TestWatch(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *dwcp.Node, client *dwcp.Client) {
		vm := newVM(t, client, false)
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		events := must[<-chan dwcp.VMEvent](t)(client.VM().Watch(ctx, vm.ID))
		first := next(t, client, events)
		if first.Type != dwcp.VMEventCurrent || first.VM.ID != vm.ID || first.VM.State != dwcp.VMStateStopped ||
			first.Store == "" {
			t.Fatalf("%+v", first)
		}
		ok(t, client.VM().Start(ctx, vm.ID))
		for last := first; last.VM.State != dwcp.VMStateRunning; {
			event := next(t, client, events)
			if event.Seq <= last.Seq || event.VM.Config.Memory != 16<<20 || event.Message == "" {
				t.Fatalf("%+v after %+v", event, last)
			}
			last = event
		}
		cancel()
		ended(t, events)
		ok(t, client.Err(events))

		all := must[<-chan dwcp.VMEvent](t)(client.VM().WatchAll(within(t), map[string]string{"name": "web"}))
		if event := next(t, client, all); event.VM.ID != vm.ID {
			t.Fatalf("%+v", event)
		}
		_, err := client.VM().Watch(within(t), "00000000-0000-4000-8000-000000000000")
		wants(t, err, dwcp.ErrVMNotFound)
	})
}

func TestStreamsEndWithTheClient(t *testing.T) {
	node := newNode(t)
	client := connected(t, configFor(t, node))
	vm := newVM(t, client, true)
	metrics := must[<-chan dwcp.VMMetrics](t)(client.VM().StreamMetrics(within(t), vm.ID, 10*time.Millisecond))
	for i := 0; i < 10; i++ {
		if item := next(t, client, metrics); item.MemoryUsed+item.MemoryAvailable != 16<<20 {
			t.Fatalf("%+v", item)
		}
	}
	ok(t, client.Disconnect())
	ended(t, metrics)
	wants(t, client.VM().Err(metrics), dwcp.ErrNotConnected)
	_, err := client.VM().StreamMetrics(within(t), vm.ID, time.Second)
	wants(t, err, dwcp.ErrNotConnected)
}

func TestAStreamThatNobodyReads(t *testing.T) {
	node := newNode(t)
	client := must[*dwcp.Client](t)(node.Client())
	vm := newVM(t, client, true)
	ctx, cancel := context.WithCancel(within(t))
	slow := must[<-chan dwcp.VMEvent](t)(client.VM().Watch(ctx, vm.ID))
	for i := 0; i < 3000; i++ {
		_, err := client.VM().Update(ctx, vm.ID, map[string]string{"i": "x"}, nil)
		ok(t, err)
	}
	if len(slow) > cap(slow) || cap(slow) > 256 {
		t.Fatal("it has no limit")
	}
	// What was lost is said, and the order holds.
	var last, lost uint64
	for last == 0 || lost == 0 {
		event := next(t, client, slow)
		if event.Type == dwcp.VMEventLost {
			lost = event.Count
			break
		}
		if event.Seq <= last {
			t.Fatalf("%d after %d", event.Seq, last)
		}
		if last = event.Seq; last >= 3000 {
			break
		}
	}
	cancel()
	ended(t, slow)
}

func TestConsole(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *dwcp.Node, client *dwcp.Client) {
		vm := newVM(t, client, true)
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		console := must[*dwcp.Console](t)(client.VM().Console(ctx, vm.ID))
		var _ io.ReadWriteCloser = console
		text := []byte("\x00\xffhello\r\n")
		count, err := console.Write(text)
		if err != nil || count != len(text) {
			t.Fatal(count, err)
		}
		// More than a guest takes that reads nothing.
		err = client.VM().WriteConsole(ctx, vm.ID, bytes.Repeat([]byte{'x'}, 100<<10))
		wants(t, err, dwcp.ErrResourceLimit)
		closed := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, console)
			closed <- err
		}()
		ok(t, console.Close())
		ok(t, <-closed)

		console = must[*dwcp.Console](t)(client.VM().Console(ctx, vm.ID))
		go func() {
			_, err := io.Copy(io.Discard, console)
			closed <- err
		}()
		cancel()
		if err := <-closed; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		_, err = client.VM().Console(ctx, vm.ID)
		wants(t, err, dwcp.ErrCancelled)
	})
}

func TestSnapshots(t *testing.T) {
	node := newNode(t, func(c *dwcp.NodeConfig) { c.DataDir = t.TempDir() })
	client := connected(t, configFor(t, node))
	vm, ctx, vms := newVM(t, client, true), within(t), client.VM()
	options := dwcp.DefaultSnapshotOptions()
	options.Description = "before"
	snapshot, err := vms.Snapshot(ctx, vm.ID, "snap-1", options)
	ok(t, err)
	list, err := vms.ListSnapshots(ctx, vm.ID)
	ok(t, err)
	if len(list) != 1 || list[0].ID != snapshot.ID || list[0].Name != "snap-1" || !list[0].IncludeMemory ||
		list[0].Description != "before" || list[0].CreatedAt.IsZero() || list[0].Size == 0 {
		t.Fatalf("%+v", list)
	}
	ok(t, vms.Stop(ctx, vm.ID, true))
	ok(t, vms.RestoreSnapshot(ctx, vm.ID, snapshot.ID))
	if got, err := vms.Get(ctx, vm.ID); err != nil || got.State != dwcp.VMStateRunning {
		t.Fatalf("%+v %v", got, err)
	}
	ok(t, vms.DeleteSnapshot(ctx, snapshot.ID))
	wants(t, vms.DeleteSnapshot(ctx, snapshot.ID), dwcp.ErrNotFound)
}

// imageFolder makes a folder with an image called mini: the smallest kernel, and a root disk of 1 MiB.
func imageFolder(t *testing.T) string {
	const start = 16 << 20
	var kernel bytes.Buffer
	kernel.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	for _, part := range []any{
		[]uint16{2, 62}, uint32(1), []uint64{start, 64, 0}, uint32(0), []uint16{64, 56, 1, 0, 0, 0},
		// One segment of 16 bytes.
		[]uint32{1, 5}, []uint64{120, start, start, 16, 16, 4096}, bytes.Repeat([]byte{0xf4}, 16),
	} {
		ok(t, binary.Write(&kernel, binary.LittleEndian, part))
	}
	folder := t.TempDir()
	for name, content := range map[string][]byte{
		"vmlinuz":  kernel.Bytes(),
		"root.img": make([]byte, 1<<20),
		"image.toml": []byte("format = 1\nname = \"mini\"\ncmdline = \"quiet\"\n" +
			"[kernel]\nfile = \"vmlinuz\"\n[disk]\nfile = \"root.img\"\n"),
	} {
		ok(t, os.WriteFile(filepath.Join(folder, name), content, 0o600))
	}
	return folder
}

func TestImages(t *testing.T) {
	disks, folder := t.TempDir(), imageFolder(t)
	node := newNode(t, func(c *dwcp.NodeConfig) { c.DataDir, c.DiskDir = t.TempDir(), disks })
	ctx, vms := within(t), connected(t, configFor(t, node)).VM()
	image, err := vms.ImportImage(ctx, folder, "")
	ok(t, err)
	if image.Name != "mini" || image.Cmdline != "quiet" || image.Kernel != 136 || image.Initrd != 0 ||
		image.Disk != 1<<20 || len(image.Digest) != 64 || image.CreatedAt.IsZero() {
		t.Fatalf("%+v", image)
	}
	other, err := vms.ImportImage(ctx, folder, "other")
	ok(t, err)
	list, err := vms.ListImages(ctx)
	ok(t, err)
	if len(list) != 2 || list[0] != *image || list[1] != *other || other.Digest != image.Digest {
		t.Fatalf("%+v", list)
	}
	vm, err := vms.Create(ctx, dwcp.VMConfig{Name: "of-an-image", Image: "mini", Memory: 32 << 20})
	ok(t, err)
	if _, err := os.Stat(filepath.Join(disks, vm.ID)); err != nil || vm.Config.Disk != 1<<20 {
		t.Fatal(err, vm.Config.Disk)
	}
	wants(t, vms.RemoveImage(ctx, "mini"), dwcp.ErrInvalidOperation)
	ok(t, vms.RemoveImage(ctx, "other"))
	wants(t, vms.RemoveImage(ctx, "other"), dwcp.ErrNotFound)
	ok(t, os.WriteFile(filepath.Join(folder, "vmlinuz"), []byte("a text"), 0o600))
	_, err = vms.ImportImage(ctx, folder, "")
	wants(t, err, dwcp.ErrAlreadyExists)
	_, err = vms.ImportImage(ctx, folder, "text")
	if told := wants(t, err, dwcp.ErrInvalidConfig); !strings.Contains(told.Error(), "kernel: ") {
		t.Fatal(told)
	}
}

func TestMigrationWithProgress(t *testing.T) {
	one := newNode(t)
	two := newNode(t, func(c *dwcp.NodeConfig) { c.Name = "node-b" })
	ok(t, one.AddPeer("node-b", two.Address(), ""))
	ok(t, two.AddPeer("node-a", one.Address(), ""))
	client := connected(t, configFor(t, one))
	vm, ctx, vms := newVM(t, client, true), within(t), client.VM()
	options := dwcp.DefaultMigrationOptions()
	_, err := vms.Migrate(ctx, vm.ID, "node-b", options)
	if err == nil || !strings.Contains(err.Error(), "encrypt_transport") {
		t.Fatalf("without TLS: %v", err)
	}
	options.EncryptTransport = false
	if plan, err := vms.PlanMigration(ctx, vm.ID, "node-b", options); err != nil {
		wants(t, err, dwcp.ErrUnsupported)
	} else if len(plan.Misfits) != 0 || plan.Mode == "" {
		t.Fatalf("%+v", plan)
	}
	status, err := vms.Migrate(ctx, vm.ID, "node-b", options)
	ok(t, err)
	progress := must[<-chan dwcp.MigrationStatus](t)(vms.MigrationProgress(ctx, status.ID))
	var last dwcp.MigrationStatus
	for item := range progress {
		last = item
	}
	ok(t, client.Err(progress))
	if last.State != dwcp.MigrationStateCompleted || !last.State.IsTerminal() || last.Progress != 100 ||
		last.TargetNode != "node-b" || last.CompletedAt == nil || last.VMID != vm.ID {
		t.Fatalf("%+v", last)
	}
	if status, err = vms.GetMigrationStatus(ctx, status.ID); err != nil || status.State != last.State {
		t.Fatalf("%+v %v", status, err)
	}
	list, err := vms.ListMigrations(ctx)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	_, err = vms.CancelMigration(ctx, status.ID)
	wants(t, err, dwcp.ErrInvalidOperation)
	if moved, err := vms.Get(ctx, vm.ID); err != nil || moved.Node != "node-b" {
		t.Fatalf("%+v %v", moved, err)
	}
}
