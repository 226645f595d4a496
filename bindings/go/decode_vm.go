package dwcp

func (r *reader) vms() []VM {
	list := []VM{}
	for first := true; r.item(&first); {
		list = append(list, VM{})
		r.vm(&list[len(list)-1])
	}
	return list
}

func (r *reader) vm(vm *VM) {
	var name []byte
	for first := true; r.next(&name, &first); {
		switch string(name) {
		case "id":
			vm.ID = r.known(&r.last.id)
		case "name":
			vm.Name = r.known(&r.last.name)
		case "state":
			vm.State = r.state()
		case "config":
			r.last.config.read(r, &vm.Config, (*reader).config, (*VMConfig).clone)
		case "node":
			vm.Node = r.known(&r.last.node)
		case "created_at":
			vm.CreatedAt = r.time()
		case "updated_at":
			vm.UpdatedAt = r.time()
		case "started_at":
			vm.StartedAt = r.maybeTime()
		case "stopped_at":
			vm.StoppedAt = r.maybeTime()
		case "metrics":
			if !r.null() {
				vm.Metrics = new(VMMetrics)
				r.metrics(vm.Metrics)
			}
		case "labels":
			r.last.labels.read(r, &vm.Labels, (*reader).pairsInto, clonePairs)
		case "annotations":
			r.last.annotations.read(r, &vm.Annotations, (*reader).pairsInto, clonePairs)
		case "reason":
			vm.Reason = r.text()
		case "addresses":
			vm.Addresses = r.texts()
		default:
			r.skip(0)
		}
	}
}

// state reads a state; the usual ones without memory of their own.
func (r *reader) state() VMState {
	if r.null() {
		return ""
	}
	start := r.at
	text, _ := r.raw()
	switch string(text) {
	case string(VMStateRunning):
		return VMStateRunning
	case string(VMStateStopped):
		return VMStateStopped
	}
	if r.bad {
		return ""
	}
	r.at = start
	return VMState(r.text())
}

func (r *reader) config(config *VMConfig) {
	var name []byte
	for first := true; r.next(&name, &first); {
		switch string(name) {
		case "name":
			config.Name = r.text()
		case "memory":
			config.Memory = r.unsigned()
		case "cpus":
			config.CPUs = r.int()
		case "disk":
			config.Disk = r.unsigned()
		case "image":
			config.Image = r.text()
		case "network":
			r.network(&config.Network)
		case "cloud_init":
			config.CloudInit = r.text()
		case "labels":
			config.Labels = r.pairs()
		case "annotations":
			config.Annotations = r.pairs()
		case "priority":
			config.Priority = r.int()
		case "affinity":
			if !r.null() {
				config.Affinity = new(Affinity)
				r.affinity(config.Affinity)
			}
		case "enable_gpu":
			config.EnableGPU = r.flag()
		case "gpu_type":
			config.GPUType = r.text()
		case "enable_sr_iov":
			config.EnableSRIOV = r.flag()
		case "enable_tpm":
			config.EnableTPM = r.flag()
		case "enable_secure_boot":
			config.EnableSecureBoot = r.flag()
		case "host_devices":
			config.HostDevices = r.texts()
		case "cpu_pinning":
			config.CPUPinning = r.ints()
		case "numa_nodes":
			config.NUMANodes = r.ints()
		case "huge_pages":
			config.HugePages = r.flag()
		case "io_threads":
			config.IOThreads = r.int()
		case "memory_max":
			config.MemoryMax = r.unsigned()
		case "cpu_quota":
			config.CPUQuota = r.int()
		case "disk_iops_limit":
			config.DiskIOPSLimit = r.unsigned()
		case "network_bandwidth":
			config.NetworkBandwidth = r.unsigned()
		default:
			r.skip(0)
		}
	}
}

func (r *reader) network(network *NetworkConfig) {
	var name []byte
	for first := true; r.next(&name, &first); {
		switch string(name) {
		case "mode":
			network.Mode = r.text()
		case "interfaces":
			for first := true; r.item(&first); {
				network.Interfaces = append(network.Interfaces, NetIf{})
				r.netIf(&network.Interfaces[len(network.Interfaces)-1])
			}
		case "dns":
			network.DNS = r.texts()
		case "gateway":
			network.Gateway = r.text()
		case "mtu":
			network.MTU = r.int()
		default:
			r.skip(0)
		}
	}
}

func (r *reader) netIf(nic *NetIf) {
	var name []byte
	for first := true; r.next(&name, &first); {
		switch string(name) {
		case "name":
			nic.Name = r.text()
		case "type":
			nic.Type = r.text()
		case "mac":
			nic.MAC = r.text()
		case "bridge":
			nic.Bridge = r.text()
		case "vlan":
			nic.VLAN = r.int()
		case "ip_address":
			nic.IPAddress = r.text()
		case "netmask":
			nic.Netmask = r.text()
		case "bandwidth":
			nic.Bandwidth = r.unsigned()
		default:
			r.skip(0)
		}
	}
}

func (r *reader) affinity(affinity *Affinity) {
	var name []byte
	for first := true; r.next(&name, &first); {
		switch string(name) {
		case "node_selector":
			affinity.NodeSelector = r.pairs()
		case "required_nodes":
			affinity.RequiredNodes = r.texts()
		case "preferred_nodes":
			affinity.PreferredNodes = r.texts()
		case "anti_affinity_vms":
			affinity.AntiAffinityVMs = r.texts()
		case "require_same_host":
			affinity.RequireSameHost = r.texts()
		default:
			r.skip(0)
		}
	}
}

func (r *reader) metrics(metrics *VMMetrics) {
	var name []byte
	for first := true; r.next(&name, &first); {
		switch string(name) {
		case "cpu_usage":
			metrics.CPUUsage = r.float()
		case "memory_used":
			metrics.MemoryUsed = r.unsigned()
		case "memory_available":
			metrics.MemoryAvailable = r.unsigned()
		case "disk_read":
			metrics.DiskRead = r.unsigned()
		case "disk_write":
			metrics.DiskWrite = r.unsigned()
		case "network_rx":
			metrics.NetworkRx = r.unsigned()
		case "network_tx":
			metrics.NetworkTx = r.unsigned()
		case "timestamp":
			metrics.Timestamp = r.time()
		case "dirty_pages_per_second":
			if !r.null() {
				value := r.float()
				metrics.DirtyPagesPerSecond = &value
			}
		case "vm_exits":
			metrics.VMExits = r.unsigned()
		case "steal_time_us":
			if !r.null() {
				value := r.unsigned()
				metrics.StealTimeUs = &value
			}
		case "stall_us":
			metrics.StallUs = r.unsigned()
		default:
			r.skip(0)
		}
	}
}

func (r *reader) event(event *VMEvent) {
	var name []byte
	for first := true; r.next(&name, &first); {
		switch string(name) {
		case "seq":
			event.Seq = r.unsigned()
		case "type":
			event.Type = VMEventType(r.known(&r.last.kind))
		case "vm":
			r.vm(&event.VM)
		case "timestamp":
			event.Timestamp = r.time()
		case "message":
			event.Message = r.known(&r.last.message)
		case "store":
			event.Store = r.text()
		case "count":
			event.Count = r.unsigned()
		case "next":
			event.Next = r.unsigned()
		default:
			r.skip(0)
		}
	}
}
