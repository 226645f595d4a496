// Connection management, reuse and pooling, and the key from the environment.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/novacron/dwcp-sdk-go"
	"github.com/novacron/dwcp-sdk-go/examples/guide/internal/setup"
)

type ClientPool struct {
	clients []*dwcp.Client
	mu      sync.Mutex
	idx     int
}

func (p *ClientPool) Get() *dwcp.Client {
	p.mu.Lock()
	defer p.mu.Unlock()

	client := p.clients[p.idx]
	p.idx = (p.idx + 1) % len(p.clients)
	return client
}

func main() {
	ctx := context.Background()
	config := setup.Config()

	// Good
	config.APIKey = os.Getenv("DWCP_API_KEY")

	// Good: one connection for all
	client, err := dwcp.NewClient(config)
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	defer client.Disconnect()

	pool := ClientPool{clients: []*dwcp.Client{client, setup.Client(ctx)}}
	defer pool.clients[1].Disconnect()
	for i := 0; i < 4; i++ {
		if _, err := pool.Get().VM().List(ctx, nil); err != nil {
			log.Fatal(err)
		}
	}

	// Check connection status
	if client.IsConnected() {
		fmt.Println("Connected")
	}

	if client.IsAuthenticated() {
		fmt.Println("Authenticated")
	}

	// Get client metrics
	metrics := client.GetMetrics()
	fmt.Printf("Messages sent: %d\n", metrics.MessagesSent)
	fmt.Printf("Messages received: %d\n", metrics.MessagesReceived)
	fmt.Printf("Bytes sent: %d\n", metrics.BytesSent)
	fmt.Printf("Bytes received: %d\n", metrics.BytesReceived)
	fmt.Printf("Errors: %d\n", metrics.ErrorsTotal)
	if metrics.MessagesSent == 0 || !client.IsConnected() || !client.IsAuthenticated() {
		log.Fatal("not connected")
	}
}
