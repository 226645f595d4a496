package dwcp

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

const fullVM = `{"id":"7","name":"w\"\u00fcb","state":"failed","config":{"name":"web","memory":67108864,"cpus":2,
 "disk":18446744073709551615,"image":"dwcp/pulse","network":{"mode":"bridge","interfaces":[{"name":"eth0",
 "type":"virtio","mac":"m","bridge":"b","vlan":7,"ip_address":"1.2.3.4","netmask":"24","bandwidth":9,"speed":[{}]}],
 "dns":["8.8.8.8","x"],"gateway":"g","mtu":1500},"cloud_init":"c","labels":{"a.b":"c","é":"ü"},
 "annotations":{"x":"y"},"priority":-5,"affinity":{"node_selector":{"zone":"a"},"required_nodes":["n"],
 "preferred_nodes":["p"],"anti_affinity_vms":["v"],"require_same_host":["w"]},"enable_gpu":true,"gpu_type":"g",
 "enable_sr_iov":true,"enable_tpm":true,"enable_secure_boot":true,"host_devices":["d"],"cpu_pinning":[0,1],
 "numa_nodes":[3],"huge_pages":true,"io_threads":4,"memory_max":5,"cpu_quota":90,"disk_iops_limit":6,
 "network_bandwidth":8},"node":"n","created_at":"2026-11-20T21:08:15.123456+00:00",
 "updated_at":"2024-02-29T23:59:59.000001+00:00","started_at":"2026-01-31T00:00:00.5+01:00","stopped_at":null,
 "metrics":{"cpu_usage":12.5e0,"memory_used":1,"memory_available":2,"disk_read":3,"disk_write":4,"network_rx":5,
 "network_tx":6,"timestamp":"2026-11-20T21:08:15.123456+00:00","dirty_pages_per_second":null,"vm_exits":7,
 "steal_time_us":8,"stall_us":9},"labels":{"env":"prod"},"annotations":{"k":"v"},"reason":"triple fault",
 "addresses":["10.0.0.2"],"mood":{"good":[true,false,null,-1.5e3,"\"",{}]}}`

// readBoth reads JSON by hand and by tags.
func readBoth[T any](t *testing.T, text string, by func(*reader, *T)) (hand, tags T, failed error) {
	t.Helper()
	failed = decode([]byte(text), func(r *reader) { by(r, &hand) })
	if err := json.Unmarshal([]byte(text), &tags); (err == nil) != (failed == nil) {
		t.Fatalf("%s: %v, by tags %v", text, failed, err)
	}
	return hand, tags, failed
}

// utc makes times comparable.
func utc(t *testing.T, value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "2026-01-31T00:00:00.5+01:00", "2026-01-30T23:00:00.5Z")
}

func TestTheReaderReadsAsTheTagsSay(t *testing.T) {
	hand, tags, err := readBoth(t, fullVM, (*reader).vm)
	if err != nil || utc(t, hand) != utc(t, tags) || hand.Config.Labels["é"] != "ü" || hand.Name != "w\"üb" {
		t.Fatalf("%v\n%s\n%s", err, utc(t, hand), utc(t, tags))
	}
	// Every field of the types is in the text above, and so in the reader.
	var empty []string
	var visit func(path string, value reflect.Value)
	visit = func(path string, value reflect.Value) {
		if value.Kind() == reflect.Pointer && !value.IsNil() {
			value = value.Elem()
		}
		if value.Kind() == reflect.Struct && value.Type() != reflect.TypeOf(time.Time{}) {
			for i := 0; i < value.NumField(); i++ {
				visit(path+"."+value.Type().Field(i).Name, value.Field(i))
			}
		} else if value.IsZero() {
			empty = append(empty, path)
		}
	}
	visit("VM", reflect.ValueOf(hand))
	visit("NetIf", reflect.ValueOf(hand.Config.Network.Interfaces[0]))
	want := []string{"VM.StoppedAt", "VM.Metrics.DirtyPagesPerSecond"}
	if !reflect.DeepEqual(empty, want) {
		t.Fatal(empty)
	}
	event := `{"seq":3,"type":"lost","vm":` + fullVM + `,"timestamp":"2026-11-20T21:08:15Z","message":"m","store":"s",
		"count":7,"next":40}`
	handEvent, tagsEvent, err := readBoth(t, event, (*reader).event)
	if err != nil || utc(t, handEvent) != utc(t, tagsEvent) || handEvent.Next != 40 || handEvent.Store != "s" {
		t.Fatalf("%v %+v", err, handEvent)
	}
}

func TestWhatIsReadAgainIsEqualAndApart(t *testing.T) {
	read := func(text string) (vm VM) {
		t.Helper()
		// Not that of the pool, which another test may have had.
		r := reader{json: []byte(text)}
		for i := 0; i < 3; i++ {
			r.at, vm = 0, VM{}
			r.vm(&vm)
		}
		if r.bad || !strings.Contains(text, string(r.last.config.text)) || len(r.last.config.text) < 2 {
			t.Fatal("not read again")
		}
		other := VM{}
		r.at = 0
		r.vm(&other)
		if !reflect.DeepEqual(vm, other) {
			t.Fatalf("%+v\n%+v", vm, other)
		}
		apart(t, "VM", reflect.ValueOf(vm), reflect.ValueOf(other))
		return vm
	}
	var tags VM
	if err := json.Unmarshal([]byte(fullVM), &tags); err != nil {
		t.Fatal(err)
	}
	if vm := read(fullVM); utc(t, vm) != utc(t, tags) {
		t.Fatalf("%s\n%s", utc(t, vm), utc(t, tags))
	}
	if vm := read(`{"config":{},"labels":{},"annotations":{}}`); !reflect.DeepEqual(vm, VM{}) {
		t.Fatalf("%+v", vm)
	}
	r := reader{}
	for _, name := range []string{"a", "b", "b", "", "ü"} {
		r.json, r.at = []byte(`{"id":"`+name+`","config":{"name":"`+name+`"},"labels":{"n":"`+name+`"}}`), 0
		var vm VM
		r.vm(&vm)
		if r.bad || vm.ID != name || vm.Config.Name != name || vm.Labels["n"] != name {
			t.Fatalf("%s: %+v", name, vm)
		}
	}
}

// apart fails where two values share something that can be changed.
func apart(t *testing.T, path string, a, b reflect.Value) {
	t.Helper()
	switch a.Kind() {
	case reflect.Struct:
		for i := 0; i < a.NumField(); i++ {
			if field := a.Type().Field(i); field.IsExported() {
				apart(t, path+"."+field.Name, a.Field(i), b.Field(i))
			}
		}
	case reflect.Map, reflect.Slice, reflect.Pointer:
		if !a.IsNil() && a.Pointer() == b.Pointer() {
			t.Errorf("%s is shared", path)
		}
		if a.Kind() == reflect.Pointer && !a.IsNil() {
			apart(t, path, a.Elem(), b.Elem())
		}
	}
}

func TestWhatIsCutOffIsAnError(t *testing.T) {
	for cut := range fullVM {
		var vm VM
		err := decode([]byte(fullVM[:cut]), func(r *reader) { r.vm(&vm) })
		if !errors.Is(err, ErrSerialization) {
			t.Fatalf("%d: %v", cut, err)
		}
	}
	for _, text := range []string{
		`{}x`, `{"id":7}`, `{"id":"a",}`, `{,}`, `{"config":{"cpus":"2"}}`, `{"config":{"memory":-1}}`,
		`{"config":{"memory":18446744073709551616}}`, `{"created_at":"yesterday"}`, "{\"id\":\"\n\"}", `[]`,
		`{"addresses":["a",]}`, `{"x":tru}`, `{"config":{"enable_gpu":1}}`, `{"created_at":"2026-02-30T00:00:00.000000+00:00"}`,
	} {
		if _, _, err := readBoth(t, text, (*reader).vm); err == nil {
			t.Errorf("%s was read", text)
		}
	}
	if _, _, err := readBoth(t, ` { "id" : null , "config" : null, "labels": {} , "addresses" : [ ] } `, (*reader).vm); err != nil {
		t.Error(err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(fullVM))
	f.Add([]byte(`{"id":"\ud800"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var hand, tags VM
		if decode(text, func(r *reader) { r.vm(&hand) }) != nil {
			return
		}
		if err := json.Unmarshal(text, &tags); err != nil && json.Valid(text) {
			t.Fatalf("%s: %v", text, err)
		}
	})
}

func TestEveryCodeOfTheHeaderHasItsError(t *testing.T) {
	header, err := os.ReadFile("dwcp.h")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`#define DWCP_ERR_(\w+) `).FindAllStringSubmatch(string(header), -1)
	seen := map[error]bool{}
	for _, name := range names {
		code := ErrorCode(strings.ToLower(name[1]))
		told := &Error{Code: code, Message: "m"}
		sentinel := code.sentinel()
		if sentinel == nil || seen[sentinel] || !errors.Is(told.typed(), sentinel) {
			t.Errorf("%s has no error of its own", code)
		}
		seen[sentinel] = true
		if errors.Is(told, ErrVMNotFound) != (code == CodeVMNotFound) {
			t.Errorf("%s", code)
		}
		if _, connection := told.typed().(*ConnectionError); connection != (code == CodeConnection) {
			t.Errorf("%s", code)
		}
	}
	if len(seen) < 21 {
		t.Fatalf("only %d codes", len(seen))
	}
	if errors.Is(&Error{Code: "novel"}, nil) {
		t.Fatal("an unknown code is nil")
	}
}

func TestTheHeaderAndTheVersionAreThoseOfTheProject(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if read("dwcp.h") != read("../../include/dwcp.h") {
		t.Error("dwcp.h is not include/dwcp.h: copy it")
	}
	version := regexp.MustCompile(`(?m)^version = "(.*)"`).FindStringSubmatch(read("../../Cargo.toml"))
	if len(version) != 2 || version[1] != Version() {
		t.Error(version, Version())
	}
}

func TestFailuresAreKeptWithALimit(t *testing.T) {
	var c Client
	first := make(<-chan int)
	c.failed.add(first, ErrTimeout)
	if c.Err(first) != ErrTimeout {
		t.Fatal("not kept")
	}
	for i := 0; i < failuresMax; i++ {
		c.failed.add(make(<-chan int), ErrTimeout)
	}
	if c.Err(first) != nil || len(c.failed.errs) != failuresMax || len(c.failed.oldest) != failuresMax {
		t.Fatal("kept for ever")
	}
}

// usualEvent is an item of a watch as nodes write it, of a VM that asks for little.
const usualEvent = `{"seq":41,"type":"started","vm":{"id":"e4cc93f5-95fa-4cb1-ba74-b1c0a3d48a8e","name":"web",` +
	`"state":"running","config":{"name":"web","memory":67108864,"cpus":2,"disk":0,"image":"dwcp/pulse","network":` +
	`{"mode":"","interfaces":[],"dns":[],"gateway":"","mtu":0},"cloud_init":"","labels":{"env":"production"},` +
	`"annotations":{},"priority":0,"affinity":null,"enable_gpu":false,"gpu_type":"","enable_sr_iov":false,` +
	`"enable_tpm":false,"enable_secure_boot":false,"host_devices":[],"cpu_pinning":[],"numa_nodes":[],` +
	`"huge_pages":false,"io_threads":0,"memory_max":0,"cpu_quota":0,"disk_iops_limit":0,"network_bandwidth":0},` +
	`"node":"node-01","created_at":"2026-11-20T21:42:12.277734+00:00","updated_at":"2026-11-20T21:42:12.283868+00:00",` +
	`"started_at":"2026-11-20T21:42:12.283868+00:00","labels":{"env":"production"},"annotations":{}},` +
	`"timestamp":"2026-11-20T21:42:12.283868+00:00","message":"its vCPUs run"}`

func BenchmarkReadEvent(b *testing.B) {
	text := []byte(usualEvent)
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			var event VMEvent
			if err := decode(text, func(r *reader) { r.event(&event) }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("by tags", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			var event VMEvent
			if err := json.Unmarshal(text, &event); err != nil {
				b.Fatal(err)
			}
		}
	})
}
