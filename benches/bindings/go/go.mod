module bench

go 1.21

require github.com/novacron/dwcp-sdk-go v0.0.0

replace github.com/novacron/dwcp-sdk-go => ../../../bindings/go
