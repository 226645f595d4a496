// Quick Start: connects to a node.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/novacron/dwcp-sdk-go"
)

func main() {
	// Create configuration
	config := dwcp.DefaultConfig()
	config.Address = os.Getenv("DWCP_ADDRESS")
	config.Port, _ = strconv.Atoi(os.Getenv("DWCP_PORT"))
	config.APIKey = os.Getenv("DWCP_API_KEY")
	config.CAFile = os.Getenv("DWCP_CA_FILE")
	config.TLSEnabled = config.CAFile != ""

	// Create client
	client, err := dwcp.NewClient(config)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Disconnect()

	// Connect to server
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	fmt.Println("Connected to DWCP server")
}
