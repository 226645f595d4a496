package dwcp

import "time"

// VMState is what a VM is doing. Newer nodes may have more states.
type VMState string

// The states of a VM.
const (
	// Being made durable.
	VMStateCreating VMState = "creating"
	// Its vCPUs are about to run.
	VMStateStarting VMState = "starting"
	// Its vCPUs run.
	VMStateRunning VMState = "running"
	// Asked to stop, and not stopped yet.
	VMStateStopping VMState = "stopping"
	// Not running; config and disks are kept.
	VMStateStopped VMState = "stopped"
	// Its vCPUs are held, its memory is kept.
	VMStatePaused VMState = "paused"
	// Being moved to another node; it runs meanwhile, but for the switch.
	VMStateMigrating VMState = "migrating"
	// Ended by a failure; Reason says which.
	VMStateFailed VMState = "failed"
	// It cannot be told: the VM's migration is unresolved.
	VMStateUnknown VMState = "unknown"
)

// VMConfig is what a VM is asked to be. Only Name is required; a zero value asks for nothing. A field that
// asks for what the node cannot do makes Create fail with ErrUnsupported, naming the field.
type VMConfig struct {
	// Name: 1 to 128 of A–Z a–z 0–9 . _ -
	Name string `json:"name"`
	// Guest memory in bytes, at least 16 MiB, in steps of 4 KiB. 0 is 2 GiB.
	Memory uint64 `json:"memory,omitempty"`
	// vCPUs, 1 to 128. 0 is 2.
	CPUs int `json:"cpus,omitempty"`
	// Disk in bytes, 0 for none.
	Disk uint64 `json:"disk,omitempty"`
	// Image to boot. "" is the node's default, which is dwcp/pulse, the built-in guest.
	Image string `json:"image,omitempty"`
	// Network.
	Network NetworkConfig `json:"network"`
	// Cloud-init user data.
	CloudInit string `json:"cloud_init,omitempty"`
	// Labels, by which VMs can be listed.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations, for whoever reads them: the built-in guest, or the user.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Weight against other VMs of the node; 0 is normal, more is more important.
	Priority int `json:"priority,omitempty"`
	// Rules for the node it runs on.
	Affinity *Affinity `json:"affinity,omitempty"`
	// Ask for a GPU.
	EnableGPU bool `json:"enable_gpu,omitempty"`
	// Model of the GPU, or empty for any.
	GPUType string `json:"gpu_type,omitempty"`
	// Ask for SR-IOV network functions.
	EnableSRIOV bool `json:"enable_sr_iov,omitempty"`
	// Ask for a virtual TPM.
	EnableTPM bool `json:"enable_tpm,omitempty"`
	// Ask for secure boot.
	EnableSecureBoot bool `json:"enable_secure_boot,omitempty"`
	// Devices of the host to hand through.
	HostDevices []string `json:"host_devices,omitempty"`
	// Host CPU for each vCPU in turn, repeated from the start if shorter.
	CPUPinning []int `json:"cpu_pinning,omitempty"`
	// NUMA nodes of the host to take memory from.
	NUMANodes []int `json:"numa_nodes,omitempty"`
	// Back the guest's memory with huge pages.
	HugePages bool `json:"huge_pages,omitempty"`
	// Threads for device I/O, 0 for the node's choice.
	IOThreads int `json:"io_threads,omitempty"`
	// Memory in bytes it may grow to, 0 for no growth.
	MemoryMax uint64 `json:"memory_max,omitempty"`
	// CPU time in percent of one CPU, so up to 100 × CPUs; 0 for no limit.
	CPUQuota int `json:"cpu_quota,omitempty"`
	// Disk operations per second, 0 for no limit.
	DiskIOPSLimit uint64 `json:"disk_iops_limit,omitempty"`
	// Network traffic in bits per second, 0 for no limit.
	NetworkBandwidth uint64 `json:"network_bandwidth,omitempty"`
}

// NetworkConfig is the network of a VM. Its zero value asks for nothing.
type NetworkConfig struct {
	// "none", "bridge", "tap" or "nat"; "" for what the node is set up to do.
	Mode string `json:"mode,omitempty"`
	// Its interfaces; empty for what Mode implies.
	Interfaces []NetIf `json:"interfaces,omitempty"`
	// Addresses of name servers.
	DNS []string `json:"dns,omitempty"`
	// Address of the default gateway.
	Gateway string `json:"gateway,omitempty"`
	// Largest packet in bytes, 0 for the node's choice.
	MTU int `json:"mtu,omitempty"`
}

// NetIf is one network interface of a VM. Zero values leave the choice to the node.
type NetIf struct {
	// Name, such as eth0.
	Name string `json:"name,omitempty"`
	// Kind of device: "virtio" or empty.
	Type string `json:"type,omitempty"`
	// Hardware address, xx:xx:xx:xx:xx:xx.
	MAC string `json:"mac,omitempty"`
	// Bridge of the host it is attached to.
	Bridge string `json:"bridge,omitempty"`
	// VLAN number 1 to 4094, 0 for none.
	VLAN int `json:"vlan,omitempty"`
	// Address of the guest.
	IPAddress string `json:"ip_address,omitempty"`
	// Netmask of the guest, 255.255.255.0 or 24.
	Netmask string `json:"netmask,omitempty"`
	// Traffic in bits per second, 0 for no limit.
	Bandwidth uint64 `json:"bandwidth,omitempty"`
}

// Affinity has rules for the node a VM runs on. Its zero value asks for nothing.
type Affinity struct {
	// Labels the node must have.
	NodeSelector map[string]string `json:"node_selector,omitempty"`
	// Names of the only nodes allowed.
	RequiredNodes []string `json:"required_nodes,omitempty"`
	// Names of nodes to prefer.
	PreferredNodes []string `json:"preferred_nodes,omitempty"`
	// Ids of VMs that must run on other nodes.
	AntiAffinityVMs []string `json:"anti_affinity_vms,omitempty"`
	// Ids of VMs that must run on the same node.
	RequireSameHost []string `json:"require_same_host,omitempty"`
}

// VM is a VM as its node sees it.
type VM struct {
	// Id, a UUID in text.
	ID string `json:"id"`
	// Name from the config.
	Name string `json:"name"`
	// What it is doing.
	State VMState `json:"state"`
	// What it was asked to be.
	Config VMConfig `json:"config"`
	// Name of the node it runs on, or is kept on.
	Node string `json:"node"`
	// When it was created.
	CreatedAt time.Time `json:"created_at"`
	// When it was last changed.
	UpdatedAt time.Time `json:"updated_at"`
	// When it was last started, or nil.
	StartedAt *time.Time `json:"started_at,omitempty"`
	// When it last stopped, or nil.
	StoppedAt *time.Time `json:"stopped_at,omitempty"`
	// Its figures, in what Get and List return while it runs, else nil.
	Metrics *VMMetrics `json:"metrics,omitempty"`
	// Labels: those of the config, as updated since.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations: those of the config, as updated since.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Why it is failed, paused or waiting.
	Reason string `json:"reason,omitempty"`
	// The guest's network addresses, as far as they are known.
	Addresses []string `json:"addresses,omitempty"`
}

// VMMetrics are figures about a VM over a window of time. Counters are totals since the VM was started.
type VMMetrics struct {
	// Mean CPU use over the window, in percent of one CPU: 0 to 100 × vCPUs.
	CPUUsage float64 `json:"cpu_usage"`
	// Guest memory in use, in bytes.
	MemoryUsed uint64 `json:"memory_used"`
	// The rest of the guest's memory, in bytes.
	MemoryAvailable uint64 `json:"memory_available"`
	// Bytes read from disks.
	DiskRead uint64 `json:"disk_read"`
	// Bytes written to disks.
	DiskWrite uint64 `json:"disk_write"`
	// Bytes received from the network.
	NetworkRx uint64 `json:"network_rx"`
	// Bytes sent to the network.
	NetworkTx uint64 `json:"network_tx"`
	// When the window ended.
	Timestamp time.Time `json:"timestamp"`
	// Pages of 4 KiB written per second, where it was measured, else nil.
	DirtyPagesPerSecond *float64 `json:"dirty_pages_per_second,omitempty"`
	// Exits of all vCPUs to the node's process.
	VMExits uint64 `json:"vm_exits"`
	// Time the vCPUs were ready but had no host CPU, in microseconds, where it was measured, else nil.
	StealTimeUs *uint64 `json:"steal_time_us,omitempty"`
	// Time the vCPUs were held up by migration and snapshots, in microseconds.
	StallUs uint64 `json:"stall_us"`
}

// VMEventType says what happened to a VM. Newer nodes may have more types.
type VMEventType string

// The types of events.
const (
	// The present state: the first item of every watch.
	VMEventCurrent VMEventType = "current"
	// The VM was created.
	VMEventCreated VMEventType = "created"
	// Its vCPUs are about to run.
	VMEventStarting VMEventType = "starting"
	// Its vCPUs run.
	VMEventStarted VMEventType = "started"
	// It was asked to stop.
	VMEventStopping VMEventType = "stopping"
	// It stopped.
	VMEventStopped VMEventType = "stopped"
	// Its vCPUs are held.
	VMEventPaused VMEventType = "paused"
	// Its vCPUs run again.
	VMEventResumed VMEventType = "resumed"
	// It was reset.
	VMEventReset VMEventType = "reset"
	// Its labels or annotations were changed.
	VMEventUpdated VMEventType = "updated"
	// A migration of it began.
	VMEventMigrating VMEventType = "migrating"
	// It runs on another node now.
	VMEventMigrated VMEventType = "migrated"
	// A migration ended without moving it.
	VMEventMigrationFailed VMEventType = "migration_failed"
	// A snapshot of it was taken.
	VMEventSnapshotCreated VMEventType = "snapshot_created"
	// It is again what it was when a snapshot was taken.
	VMEventSnapshotRestored VMEventType = "snapshot_restored"
	// A snapshot of it was removed.
	VMEventSnapshotDeleted VMEventType = "snapshot_deleted"
	// It was ended by a failure.
	VMEventFailed VMEventType = "failed"
	// It was destroyed.
	VMEventDestroyed VMEventType = "destroyed"
	// The guest said something, such as a fault its own check found.
	VMEventGuest VMEventType = "guest"
	// Events between the last item and this one are no longer kept.
	VMEventLost VMEventType = "lost"
)

// VMEvent is one item of a watch.
type VMEvent struct {
	// Number of the event, rising for the life of the node's store and never used twice.
	Seq uint64 `json:"seq"`
	// What it says.
	Type VMEventType `json:"type"`
	// The VM as it was then; zero with type VMEventLost.
	VM VM `json:"vm"`
	// When it happened.
	Timestamp time.Time `json:"timestamp"`
	// The same for people.
	Message string `json:"message"`
	// With VMEventCurrent and VMEventLost: UUID of the store that Seq is a number of, from this item on.
	Store string `json:"store,omitempty"`
	// With VMEventLost: how many events were not delivered.
	Count uint64 `json:"count,omitempty"`
	// With VMEventLost: Seq of the next event that will be.
	Next uint64 `json:"next,omitempty"`
}

// GuestReport is what the built-in guest dwcp/pulse says of itself: it writes patterns to its memory and
// checks them.
type GuestReport struct {
	// The VM.
	VMID string `json:"vm_id"`
	// Beats of vCPU 0 since the guest was started.
	Beats uint64 `json:"beats"`
	// Pages of 4 KiB written by the working load since the guest was started.
	PagesWritten uint64 `json:"pages_written"`
	// Pages filled with the pattern at the start, all of which are checked.
	PagesFilled uint64 `json:"pages_filled"`
	// Complete laps of the check that runs in the background.
	Laps uint64 `json:"laps"`
	// Pages checked, in the background and on request.
	PagesVerified uint64 `json:"pages_verified"`
	// Pages whose content was wrong.
	Faults uint64 `json:"faults"`
	// Guest-physical address of the first wrong page, or nil.
	FirstFault *uint64 `json:"first_fault,omitempty"`
	// Whether the check that was asked for ended, and no page was ever wrong.
	Verified bool `json:"verified"`
	// Longest silence between two beats of vCPU 0 since the previous Verify, in microseconds.
	LongestBeatGapUs uint64 `json:"longest_beat_gap_us"`
	// Silence across the move to this node, in microseconds; nil for a guest that was started here.
	SwitchGapUs *uint64 `json:"switch_gap_us,omitempty"`
	// Pages of 4 KiB the working load writes per second.
	PagesWrittenPerSecond float64 `json:"pages_written_per_second"`
	// When the report was made.
	Timestamp time.Time `json:"timestamp"`
}
