// Package dwcp runs virtual machines on KVM and moves them, live, between hosts: a client of nodes, and
// nodes to embed.
//
//	config := dwcp.DefaultConfig()
//	config.Address = "node-01.example.com"
//	client, err := dwcp.NewClient(config)
//	...
//	err = client.Connect(ctx)
//	vm, err := client.VM().Create(ctx, dwcp.VMConfig{Name: "web"})
//
// Every call takes a context first: when it ends, the call is taken back at the node too. Streams are
// channels, closed when their context ends. Errors are *Error, and errors.Is compares them with the Err
// values.
//
// It is a layer over the project's C library, which is linked in: see the README for how it is found.
package dwcp
