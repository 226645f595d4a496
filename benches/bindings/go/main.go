// The calls of `cargo xtask bench bindings` in Go: what to do comes line by line, what it took goes back as JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

// calls are a VM that is stopped, and what happens to it.
type calls struct {
	ctx    context.Context
	vms    *dwcp.VMClient
	id     string
	events <-chan dwcp.VMEvent
}

// watch opens the stream, and makes so many events: they wait at the node.
func (c *calls) watch(count int) context.CancelFunc {
	ctx, stop := context.WithCancel(c.ctx)
	var err error
	if c.events, err = c.vms.Watch(ctx, c.id); err != nil {
		log.Fatal(err)
	}
	for i := 0; i < count; i++ {
		labels := map[string]string{"env": fmt.Sprintf("production-%d", i%10), "tier": "web"}
		if _, err := c.vms.Update(ctx, c.id, labels, nil); err != nil {
			log.Fatal(err)
		}
	}
	return stop
}

func (c *calls) get() dwcp.VM {
	vm, err := c.vms.Get(c.ctx, c.id)
	if err != nil {
		log.Fatal(err)
	}
	return *vm
}

func (c *calls) seq(count int) {
	for ; count > 0; count-- {
		vm := c.get()
		check(vm.State == dwcp.VMStateStopped)
	}
}

func (c *calls) whole(count int) {
	for ; count > 0; count-- {
		vm := c.get()
		whole(&vm)
	}
}

func (c *calls) atOnce(count int) {
	var all sync.WaitGroup
	all.Add(count)
	for ; count > 0; count-- {
		go func() {
			defer all.Done()
			vm := c.get()
			check(vm.State == dwcp.VMStateStopped)
		}()
	}
	all.Wait()
}

func (c *calls) items(count int) {
	for ; count > 0; count-- {
		event := <-c.events
		check(event.Seq > 0)
	}
}

func (c *calls) wholeItems(count int) {
	for ; count > 0; count-- {
		event := <-c.events
		whole(&event.VM)
	}
}

func whole(vm *dwcp.VM) {
	check(vm.Config.Memory > 0 && vm.Config.Labels["tier"] == "web")
	check(vm.Labels["tier"] == "web" && vm.Annotations["owner"] != "")
	check(!vm.UpdatedAt.Before(vm.CreatedAt))
}

func check(holds bool) {
	if !holds {
		log.Fatal("the node says something else than it was told")
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func say(what any) {
	text, err := json.Marshal(what)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

func main() {
	ctx, end := context.WithCancel(context.Background())
	defer end()
	events := number(os.Args[1])
	node, err := dwcp.StartNode(ctx, dwcp.NodeConfig{Name: "bench", Backend: "sim", EventRing: events})
	if err != nil {
		log.Fatal(err)
	}
	client, err := node.Client()
	if err != nil {
		log.Fatal(err)
	}
	vms := client.VM()
	vm, err := vms.Create(ctx, dwcp.VMConfig{
		Name: "web-server-01", Memory: 64 << 20, CPUs: 1, Image: "dwcp/pulse",
		Labels:      map[string]string{"env": "production", "tier": "web"},
		Annotations: map[string]string{"owner": "platform@example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	c := &calls{ctx: ctx, vms: vms, id: vm.ID}
	works := map[string]func(int){
		"seq": c.seq, "seq-whole": c.whole, "500": c.atOnce, "stream-item": c.items, "stream-item-whole": c.wholeItems,
	}
	say(map[string]string{"version": runtime.Version()})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var name string
		var count, block int
		if _, err := fmt.Sscan(lines.Text(), &name, &count, &block); err != nil {
			log.Fatal(err)
		}
		stop := func() {}
		if strings.HasPrefix(name, "stream") {
			stop = c.watch(count + block)
		}
		// The first block is not measured: what was fetched ahead is read with it.
		works[name](block)
		times := []float64{}
		for at := 0; at < count/block; at++ {
			began := time.Now()
			works[name](block)
			times = append(times, float64(time.Since(began).Nanoseconds())/1e3/float64(block))
		}
		stop()
		say(times)
	}
	if err := node.Shutdown(ctx, 0); err != nil {
		log.Fatal(err)
	}
}
