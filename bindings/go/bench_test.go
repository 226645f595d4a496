package dwcp_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

// What a call costs in the process of the node.
func BenchmarkGet(b *testing.B) {
	client := must[*dwcp.Client](b)(newNode(b).Client())
	vm := newVM(b, client, false)
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for name, ctx := range map[string]context.Context{
		"sequential": context.Background(), "cancellable": cancellable,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				if _, err := client.VM().Get(ctx, vm.ID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("500", func(b *testing.B) {
		var calls sync.WaitGroup
		work := make(chan struct{}, 500)
		for i := 0; i < 500; i++ {
			calls.Add(1)
			go func() {
				defer calls.Done()
				for range work {
					if _, err := client.VM().Get(cancellable, vm.ID); err != nil {
						b.Error(err)
					}
				}
			}()
		}
		for i := 0; i < b.N; i++ {
			work <- struct{}{}
		}
		close(work)
		calls.Wait()
	})
}

// The same over a connection on loopback.
func BenchmarkGetOverAConnection(b *testing.B) {
	client := connected(b, configFor(b, newNode(b)))
	vm := newVM(b, client, false)
	for i := 0; i < b.N; i++ {
		if _, err := client.VM().Get(context.Background(), vm.ID); err != nil {
			b.Fatal(err)
		}
	}
}

// What an item of a watch costs, with the update that causes it.
func BenchmarkWatch(b *testing.B) {
	client := must[*dwcp.Client](b)(newNode(b, func(c *dwcp.NodeConfig) { c.EventRing = 100_000 }).Client())
	vm := newVM(b, client, false)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	events := must[<-chan dwcp.VMEvent](b)(client.VM().Watch(ctx, vm.ID))
	<-events
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		if _, err := client.VM().Update(ctx, vm.ID, map[string]string{"env": "x"}, nil); err != nil {
			b.Fatal(err)
		}
		<-events
	}
}
