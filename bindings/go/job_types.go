package dwcp

import (
	"encoding/json"
	"time"
)

// MigrationOptions say how to move a VM. Zero values of numbers, text and Timeout are the defaults; the
// booleans are what they are, so begin with DefaultMigrationOptions. Compression, AutoConverge, PostCopy and
// Parallel are permissions: the status says what was used. Live, Offline, VerifyChecksum and
// EncryptTransport are promises, kept or refused.
type MigrationOptions struct {
	// The VM runs while its memory is copied; else it is paused, copied, and resumed there. Default true.
	Live bool
	// The VM is stopped, or gets stopped, and its disks and config move. Default false.
	Offline bool
	// Limit on the time in which the VM runs nowhere, in milliseconds; 0 for the default, 500.
	MaxDowntime int
	// Limit in bytes per second over all connections; 0, the default, for none.
	Bandwidth uint64
	// Permission to compress page data where it pays. Default true.
	Compression bool
	// Permission to slow vCPUs down that write faster than can be copied. Default true.
	AutoConverge bool
	// Permission to switch first and fetch the rest when it is needed. Default false.
	PostCopy bool
	// Connections for page data, up to 64; 0 for the default, 4.
	Parallel int
	// Every chunk carries a checksum. Default true.
	VerifyChecksum bool
	// Page data travels in TLS. Default true; refused where the target has no TLS.
	EncryptTransport bool
	// Time from the start to the switch; 0 for no limit.
	Timeout time.Duration
	// What happens then: "cancel", the default, or "ignore".
	OnTimeout string
	// Copy the disks too, where the target cannot reach them. Default false.
	WithDisks bool
	// Whether memory is handed over instead of copied on one host: "auto", the default, "never" or "require".
	SameHost string
}

// DefaultMigrationOptions are live, with compression, auto-converge, checksums and encryption.
func DefaultMigrationOptions() MigrationOptions {
	return MigrationOptions{
		Live: true, Compression: true, AutoConverge: true, VerifyChecksum: true, EncryptTransport: true,
		MaxDowntime: 500, Parallel: 4,
	}
}

// MarshalJSON writes the options as the protocol has them.
func (o MigrationOptions) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Live             bool   `json:"live"`
		Offline          bool   `json:"offline"`
		MaxDowntime      int    `json:"max_downtime"`
		Bandwidth        uint64 `json:"bandwidth"`
		Compression      bool   `json:"compression"`
		AutoConverge     bool   `json:"auto_converge"`
		PostCopy         bool   `json:"post_copy"`
		Parallel         int    `json:"parallel"`
		VerifyChecksum   bool   `json:"verify_checksum"`
		EncryptTransport bool   `json:"encrypt_transport"`
		Timeout          string `json:"timeout,omitempty"`
		OnTimeout        string `json:"on_timeout,omitempty"`
		WithDisks        bool   `json:"with_disks"`
		SameHost         string `json:"same_host,omitempty"`
	}{
		o.Live, o.Offline, o.MaxDowntime, o.Bandwidth, o.Compression, o.AutoConverge, o.PostCopy, o.Parallel,
		o.VerifyChecksum, o.EncryptTransport, durationText(o.Timeout), o.OnTimeout, o.WithDisks, o.SameHost,
	})
}

// MigrationState is how far a migration is.
type MigrationState string

// The states of a migration.
const (
	// The target checks whether it can run the VM, and makes room.
	MigrationStatePreparing MigrationState = "preparing"
	// Memory is being copied while the VM runs at the source.
	MigrationStateRunning MigrationState = "running"
	// The switch, and in post-copy the rest of the memory after it.
	MigrationStateCompleting MigrationState = "completing"
	// The VM runs on the target.
	MigrationStateCompleted MigrationState = "completed"
	// It ended without moving the VM; Error says why.
	MigrationStateFailed MigrationState = "failed"
	// It was cancelled; the VM stays where it was.
	MigrationStateCancelled MigrationState = "cancelled"
)

// IsTerminal says whether it has ended.
func (s MigrationState) IsTerminal() bool {
	return s == MigrationStateCompleted || s == MigrationStateFailed || s == MigrationStateCancelled
}

// MigrationMode is the way a VM is moved.
type MigrationMode string

// The ways.
const (
	// Memory first, in rounds, then the switch.
	MigrationModePrecopy MigrationMode = "precopy"
	// The switch first, then the rest of the memory, as it is needed.
	MigrationModePostcopy MigrationMode = "postcopy"
	// Memory while the VM is paused.
	MigrationModeStopAndCopy MigrationMode = "stop_and_copy"
	// Memory is handed over on one host, and not copied.
	MigrationModeSameHost MigrationMode = "same_host"
	// The VM is stopped: it has no memory to move.
	MigrationModeOffline MigrationMode = "offline"
)

// MigrationStatus is how a migration goes, or went.
type MigrationStatus struct {
	// Id of the migration.
	ID string `json:"id"`
	// The VM.
	VMID string `json:"vm_id"`
	// Name of the node it leaves.
	SourceNode string `json:"source_node"`
	// Name of the node it goes to.
	TargetNode string `json:"target_node"`
	// How far it is.
	State MigrationState `json:"state"`
	// Share of the work that is done, 0 to 100.
	Progress float64 `json:"progress"`
	// Bytes to be sent, as far as it is known now.
	BytesTotal uint64 `json:"bytes_total"`
	// Bytes sent.
	BytesSent uint64 `json:"bytes_sent"`
	// Bytes sent per second, lately.
	Throughput uint64 `json:"throughput"`
	// The longest time in which the guest stood still, in milliseconds.
	Downtime uint64 `json:"downtime"`
	// When it began.
	StartedAt time.Time `json:"started_at"`
	// When it ended, or nil.
	CompletedAt *time.Time `json:"completed_at,omitempty"`
	// Why it failed.
	Error string `json:"error,omitempty"`
	// The way it is done.
	Mode MigrationMode `json:"mode"`
	// The round being sent, from 1; 0 before the first.
	Round int `json:"round"`
	// The rounds that were sent.
	Rounds []RoundReport `json:"rounds"`
	// Pages of 4 KiB the guest writes per second, lately.
	DirtyRate float64 `json:"dirty_rate"`
	// Downtime in microseconds, were the switch made now.
	ExpectedDowntimeUs uint64 `json:"expected_downtime_us"`
	// The same as Downtime, in microseconds.
	DowntimeUs uint64 `json:"downtime_us"`
	// What the switch went into.
	Breakdown DowntimeBreakdown `json:"breakdown"`
	// How long all vCPUs together stood still before the switch, in microseconds.
	StallUs uint64 `json:"stall_us"`
	// Bytes by kind.
	Bytes MigrationBytes `json:"bytes"`
	// Connections for page data in use.
	Channels int `json:"channels"`
	// How far the guest was held back so that copying could keep up, in percent of the time.
	Throttle int `json:"throttle"`
	// Microseconds until the switch if all goes on as now; nil where it is not known.
	TimeLeftUs *uint64 `json:"time_left_us"`
}

// RoundReport is one pass over the memory that had changed.
type RoundReport struct {
	// Number of the round, from 1.
	Round int `json:"round"`
	// Pages of 4 KiB sent, zero pages included.
	Pages uint64 `json:"pages"`
	// Bytes sent.
	Bytes uint64 `json:"bytes"`
	// How long it took, in microseconds.
	DurationUs uint64 `json:"duration_us"`
	// Pages of 4 KiB the guest wrote per second meanwhile.
	DirtyPagesPerSecond float64 `json:"dirty_pages_per_second"`
	// Bytes sent per second.
	Throughput uint64 `json:"throughput"`
}

// DowntimeBreakdown says what the time in which the VM ran nowhere went into, in microseconds. Parts may
// overlap; TotalUs is the time from the first vCPU's stop to the first run there.
type DowntimeBreakdown struct {
	// Until all vCPUs were out of the guest.
	StopVCPUsUs uint64 `json:"stop_vcpus_us"`
	// Draining the devices and saving the state of the machine.
	SaveStateUs uint64 `json:"save_state_us"`
	// Finding and sending the last pages.
	LastPagesUs uint64 `json:"last_pages_us"`
	// Loading the state of the machine at the target.
	LoadStateUs uint64 `json:"load_state_us"`
	// Making the grant durable at the source.
	GrantUs uint64 `json:"grant_us"`
	// Making the verdict durable at the target, disk locks included.
	CommitUs uint64 `json:"commit_us"`
	// Until the vCPUs ran at the target.
	ResumeUs uint64 `json:"resume_us"`
	// All of it.
	TotalUs uint64 `json:"total_us"`
}

// MigrationBytes is what was sent, in bytes of the guest's memory and disk.
type MigrationBytes struct {
	// Sent as they are.
	Data uint64 `json:"data"`
	// Found to be zero, and announced instead of sent.
	Zero uint64 `json:"zero"`
	// Sent compressed; the size before compression.
	Compressed uint64 `json:"compressed"`
	// Sent more than once, because the guest wrote again.
	Resent uint64 `json:"resent"`
	// Sent of the disk, where that was taken along.
	Disk uint64 `json:"disk"`
}

// MigrationPlan is what a migration would be like if it began now.
type MigrationPlan struct {
	// Time from start to end, in microseconds.
	TotalUs uint64 `json:"total_us"`
	// Time in which the VM would run nowhere, in microseconds.
	DowntimeUs uint64 `json:"downtime_us"`
	// The way it would be done.
	Mode MigrationMode `json:"mode"`
	// Pages of 4 KiB the guest writes per second.
	DirtyRate float64 `json:"dirty_rate"`
	// Why the target cannot run the VM; empty if it can.
	Misfits []Misfit `json:"misfits"`
}

// Misfit is one reason why a node cannot run a VM.
type Misfit struct {
	// What kind of thing does not fit: cpuid, msr, memory, disk and so on.
	Kind string `json:"kind"`
	// Its name.
	Name string `json:"name"`
	// What is needed, and what is there.
	Detail string `json:"detail"`
}

// SnapshotOptions say how to take a snapshot. The booleans are what they are: begin with
// DefaultSnapshotOptions.
type SnapshotOptions struct {
	// Keep memory and machine state, not only disks. Default true. Without them a restored VM is stopped.
	IncludeMemory bool `json:"include_memory"`
	// Text for people.
	Description string `json:"description"`
	// Ask the guest to bring its file systems to rest first, where it can. Default true.
	Quiesce bool `json:"quiesce"`
}

// DefaultSnapshotOptions keep memory and ask the guest for rest.
func DefaultSnapshotOptions() SnapshotOptions {
	return SnapshotOptions{IncludeMemory: true, Quiesce: true}
}

// Snapshot is a snapshot of a VM.
type Snapshot struct {
	// Id, a UUID in text.
	ID string `json:"id"`
	// The VM it is of.
	VMID string `json:"vm_id"`
	// Its name.
	Name string `json:"name"`
	// Text for people.
	Description string `json:"description"`
	// Bytes it takes on the node's disk.
	Size uint64 `json:"size"`
	// When it was taken.
	CreatedAt time.Time `json:"created_at"`
	// The snapshot it builds on, or "".
	Parent string `json:"parent,omitempty"`
	// The snapshots that build on it.
	Children []string `json:"children,omitempty"`
	// Whether it has memory and machine state.
	IncludeMemory bool `json:"include_memory"`
	// Whether the guest had brought its file systems to rest.
	Quiesced bool `json:"quiesced"`
}

// Image is an image in a node's store: a kernel, and what goes with it.
type Image struct {
	// Its name, which VMs name in VMConfig.Image.
	Name string `json:"name"`
	// Images with the same digest boot the same, on whatever node.
	Digest string `json:"digest"`
	// The kernel's command line.
	Cmdline string `json:"cmdline"`
	// Bytes of the kernel.
	Kernel uint64 `json:"kernel"`
	// Bytes of the initial RAM disk; 0 for none.
	Initrd uint64 `json:"initrd"`
	// Bytes of the root disk of which each VM gets a copy; 0 for none.
	Disk uint64 `json:"disk"`
	// When it was imported.
	CreatedAt time.Time `json:"created_at"`
}
