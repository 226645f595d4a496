package dwcp

import (
	"context"
	"encoding/base64"
	"time"
)

// VMClient has the calls about VMs, their migrations and snapshots. Cheap to make and to copy; any goroutine
// may use it.
//
// Every call fails with ErrNotConnected without a connection, ErrTimeout when ctx's deadline or the
// client's RequestTimeout has passed, and ErrCancelled when ctx was cancelled; with ErrVMNotFound or
// ErrNotFound for what the node does not have; with ErrInvalidOperation in a state in which it cannot be
// done; with ErrInvalidConfig for a value that is never allowed, naming the field; and with
// ErrPermissionDenied where the client's role does not allow it.
type VMClient struct{ client *Client }

func (v *VMClient) done(ctx context.Context, name method, f fields) error {
	return v.client.call(ctx, name, f, nil)
}

func (v *VMClient) vm(ctx context.Context, name method, f fields) (*VM, error) {
	vm := new(VM)
	err := v.client.call(ctx, name, f, func(json []byte) error {
		return decode(json, func(r *reader) { r.vm(vm) })
	})
	if err != nil {
		return nil, err
	}
	return vm, nil
}

func ofVM(id string) fields { return fields(nil).text("vm_id", id) }

// Create makes a VM, which is durable and stopped when it returns. It fails with ErrUnsupported for a field
// that asks for what the node cannot do, and ErrResourceLimit for a limit of the node.
func (v *VMClient) Create(ctx context.Context, config VMConfig) (*VM, error) {
	return v.CreateWithKey(ctx, config, "")
}

// CreateWithKey is Create with an idempotency key: for ten minutes, the same key gives the same VM.
func (v *VMClient) CreateWithKey(ctx context.Context, config VMConfig, key string) (*VM, error) {
	f, err := fields(nil).json("request", map[string]*VMConfig{"config": &config})
	if err != nil {
		return nil, err
	}
	return v.vm(ctx, "create\x00", f.key(key))
}

func (f fields) key(key string) fields {
	if key == "" {
		return f
	}
	return f.text("key", key)
}

// Start starts a VM; its vCPUs run when it returns.
func (v *VMClient) Start(ctx context.Context, id string) error {
	return v.done(ctx, "start\x00", ofVM(id))
}

// Stop stops a VM: at once with force, else its guest is asked and has 30 s, or it fails with ErrTimeout and
// the VM runs on.
func (v *VMClient) Stop(ctx context.Context, id string, force bool) error {
	f, err := ofVM(id).json("force", force)
	if err != nil {
		return err
	}
	return v.done(ctx, "stop\x00", f)
}

// StopWithin is Stop without force, with another time for the guest; 0 for 30 s.
func (v *VMClient) StopWithin(ctx context.Context, id string, timeout time.Duration) error {
	f := ofVM(id)
	if timeout != 0 {
		f = f.text("timeout", timeout.String())
	}
	return v.done(ctx, "stop\x00", f)
}

// Destroy removes a VM that is stopped or failed, with its disks.
func (v *VMClient) Destroy(ctx context.Context, id string) error {
	return v.done(ctx, "destroy\x00", ofVM(id))
}

// Pause holds the vCPUs of a VM that runs.
func (v *VMClient) Pause(ctx context.Context, id string) error {
	return v.done(ctx, "pause\x00", ofVM(id))
}

// Resume lets them run again.
func (v *VMClient) Resume(ctx context.Context, id string) error {
	return v.done(ctx, "resume\x00", ofVM(id))
}

// Reset starts the guest anew at once, as a reset button does.
func (v *VMClient) Reset(ctx context.Context, id string) error {
	return v.done(ctx, "reset\x00", ofVM(id))
}

// Update replaces the labels, the annotations, or both; nil keeps them, an empty map removes all.
func (v *VMClient) Update(ctx context.Context, id string, labels, annotations map[string]string) (*VM, error) {
	f, err := ofVM(id), error(nil)
	if labels != nil {
		if f, err = f.json("labels", labels); err != nil {
			return nil, err
		}
	}
	if annotations != nil {
		if f, err = f.json("annotations", annotations); err != nil {
			return nil, err
		}
	}
	return v.vm(ctx, "update\x00", f)
}

// Get returns what a VM is and does.
func (v *VMClient) Get(ctx context.Context, id string) (*VM, error) {
	return v.vm(ctx, "get\x00", ofVM(id))
}

// List returns the VMs that match all filters, or all with nil. The keys name, state, node and image compare
// with the VM's own, every other key is a label.
func (v *VMClient) List(ctx context.Context, filters map[string]string) ([]VM, error) {
	f, err := fields(nil).json("filters", filters)
	if err != nil {
		return nil, err
	}
	var vms []VM
	err = v.client.call(ctx, "list\x00", f, func(json []byte) error {
		return decode(json, func(r *reader) { vms = r.vms() })
	})
	return vms, err
}

// GetMetrics returns the figures of a VM that runs, means taken over the time before now: text such as "5m",
// which "" stands for.
func (v *VMClient) GetMetrics(ctx context.Context, id, duration string) (*VMMetrics, error) {
	f := ofVM(id)
	if duration != "" {
		f = f.text("duration", duration)
	}
	metrics := new(VMMetrics)
	err := v.client.call(ctx, "get_metrics\x00", f, func(json []byte) error {
		return decode(json, func(r *reader) { r.metrics(metrics) })
	})
	if err != nil {
		return nil, err
	}
	return metrics, nil
}

// GuestReport returns what the built-in guest says of itself, without any check being made. It fails with
// ErrUnsupported for another guest.
func (v *VMClient) GuestReport(ctx context.Context, id string) (*GuestReport, error) {
	return ask[GuestReport](ctx, v.client, "guest_report\x00", ofVM(id))
}

// Verify has the built-in guest check all its memory, and returns its report.
func (v *VMClient) Verify(ctx context.Context, id string) (*GuestReport, error) {
	return ask[GuestReport](ctx, v.client, "verify\x00", ofVM(id))
}

// Migrate begins to move a VM to the node of that name, and returns when that is accepted; the status says
// how it ends, see GetMigrationStatus and MigrationProgress. It fails with ErrMigration where the target
// cannot take the VM, ErrNotFound where the node has no such peer.
func (v *VMClient) Migrate(
	ctx context.Context, id, targetNode string, options MigrationOptions,
) (*MigrationStatus, error) {
	return v.MigrateWithKey(ctx, id, targetNode, options, "")
}

// MigrateWithKey is Migrate with an idempotency key: the same key begins it once.
func (v *VMClient) MigrateWithKey(
	ctx context.Context, id, targetNode string, options MigrationOptions, key string,
) (*MigrationStatus, error) {
	f, err := migration(id, targetNode, options)
	if err != nil {
		return nil, err
	}
	return ask[MigrationStatus](ctx, v.client, "migrate\x00", f.key(key))
}

func migration(id, targetNode string, options MigrationOptions) (fields, error) {
	return ofVM(id).text("target_node", targetNode).json("options", options)
}

// PlanMigration says what moving a VM would be like.
func (v *VMClient) PlanMigration(
	ctx context.Context, id, targetNode string, options MigrationOptions,
) (*MigrationPlan, error) {
	f, err := migration(id, targetNode, options)
	if err != nil {
		return nil, err
	}
	return ask[MigrationPlan](ctx, v.client, "plan_migration\x00", f)
}

func ofMigration(id string) fields { return fields(nil).text("migration_id", id) }

// GetMigrationStatus says how a migration goes, or went.
func (v *VMClient) GetMigrationStatus(ctx context.Context, migrationID string) (*MigrationStatus, error) {
	return ask[MigrationStatus](ctx, v.client, "get_migration_status\x00", ofMigration(migrationID))
}

// CancelMigration ends a migration; the VM stays where it is.
func (v *VMClient) CancelMigration(ctx context.Context, migrationID string) (*MigrationStatus, error) {
	return ask[MigrationStatus](ctx, v.client, "cancel_migration\x00", ofMigration(migrationID))
}

// ListMigrations returns the migrations that the node knows of.
func (v *VMClient) ListMigrations(ctx context.Context) ([]MigrationStatus, error) {
	return list[MigrationStatus](ctx, v.client, "list_migrations\x00", nil)
}

// ResolveMigration finds out who has the VM of a migration that lost its peer; with force, which needs the
// role admin, takes it although the peer does not answer.
func (v *VMClient) ResolveMigration(
	ctx context.Context, migrationID string, force bool,
) (*MigrationStatus, error) {
	f, err := ofMigration(migrationID).json("force", force)
	if err != nil {
		return nil, err
	}
	return ask[MigrationStatus](ctx, v.client, "resolve_migration\x00", f)
}

// Snapshot takes a snapshot, which is complete when it returns.
func (v *VMClient) Snapshot(ctx context.Context, id, name string, options SnapshotOptions) (*Snapshot, error) {
	return v.SnapshotWithKey(ctx, id, name, options, "")
}

// SnapshotWithKey is Snapshot with an idempotency key: the same key takes it once.
func (v *VMClient) SnapshotWithKey(
	ctx context.Context, id, name string, options SnapshotOptions, key string,
) (*Snapshot, error) {
	f, err := ofVM(id).text("name", name).json("options", options)
	if err != nil {
		return nil, err
	}
	return ask[Snapshot](ctx, v.client, "snapshot\x00", f.key(key))
}

// ListSnapshots returns the snapshots of a VM, oldest first.
func (v *VMClient) ListSnapshots(ctx context.Context, id string) ([]Snapshot, error) {
	return list[Snapshot](ctx, v.client, "list_snapshots\x00", ofVM(id))
}

// RestoreSnapshot makes a VM what it was when the snapshot was taken, in the state it had then.
func (v *VMClient) RestoreSnapshot(ctx context.Context, id, snapshotID string) error {
	return v.done(ctx, "restore_snapshot\x00", ofVM(id).text("snapshot_id", snapshotID))
}

// DeleteSnapshot removes a snapshot.
func (v *VMClient) DeleteSnapshot(ctx context.Context, snapshotID string) error {
	return v.done(ctx, "delete_snapshot\x00", fields(nil).text("snapshot_id", snapshotID))
}

// ImportImage brings the image in a folder of the node's own host into its store, under name or, where that is
// "", under the name it has. It needs the role admin. It fails with ErrInvalidConfig naming what is wrong with the
// image, and ErrAlreadyExists where another one has the name.
func (v *VMClient) ImportImage(ctx context.Context, path, name string) (*Image, error) {
	f := fields(nil).text("path", path)
	if name != "" {
		f = f.text("name", name)
	}
	return ask[Image](ctx, v.client, "import_image\x00", f)
}

// ListImages returns the images in the node's store, by name; the built-in guest is not among them.
func (v *VMClient) ListImages(ctx context.Context) ([]Image, error) {
	return list[Image](ctx, v.client, "list_images\x00", nil)
}

// RemoveImage removes an image that no VM names. It needs the role admin.
func (v *VMClient) RemoveImage(ctx context.Context, name string) error {
	return v.done(ctx, "remove_image\x00", fields(nil).text("name", name))
}

func list[T any](ctx context.Context, c *Client, name method, f fields) ([]T, error) {
	answer, err := ask[[]T](ctx, c, name, f)
	if err != nil {
		return nil, err
	}
	return *answer, nil
}

// consoleWriteMax is how many bytes the node takes at once.
const consoleWriteMax = 64 << 10

// WriteConsole types on the console of a VM; returns when the bytes are queued.
func (v *VMClient) WriteConsole(ctx context.Context, id string, data []byte) error {
	_, err := v.writeConsole(ctx, id, data)
	return err
}

// writeConsole says how many bytes were queued, too.
func (v *VMClient) writeConsole(ctx context.Context, id string, data []byte) (int, error) {
	for at := 0; ; {
		piece := data[at:min(len(data), at+consoleWriteMax)]
		f := ofVM(id).text("data", base64.StdEncoding.EncodeToString(piece))
		if err := v.done(ctx, "console\x00", f); err != nil {
			return at, err
		}
		if at += len(piece); at == len(data) {
			return at, nil
		}
	}
}
