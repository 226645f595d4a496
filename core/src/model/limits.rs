//! Limits of what a VM may be asked to be, each with its reason.
//!
//! They bound what a caller can make a node hold, store and send in every reply; what a given host
//! has left is another question, answered with `resource_limit`.

/// Least guest memory in bytes, 16 MiB: room for the boot structures and a small kernel.
pub const MEMORY_MIN: u64 = 16 << 20;
/// Most guest memory in bytes, 16 TiB: far above today's hosts, and its page numbers fit in 32 bits.
pub const MEMORY_MAX: u64 = 16 << 40;
/// Guest memory comes in steps of this many bytes: the x86 page.
pub const MEMORY_STEP: u64 = 4096;
/// Guest memory where none is named, 2 GiB.
pub const MEMORY_DEFAULT: u64 = 2 << 30;
/// Most vCPUs.
pub const CPUS_MAX: u32 = 128;
/// vCPUs where none are named.
pub const CPUS_DEFAULT: u32 = 2;
/// Most bytes of disk, 64 TiB: above the largest file that ext4 can hold.
pub const DISK_MAX: u64 = 64 << 40;
/// The image where none is named: the built-in guest.
pub const IMAGE_DEFAULT: &str = "dwcp/pulse";
/// Longest image name in bytes: it may be a path, and this is Linux' `PATH_MAX`.
pub const IMAGE_LEN_MAX: usize = 4096;
/// Longest path of a folder that an image is imported from, in bytes: Linux' `PATH_MAX`.
pub const IMAGE_PATH_LEN_MAX: usize = 4096;
/// Longest kernel command line in bytes: `COMMAND_LINE_SIZE` of Linux on x86, less its NUL.
pub const CMDLINE_LEN_MAX: usize = 2047;
/// Longest name of a VM, node, image or snapshot in bytes.
pub const NAME_LEN_MAX: usize = 128;

/// Most labels, and most annotations, of one VM.
pub const LABELS_MAX: usize = 64;
/// Longest key of a label or annotation in bytes: a DNS name, a slash and a DNS label.
pub const LABEL_KEY_LEN_MAX: usize = 317;
/// Longest value of a label in bytes: labels are compared at every `list`.
pub const LABEL_VALUE_LEN_MAX: usize = 1024;
/// Longest value of an annotation in bytes.
pub const ANNOTATION_VALUE_LEN_MAX: usize = 64 << 10;
/// Most bytes in all keys and values of the labels, and of the annotations: they are part of every
/// reply and event about the VM, and a list of many VMs has to fit a frame of 16 MiB.
pub const LABELS_BYTES_MAX: usize = 256 << 10;

/// Most network interfaces.
pub const INTERFACES_MAX: usize = 16;
/// Longest name of an interface or bridge in bytes: Linux' `IFNAMSIZ` less its NUL.
pub const INTERFACE_NAME_LEN_MAX: usize = 15;
/// Most name servers.
pub const DNS_MAX: usize = 16;
/// Largest VLAN number (IEEE 802.1Q; 4095 is reserved).
pub const VLAN_MAX: u32 = 4094;
/// Least MTU in bytes that IPv4 allows (RFC 791).
pub const MTU_MIN: u32 = 68;
/// Most MTU in bytes: the length of an IPv4 packet has 16 bits.
pub const MTU_MAX: u32 = 65535;

/// Longest cloud-init document in bytes: four times what the large clouds take.
pub const CLOUD_INIT_LEN_MAX: usize = 64 << 10;
/// Longest text in a field that has no limit of its own, in bytes.
pub const TEXT_LEN_MAX: usize = 1024;
/// Most entries in each list of an affinity.
pub const AFFINITY_LIST_MAX: usize = 128;
/// Most host devices.
pub const HOST_DEVICES_MAX: usize = 32;
/// Most CPUs in a pinning, and one more than the largest CPU number: Linux' `NR_CPUS` on x86-64.
pub const HOST_CPUS_MAX: u32 = 8192;
/// Most NUMA nodes, and one more than the largest node number: Linux' `MAX_NUMNODES` on x86-64.
pub const NUMA_NODES_MAX: u32 = 1024;
/// Most I/O threads: one for each virtual queue a VM of this kind can have.
pub const IO_THREADS_MAX: u32 = 128;

/// Downtime limit where none is named, in milliseconds.
pub const MAX_DOWNTIME_DEFAULT_MS: u64 = 500;
/// Largest downtime limit in milliseconds, one hour: beyond it the limit limits nothing.
pub const MAX_DOWNTIME_MS: u64 = 3_600_000;
/// Connections for page data where no number is named.
pub const PARALLEL_DEFAULT: u32 = 4;
/// Most connections for page data of one migration.
pub const PARALLEL_MAX: u32 = 64;
/// Longest time-out of a migration, in seconds: seven days.
pub const TIMEOUT_MAX_SECS: u64 = 7 * 86_400;

/// Longest id in bytes. Ids are UUIDs of 36; no longer text can name anything.
pub const ID_LEN_MAX: usize = 128;
/// Longest idempotency key in bytes: it is stored for every request that carries one.
pub const KEY_LEN_MAX: usize = 128;
/// Most filters of one list or watch: a VM has no more labels.
pub const FILTERS_MAX: usize = LABELS_MAX + 4;
/// Least time between two figures of a stream, in milliseconds: below it reading them would be a
/// load of its own.
pub const METRICS_INTERVAL_MIN_MS: u64 = 1;
/// Most bytes typed on a console at once.
pub const CONSOLE_WRITE_MAX: usize = 64 << 10;
/// Longest name of who types on a console, in bytes: an id, and before it a name that a node puts there.
pub const WRITER_LEN_MAX: usize = 2 * ID_LEN_MAX + 1;
/// Most VMs in one page of a list: some 2 MiB of usual VMs.
pub const LIST_LIMIT_MAX: u32 = 1000;
/// Longest name of a page in bytes: a number and an id.
pub const PAGE_LEN_MAX: usize = 2 * ID_LEN_MAX;
