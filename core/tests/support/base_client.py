"""A client of DWCP/3 that knows the base profile and nothing else, written from the protocol's page.

    base_client.py run  --address HOST:PORT [--key KEY] [--ca FILE]
                        [--target NODE --target-address HOST:PORT] [--encrypt]
    base_client.py idle --address HOST:PORT [--key KEY] --count N

`run` does every base operation and checks every reply; its last line is `OK <n> checks`. With a target
it moves a VM there. `idle` opens connections, says `OPEN <n>`, and holds them until its standard input
ends. Standard library only.
"""

import argparse
import json
import re
import resource
import socket
import ssl
import struct
import sys
import threading
import time
import uuid

AUTH, VM, MIGRATION, METRICS, SNAPSHOT = 0x01, 0x02, 0x04, 0x06, 0x08
CREATE, START, STOP, DESTROY, GET, RESTORE = 16, 17, 18, 19, 20, 23
# What deployed clients would wait for an answer, and a little less than the runner of this waits.
PATIENCE = 60.0

CONFIG_KEYS = set(
    """name memory cpus disk image network cloud_init labels annotations priority affinity enable_gpu
    gpu_type enable_sr_iov enable_tpm enable_secure_boot host_devices cpu_pinning numa_nodes huge_pages
    io_threads memory_max cpu_quota disk_iops_limit network_bandwidth""".split()
)
CAMEL_KEYS = set(
    """cloudInit enableGPU gpuType enableSRIOV enableTPM enableSecureBoot hostDevices cpuPinning
    numaNodes hugePages ioThreads memoryMax cpuQuota diskIOPSLimit networkBandwidth""".split()
)
VM_KEYS = set("id name state config node created_at updated_at labels annotations".split())
METRICS_KEYS = set(
    "cpu_usage memory_used memory_available disk_read disk_write network_rx network_tx timestamp".split()
)
STATUS_KEYS = set(
    """id vm_id source_node target_node state progress bytes_total bytes_sent throughput downtime
    started_at""".split()
)
SNAPSHOT_KEYS = set("id vm_id name description size created_at".split())
VM_STATES = set(
    "creating starting running stopping stopped migrating failed unknown".split()
)
MIGRATION_STATES = set(
    "preparing running completing completed failed cancelled".split()
)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
ERROR = re.compile(r"DWCP error (0x[0-9a-f]{4}) ([a-z_]+): (.+)", re.DOTALL)

checks = 0
checks_lock = threading.Lock()


class Wrong(Exception):
    """The node did not do what the protocol says."""


def check(is_so, what):
    """Counts a check; one that fails ends the run."""
    global checks
    if not is_so:
        raise Wrong(what)
    with checks_lock:
        checks += 1


def equal(found, wanted, what):
    check(found == wanted, f"{what}: {found!r}, not {wanted!r}")


class Plain:
    """Bytes over TCP."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        return self.socket.recv(1 << 16)

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()


class Encrypted(Plain):
    """Bytes over TLS 1.3, by hand: `SSLSocket` cannot half-close and read on."""

    def __init__(self, address, authority):
        super().__init__(address)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(authority)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_hostname=address[0]
        )
        self.until_done(self.tls.do_handshake)
        equal(self.tls.version(), "TLSv1.3", "the version of TLS")

    def flush(self):
        data = self.outgoing.read()
        if data:
            super().send(data)

    def until_done(self, step):
        while True:
            try:
                result = step()
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                data = super().receive()
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def receive(self):
        try:
            return self.until_done(lambda: self.tls.read(1 << 16))
        except ssl.SSLZeroReturnError:
            return b""

    def half_close(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()
        super().half_close()


def frame(kind, request_id, payload, timestamp):
    body = json.dumps(payload).encode() if not isinstance(payload, bytes) else payload
    name = request_id.encode()
    return (
        struct.pack(">IBBQH", 16 + len(name) + len(body), 3, kind, timestamp, len(name))
        + name
        + struct.pack(">I", len(body))
        + body
    )


def read(answer, payload="a request"):
    """An answer that has to be JSON."""
    try:
        return json.loads(answer)
    except ValueError:
        raise Wrong(f"{payload} was answered with {answer[:500]!r}") from None


class Connection:
    """One connection. Requests may be sent in any number before their answers are taken."""

    def __init__(self, options, key=None, milliseconds=False, address=None):
        address = address or options.address
        if options.ca:
            self.bytes = Encrypted(address, options.ca)
        else:
            self.bytes = Plain(address)
        self.milliseconds = milliseconds
        self.buffer = b""
        self.waiting = set()
        self.answers = {}
        if key is not None:
            reply = self.call(AUTH, {"api_key": key, "version": 3})
            equal(reply.get("success"), True, f"AUTH: {reply}")
            check(isinstance(reply.get("message"), str), "AUTH says something")
            check(
                set(reply) <= {"success", "message", "token"},
                f"AUTH says no more than base: {reply}",
            )

    def request(self, kind, payload):
        """The bytes of a request, whose id then waits for its answer."""
        request_id = str(uuid.uuid4())
        self.waiting.add(request_id)
        now = time.time()
        timestamp = int(now * 1000) if self.milliseconds else int(now)
        return request_id, frame(kind, request_id, payload, timestamp)

    def send(self, kind, payload):
        request_id, data = self.request(kind, payload)
        self.bytes.send(data)
        return request_id

    def next_frame(self):
        """The next frame, or None at the end."""
        while True:
            if len(self.buffer) >= 4:
                (length,) = struct.unpack_from(">I", self.buffer)
                check(16 <= length <= 16 << 20, f"a frame of {length} bytes")
                if len(self.buffer) >= 4 + length:
                    data, self.buffer = (
                        self.buffer[4 : 4 + length],
                        self.buffer[4 + length :],
                    )
                    return self.parse(data)
            data = self.bytes.receive()
            if not data:
                equal(self.buffer, b"", "what is left at the end")
                return None
            self.buffer += data

    def parse(self, data):
        version, kind, _, id_length = struct.unpack_from(">BBQH", data)
        equal(version, 3, "the version of a reply")
        equal(kind, VM, "the type of a reply")
        request_id = data[12 : 12 + id_length].decode()
        (length,) = struct.unpack_from(">I", data, 12 + id_length)
        payload = data[16 + id_length :]
        equal(len(payload), length, "the length of a payload")
        check(
            request_id in self.waiting, f"a frame that nobody asked for: {request_id!r}"
        )
        self.waiting.remove(request_id)
        return request_id, payload

    def answer(self, request_id):
        """The answer to a request, as bytes, whatever others come before it."""
        while request_id not in self.answers:
            found = self.next_frame()
            check(
                found is not None, "the node closed the connection instead of answering"
            )
            self.answers[found[0]] = found[1]
        return self.answers.pop(request_id)

    def ask(self, kind, payload):
        return self.answer(self.send(kind, payload))

    def call(self, kind, payload):
        """The answer to a request that has to succeed."""
        return read(self.ask(kind, payload), payload)

    def done(self, kind, payload):
        equal(self.call(kind, payload), {}, f"the answer to {payload}")

    def text_error(self, kind, payload, code, name, says=""):
        """The error of an operation whose reply is parsed: text that is no JSON."""
        answer = self.ask(kind, payload).decode()
        match = ERROR.fullmatch(answer)
        check(match is not None, f"{payload} was answered with {answer[:500]!r}")
        equal(match.groups()[:2], (code, name), f"the error of {payload} ({answer})")
        check(says in match[3], f"{says!r} in {answer!r}")
        return answer

    def object_error(self, kind, payload, code, name):
        """The error of an operation whose reply is not parsed: a JSON object."""
        error = self.call(kind, payload)
        equal(
            (error.get("code"), error.get("name")),
            (code, name),
            f"the error of {payload}: {error}",
        )
        check(
            isinstance(error.get("message"), str) and error["message"],
            f"it says something: {error}",
        )
        check(isinstance(error.get("retryable"), bool), f"retryable: {error}")

    def finish(self, pending=()):
        """Half-closes; what is in flight is answered, and then the node closes, with no frame more."""
        self.bytes.half_close()
        for request_id in pending:
            read(self.answer(request_id))
        equal(self.next_frame(), None, "after the half-close")
        equal(self.waiting, set(), "requests without an answer")
        self.bytes.close()


def keys_of(value, required, optional, what):
    check(isinstance(value, dict), f"{what} is an object: {value!r}")
    check(required <= set(value), f"{what} lacks {required - set(value)}")
    check(
        set(value) <= required | optional,
        f"{what} has {set(value) - required - optional}",
    )


def is_time(value, what):
    check(
        isinstance(value, str) and TIMESTAMP.fullmatch(value) is not None,
        f"{what} is no timestamp: {value!r}",
    )


def is_whole(value, what):
    check(
        isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        f"{what} is no whole number: {value!r}",
    )


def check_config(config, camel):
    keys_of(config, CONFIG_KEYS, CAMEL_KEYS if camel else set(), "a config")
    if camel:
        check(CAMEL_KEYS <= set(config), f"no {CAMEL_KEYS - set(config)} in {config}")
        equal(config["enableGPU"], config["enable_gpu"], "enableGPU")
        equal(config["diskIOPSLimit"], config["disk_iops_limit"], "diskIOPSLimit")
    check(isinstance(config["network"], dict), f"network: {config['network']!r}")
    for key in ("memory", "cpus", "disk", "memory_max", "io_threads"):
        is_whole(config[key], f"config.{key}")


def check_metrics(metrics):
    keys_of(metrics, METRICS_KEYS, set(), "metrics")
    check(
        isinstance(metrics["cpu_usage"], (int, float)), f"cpu_usage: {metrics}"
    )
    for key in METRICS_KEYS - {"cpu_usage", "timestamp"}:
        is_whole(metrics[key], f"metrics.{key}")
    is_time(metrics["timestamp"], "metrics.timestamp")


def check_vm(vm, camel=False):
    keys_of(vm, VM_KEYS, {"started_at", "stopped_at", "metrics"}, "a VM")
    check(vm["state"] in VM_STATES, f"state: {vm['state']!r}")
    check_config(vm["config"], camel)
    equal(vm["name"], vm["config"]["name"], "the name")
    for key in ("created_at", "updated_at", "started_at", "stopped_at"):
        if vm.get(key) is not None:
            is_time(vm[key], key)
    for key in ("labels", "annotations"):
        check(
            all(isinstance(text, str) for pair in vm[key].items() for text in pair),
            f"{key}: {vm[key]!r}",
        )
    if vm.get("metrics") is not None:
        check_metrics(vm["metrics"])
    return vm


def check_status(status):
    keys_of(status, STATUS_KEYS, {"completed_at", "error"}, "a migration status")
    check(status["state"] in MIGRATION_STATES, f"state: {status['state']!r}")
    for key in ("bytes_total", "bytes_sent", "throughput", "downtime"):
        is_whole(status[key], f"status.{key}")
    check(
        isinstance(status["progress"], (int, float)) and 0 <= status["progress"] <= 100,
        f"progress: {status['progress']!r}",
    )
    is_time(status["started_at"], "started_at")
    if status.get("completed_at") is not None:
        is_time(status["completed_at"], "completed_at")
    return status


def check_snapshot(snapshot):
    keys_of(snapshot, SNAPSHOT_KEYS, {"parent", "children"}, "a snapshot")
    is_whole(snapshot["size"], "snapshot.size")
    is_time(snapshot["created_at"], "snapshot.created_at")
    return snapshot


def config(name, **more):
    """What a VM is to be. The annotations make the built-in guest a small one."""
    return {
        "name": name,
        "memory": 32 << 20,
        "cpus": 1,
        "annotations": {"dwcp.pulse/fill": "1048576", "dwcp.pulse/beat-hz": "100"},
        **more,
    }


def create(connection, name, **more):
    reply = connection.call(
        VM, {"operation": CREATE, "request": {"config": config(name, **more)}}
    )
    keys_of(reply, {"vm", "message"}, set(), "the reply to create")
    check(isinstance(reply["message"], str), f"message: {reply['message']!r}")
    return check_vm(reply["vm"], connection.milliseconds)


def get(connection, vm_id):
    vm = connection.call(VM, {"operation": GET, "vm_id": vm_id})
    return check_vm(vm, connection.milliseconds)


def names(connection, filters):
    vms = connection.call(VM, {"operation": GET, "filters": filters})
    check(isinstance(vms, list), f"a list is a bare array: {vms!r}")
    return sorted(check_vm(vm, connection.milliseconds)["name"] for vm in vms)


def operate(connection, vm_id, operation, **more):
    connection.done(VM, {"operation": operation, "vm_id": vm_id, **more})


def lifecycle(connection):
    """create, get, list, start, metrics, stop, destroy, and the errors of each."""
    web = create(
        connection, "base-web", labels={"env": "test", "tier": "web"}, network=None
    )
    equal(web["state"], "stopped", "the state of a new VM")
    equal(web["labels"], {"env": "test", "tier": "web"}, "labels")
    equal(web["config"]["memory"], 32 << 20, "memory")
    # A field may be written in camel case, and be null.
    raw = {**config("base-db"), "memoryMax": 0, "enableGPU": None, "cpuQuota": None}
    raw["labels"] = {"env": "test", "tier": "db"}
    reply = connection.call(VM, {"operation": CREATE, "request": {"config": raw}})
    base_db = check_vm(reply["vm"], connection.milliseconds)
    equal(get(connection, web["id"])["id"], web["id"], "get")

    both = ["base-db", "base-web"]
    equal(names(connection, None), both, "a list without filters")
    equal(names(connection, {}), both, "a list with no filter")
    equal(names(connection, {"env": "test"}), both, "a label that both have")
    equal(names(connection, {"tier": "db"}), ["base-db"], "a label that one has")
    equal(names(connection, {"name": "base-web"}), ["base-web"], "by name")
    equal(names(connection, {"state": "stopped"}), both, "by state")
    equal(names(connection, {"state": "running"}), [], "by a state that none has")
    equal(names(connection, {"image": "dwcp/pulse", "node": web["node"]}), both, "all match")
    equal(names(connection, {"env": "test", "tier": "none"}), [], "one does not match")

    operate(connection, web["id"], START)
    running = get(connection, web["id"])
    equal(running["state"], "running", "the state after start")
    is_time(running.get("started_at"), "started_at")
    check("metrics" in running, "a VM that runs has metrics")
    equal(names(connection, {"state": "running"}), ["base-web"], "what runs")
    for duration in ("5m", "1s", "500ms", "1h30m0s", "100µs"):
        metrics = connection.call(METRICS, {"vm_id": web["id"], "duration": duration})
        check_metrics(metrics)
        equal(
            metrics["memory_used"] + metrics["memory_available"],
            32 << 20,
            "memory used and available",
        )

    bad_duration = {"vm_id": web["id"], "duration": "soon"}
    answer = connection.ask(METRICS, bad_duration).decode()
    check(ERROR.fullmatch(answer) is not None, f"{bad_duration}: {answer!r}")
    in_vain = {"vm_id": base_db["id"], "duration": "5m"}
    connection.text_error(METRICS, in_vain, "0x1005", "invalid_operation")
    refuse(connection, START, web["id"], 0x1005, "invalid_operation")
    refuse(connection, DESTROY, web["id"], 0x1005, "invalid_operation")
    equal(get(connection, web["id"])["state"], "running", "after what was refused")

    operate(connection, web["id"], STOP, force=False)
    equal(get(connection, web["id"])["state"], "stopped", "the state after stop")
    operate(connection, web["id"], START)
    operate(connection, web["id"], STOP, force=True)
    for vm in (web, base_db):
        operate(connection, vm["id"], DESTROY)
    equal(names(connection, None), [], "after destroy")


def refuse(connection, operation, vm_id, code, name):
    payload = {"operation": operation, "vm_id": vm_id}
    connection.object_error(VM, payload, code, name)


def errors(connection):
    """What reaches a client that detects no errors: text where it parses, an object elsewhere."""
    nobody = str(uuid.uuid4())
    gone = ("0x1002", "vm_not_found")
    connection.text_error(VM, {"operation": GET, "vm_id": nobody}, *gone, says=nobody)
    connection.text_error(METRICS, {"vm_id": nobody, "duration": "5m"}, *gone)
    snapshot = {"vm_id": nobody, "name": "s", "options": {"include_memory": True}}
    connection.text_error(SNAPSHOT, snapshot, *gone)
    connection.text_error(SNAPSHOT, {"operation": "list", "vm_id": nobody}, *gone)
    migrate = {"vm_id": nobody, "target_node": "nowhere", "options": {"live": True}}
    connection.text_error(MIGRATION, migrate, *gone)
    status = {"operation": "status", "migration_id": nobody}
    connection.text_error(MIGRATION, status, "0x100b", "not_found")
    for operation in (START, STOP, DESTROY):
        refuse(connection, operation, nobody, 0x1002, "vm_not_found")
    restore = {"operation": RESTORE, "vm_id": nobody, "snapshot_id": nobody}
    connection.object_error(SNAPSHOT, restore, 0x1002, "vm_not_found")

    def refused(code, kind, says, **fields):
        wanted = {"operation": CREATE, "request": {"config": {**config("x"), **fields}}}
        connection.text_error(VM, wanted, code, kind, says)

    refused("0x1008", "invalid_config", "name", name="not a name")
    refused("0x1008", "invalid_config", "memory", memory=1)
    refused("0x1008", "invalid_config", "colour", colour="red")
    refused("0x1009", "unsupported", "enable_tpm", enableTPM=True)
    refused("0x1009", "unsupported", "gpu", enable_gpu=True)
    # No JSON at all, and an operation that there is not: still an answer, and the connection serves on.
    for payload in (b"", b"hello", b"[]", b"{", {"operation": 99}, {"operation": "fly"}):
        answer = connection.ask(VM, payload).decode()
        match = ERROR.fullmatch(answer)
        check(match and match[1] == "0x1001", f"{payload!r}: {answer!r}")
    # What the base profile lacks says so.
    answer = connection.ask(VM, {"operation": "pause", "vm_id": nobody}).decode()
    check("0x1009" in answer or '"code":4105' in answer, f"pause: {answer!r}")
    equal(names(connection, None), [], "after nothing but errors")


def cases(options, key):
    """Keys are copied in camel case for the client whose clock counts milliseconds."""
    seconds, milliseconds = Connection(options, key), Connection(options, key, True)
    vm_id = create(seconds, "base-cases")["id"]
    equal(get(milliseconds, vm_id)["config"]["cpuQuota"], 0, "cpuQuota")
    equal(names(milliseconds, None), ["base-cases"], "a list in both cases")
    equal(names(seconds, None), ["base-cases"], "a list in one case")
    operate(milliseconds, vm_id, DESTROY)
    check_vm(create(milliseconds, "base-cases"), True)
    (vm,) = seconds.call(VM, {"operation": GET, "filters": {"name": "base-cases"}})
    operate(seconds, vm["id"], DESTROY)
    milliseconds.finish()
    seconds.finish()


def migrations(connection, options):
    """migrate and status; without a peer, the error."""
    vm = create(connection, "base-mover")
    operate(connection, vm["id"], START)
    ten = {
        "live": True,
        "offline": False,
        "max_downtime": 500,
        "bandwidth": 0,
        "compression": False,
        "auto_converge": True,
        "post_copy": False,
        "parallel": 2,
        "verify_checksum": True,
        "encrypt_transport": options.encrypt,
    }
    request = {"vm_id": vm["id"], "target_node": "no-such-node", "options": ten}
    answer = connection.ask(MIGRATION, request).decode()
    match = ERROR.fullmatch(answer)
    check(match is not None and "no-such-node" in match[3], f"no peer: {answer!r}")
    equal(get(connection, vm["id"])["state"], "running", "after what was refused")
    if options.target:
        request["target_node"] = options.target
        status = check_status(connection.call(MIGRATION, request))
        equal(status["vm_id"], vm["id"], "vm_id")
        equal(status["target_node"], options.target, "target_node")
        asked = {"operation": "status", "migration_id": status["id"]}
        end = time.monotonic() + PATIENCE
        while status["state"] not in ("completed", "failed", "cancelled"):
            check(time.monotonic() < end, f"it does not end: {status}")
            time.sleep(0.05)
            status = check_status(connection.call(MIGRATION, asked))
        equal(status["state"], "completed", f"the migration: {status}")
        equal(status["progress"], 100, "progress")
        is_time(status.get("completed_at"), "completed_at")
        # The source answers for it still, or says where it is.
        asked = {"operation": GET, "vm_id": vm["id"]}
        answer = connection.ask(VM, asked)
        if answer.startswith(b"DWCP error 0x100c unavailable: "):
            check(options.target.encode() in answer, f"where it is: {answer!r}")
        else:
            equal(read(answer, asked)["node"], options.target, "node")
        connection = Connection(options, options.key, address=options.target_address)
        moved = get(connection, vm["id"])
        equal(moved["node"], options.target, "node")
        equal(moved["state"], "running", "the state after a migration")
    operate(connection, vm["id"], STOP, force=True)
    operate(connection, vm["id"], DESTROY)
    equal(names(connection, None), [], "after a migration")


def snapshots(connection):
    """create, list, restore, delete."""
    vm_id = create(connection, "base-keeper")["id"]
    operate(connection, vm_id, START)
    options = {"include_memory": True, "description": "before", "quiesce": True}
    request = {"vm_id": vm_id, "name": "first", "options": options}
    snapshot = check_snapshot(connection.call(SNAPSHOT, request))
    equal(snapshot["vm_id"], vm_id, "vm_id")
    equal(snapshot["name"], "first", "name")
    equal(snapshot["description"], "before", "description")
    listed = connection.call(SNAPSHOT, {"operation": "list", "vm_id": vm_id})
    equal([check_snapshot(one)["id"] for one in listed], [snapshot["id"]], "list")
    restore = {"operation": RESTORE, "vm_id": vm_id, "snapshot_id": snapshot["id"]}
    connection.done(SNAPSHOT, restore)
    equal(get(connection, vm_id)["state"], "running", "the state after restore")
    delete = {"operation": "delete", "snapshot_id": snapshot["id"]}
    connection.done(SNAPSHOT, delete)
    listed = connection.call(SNAPSHOT, {"operation": "list", "vm_id": vm_id})
    equal(listed, [], "snapshots after delete")
    connection.object_error(SNAPSHOT, delete, 0x100B, "not_found")
    operate(connection, vm_id, STOP, force=True)
    operate(connection, vm_id, DESTROY)


def at_once(connection, vm_id, count):
    """So many calls in flight on one connection, all kinds of them, answered in any order."""
    wanted, data = {}, []
    for number in range(count):
        kinds = [
            (VM, {"operation": GET, "vm_id": vm_id}, check_vm),
            (VM, {"operation": GET, "filters": {"name": "base-busy"}}, None),
            (METRICS, {"vm_id": vm_id, "duration": "1s"}, check_metrics),
            (VM, {"operation": GET, "vm_id": f"no-{number}"}, f"no-{number}"),
        ]
        kind, payload, checker = kinds[number % len(kinds)]
        request_id, one = connection.request(kind, payload)
        wanted[request_id] = checker
        data.append(one)
    connection.bytes.send(b"".join(data))
    for request_id, checker in wanted.items():
        answer = connection.answer(request_id)
        if isinstance(checker, str):
            check(checker.encode() in answer, f"{checker}: {answer!r}")
        elif checker is None:
            equal([vm["id"] for vm in read(answer)], [vm_id], "a list")
        else:
            checker(read(answer))


def concurrency(options, key):
    """200 calls at once: on one connection, and over eight."""
    connection = Connection(options, key)
    vm_id = create(connection, "base-busy")["id"]
    operate(connection, vm_id, START)
    at_once(connection, vm_id, 200)

    failures = []

    def one():
        try:
            own = Connection(options, key)
            at_once(own, vm_id, 25)
            own.finish()
        except Exception as error:  # It is raised below.
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

    # Creates at once are as many VMs.
    creates = []
    for number in range(50):
        wanted = {"config": config(f"base-many-{number}", labels={"many": "1"})}
        creates.append(connection.send(VM, {"operation": CREATE, "request": wanted}))
    made = {read(connection.answer(one))["vm"]["id"] for one in creates}
    equal(len(made), 50, "VMs created at once")
    equal(len(names(connection, {"many": "1"})), 50, "VMs in the list")
    gone = [connection.send(VM, {"operation": DESTROY, "vm_id": one}) for one in made]
    for request_id in gone:
        equal(read(connection.answer(request_id)), {}, "destroy")

    operate(connection, vm_id, STOP, force=True)
    # In flight at the half-close, and answered.
    pending = [connection.send(VM, {"operation": GET, "vm_id": vm_id}) for _ in range(20)]
    pending.append(connection.send(VM, {"operation": DESTROY, "vm_id": vm_id}))
    connection.finish(pending)


def authentication(options):
    """A wrong key, no key, and what follows a refusal."""
    stranger = Connection(options)
    reply = stranger.call(AUTH, {"api_key": "not-the-key-at-all", "version": 3})
    equal(reply.get("success"), False, f"a wrong key: {reply}")
    check(isinstance(reply.get("message"), str) and reply["message"], f"why: {reply}")
    equal(stranger.next_frame(), None, "after the refusal")
    stranger.bytes.close()

    nameless = Connection(options)
    answer = nameless.ask(VM, {"operation": GET, "filters": None}).decode()
    match = ERROR.fullmatch(answer)
    check(match and match[2] == "auth", f"without AUTH: {answer!r}")
    equal(nameless.next_frame(), None, "after the refusal")
    nameless.bytes.close()


def run(options):
    key = options.key
    connection = Connection(options, key)
    equal(names(connection, None), [], "the node is a new one")
    lifecycle(connection)
    errors(connection)
    migrations(connection, options)
    snapshots(connection)
    cases(options, key)
    concurrency(options, key)
    if key is not None:
        authentication(options)
        again = connection.call(AUTH, {"api_key": key, "version": 3})
        check(again.get("success") is not True, f"a second AUTH: {again}")
    equal(names(connection, None), [], "what is left")
    connection.finish()
    # A connection that asks nothing closes as cleanly.
    Connection(options, key).finish()
    print(f"OK {checks} checks")


def idle(options):
    """Holds connections that say nothing."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = options.count + 64 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(options.count + 64, most), hard))
    held = []
    for _ in range(min(options.count, most - 64)):
        one = Connection(options, options.key)
        held.append(one)
    # The last one was accepted, and so all before it.
    if options.key is None and held:
        equal(names(held[-1], None), [], "the last one is served")
    print(f"OPEN {len(held)}", flush=True)
    sys.stdin.read()


def address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("run", "idle"))
    parser.add_argument("--address", required=True, type=address)
    parser.add_argument("--key")
    parser.add_argument("--ca")
    parser.add_argument("--target")
    parser.add_argument("--target-address", type=address)
    parser.add_argument("--encrypt", action="store_true")
    parser.add_argument("--count", type=int, default=0)
    options = parser.parse_args()
    try:
        {"run": run, "idle": idle}[options.mode](options)
    except Wrong as error:
        sys.exit(f"WRONG after {checks} checks: {error}")


if __name__ == "__main__":
    main()
