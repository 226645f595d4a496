//go:build dwcp_pkgconfig

package dwcp

// An installed library, which pkg-config finds by the name dwcp.

// #cgo pkg-config: dwcp
import "C"
